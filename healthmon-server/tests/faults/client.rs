//! A WebSocket client that keeps its place and reconnects, now to one node and now to another.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

/// What the client was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// Entries of the log, in the order they came.
    pub(crate) entries: Vec<Value>,
    pub(crate) resets: Vec<Value>,
    pub(crate) connections: u64,
}

pub(crate) struct Client {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

impl Client {
    pub(crate) fn follow(nodes: Vec<SocketAddr>) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        Self { task: tokio::spawn(follow(nodes, Arc::clone(&heard))), heard }
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().expect("unpoisoned").clone()
    }

    pub(crate) fn last(&self) -> u64 {
        last(&self.heard.lock().expect("unpoisoned"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn last(heard: &Heard) -> u64 {
    heard.entries.last().and_then(|entry| entry["seq"].as_u64()).unwrap_or(0)
}

async fn follow(nodes: Vec<SocketAddr>, heard: Arc<Mutex<Heard>>) {
    for address in nodes.iter().cycle() {
        let after = last(&heard.lock().expect("unpoisoned"));
        let kinds = "transition,blind,paused,maintenance";
        let url = format!("ws://{address}/api/v1/events?after={after}&kinds={kinds}");
        let connected = tokio::time::timeout(Duration::from_secs(3), tokio_tungstenite::connect_async(url)).await;
        let Ok(Ok((mut socket, _))) = connected else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        heard.lock().expect("unpoisoned").connections += 1;
        // Servers ping more often than this; a node that says nothing is one to leave.
        while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(40), socket.next()).await {
            let Message::Text(text) = message else { continue };
            let Ok(event) = serde_json::from_str::<Value>(&text) else { continue };
            let mut heard = heard.lock().expect("unpoisoned");
            match event["type"].as_str() {
                Some("hello") => {}
                Some("reset") => heard.resets.push(event),
                _ => heard.entries.push(event),
            }
        }
    }
}
