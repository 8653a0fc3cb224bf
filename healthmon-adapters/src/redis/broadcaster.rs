use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fred::types::Value;
use healthmon_core::{
    id::Revision,
    ports::{Broadcaster, Hint, Hints, QueueError},
    status::LogEntry,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, broadcast},
    task::AbortHandle,
};

use super::{
    RedisOptions,
    connection::{Connection, News, RedisError, Subscription},
    queue::nonce,
};

/// How many hints wait for a subscriber that does not read, and how many for the connection.
const CAPACITY: usize = 4_096;
/// How many bytes of hints wait for the connection.
const CAPACITY_BYTES: usize = 8 << 20;
/// How many bytes of hints go out at once.
const BATCH_BYTES: usize = 256 << 10;
/// Of how many nodes it is remembered what they said last.
const NODES: usize = 4_096;

/// Hints over Redis's publish and subscribe.
///
/// Subscribers of the same broadcaster hear at once, whatever becomes of Redis; those of other nodes
/// when the hint has come through. Each hint has its node's number, so that a subscriber knows when
/// one is missing, and says [`Hint::Lost`].
pub struct RedisBroadcaster {
    hints: broadcast::Sender<Hint>,
    outbox: Arc<Outbox>,
    publisher: AbortHandle,
    _subscription: Subscription,
}

/// A hint on its way.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Log(Arc<[LogEntry]>),
    Services(Revision),
    Lost,
}

/// What one node says at once: its hints, each with its number.
#[derive(Deserialize)]
struct Message<'a> {
    node: &'a str,
    hints: Vec<(u64, serde_json::Value)>,
}

/// Hints that wait for the connection.
#[derive(Default)]
struct Outbox {
    inner: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    said: u64,
    hints: VecDeque<(u64, String)>,
    bytes: usize,
}

impl Outbox {
    fn inner(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits: what does not fit is dropped, and its number is missing.
    fn put(&self, hint: &str) {
        let mut inner = self.inner();
        inner.said += 1;
        if inner.hints.len() < CAPACITY && inner.bytes + hint.len() <= CAPACITY_BYTES {
            let number = inner.said;
            inner.bytes += hint.len();
            inner.hints.push_back((number, hint.to_owned()));
        }
        drop(inner);
        self.more.notify_one();
    }

    /// The next hints, as one message.
    fn take(&self, node: &str) -> Option<String> {
        let mut inner = self.inner();
        let mut message = format!(r#"{{"node":"{node}","hints":["#);
        let empty = message.len();
        while message.len() < BATCH_BYTES
            && let Some((number, hint)) = inner.hints.pop_front()
        {
            inner.bytes -= hint.len();
            let comma = if message.len() > empty { "," } else { "" };
            message.push_str(&format!("{comma}[{number},{hint}]"));
        }
        (message.len() > empty).then(|| message + "]}")
    }
}

/// What other nodes say.
struct Listener {
    node: String,
    hints: broadcast::Sender<Hint>,
    /// The number of the last hint heard of each node.
    heard: HashMap<String, u64>,
}

impl Listener {
    fn tell(&self, hint: Hint) {
        // No subscriber is no failure: a hint is for those who listen.
        self.hints.send(hint).ok();
    }

    fn hear(&mut self, news: News) {
        let News::Message(message) = news else { return self.tell(Hint::Lost) };
        let bytes = message.as_bytes().unwrap_or_default();
        let Ok(Message { node, hints }) = serde_json::from_slice(bytes) else { return self.tell(Hint::Lost) };
        if node == self.node {
            return;
        }
        if self.heard.len() >= NODES && !self.heard.contains_key(node) {
            self.heard.clear();
        }
        for (number, hint) in hints {
            let last = self.heard.insert(node.to_owned(), number);
            match last {
                // A message that was sent again.
                Some(last) if number <= last => {
                    self.heard.insert(node.to_owned(), last);
                    continue;
                }
                Some(last) if number > last + 1 => self.tell(Hint::Lost),
                _ => {}
            }
            self.tell(match serde_json::from_value(hint) {
                Ok(Word::Log(entries)) => Hint::Log(entries),
                Ok(Word::Services(revision)) => Hint::Services(revision),
                // Also what a newer version may say.
                Ok(Word::Lost) | Err(_) => Hint::Lost,
            });
        }
    }
}

impl RedisBroadcaster {
    /// Connects, and listens from now on.
    ///
    /// # Errors
    /// When Redis is away or refuses.
    pub async fn connect(options: RedisOptions) -> Result<Self, QueueError> {
        let channel = format!("{}:hints", options.base());
        let connection = Connection::open(&options).await?;
        let (hints, node) = (broadcast::Sender::new(CAPACITY), nonce());
        let mut listener = Listener { node: node.clone(), hints: hints.clone(), heard: HashMap::new() };
        let subscription = Subscription::open(&options, channel.clone(), move |news| listener.hear(news)).await?;
        let outbox = Arc::new(Outbox::default());
        let publisher = tokio::spawn(publish(connection, Arc::clone(&outbox), node, channel)).abort_handle();
        Ok(Self { hints, outbox, publisher, _subscription: subscription })
    }
}

/// Publishes what is put in the outbox, until it is aborted.
async fn publish(connection: Connection, outbox: Arc<Outbox>, node: String, channel: String) {
    let mut away = false;
    loop {
        outbox.more.notified().await;
        while let Some(message) = outbox.take(&node) {
            let said = connection.say("PUBLISH", vec![channel.as_str().into(), Value::from(message)]).await;
            // What was not sent is missing by its number, and so known to be lost.
            match said {
                Ok(_) => away = false,
                Err(RedisError::Away(error) | RedisError::Wrong(error)) if !away => {
                    tracing::warn!(%error, "cannot tell other nodes for now");
                    away = true;
                }
                Err(_) => {}
            }
        }
    }
}

impl Broadcaster for RedisBroadcaster {
    fn publish(&self, hint: Hint) {
        let word = match &hint {
            Hint::Log(entries) => Word::Log(Arc::clone(entries)),
            Hint::Services(revision) => Word::Services(*revision),
            Hint::Lost => Word::Lost,
        };
        match serde_json::to_string(&word) {
            Ok(word) => self.outbox.put(&word),
            Err(error) => tracing::error!(%error, "a hint cannot be written"),
        }
        // No subscriber is no failure: a hint is for those who listen.
        self.hints.send(hint).ok();
    }

    fn subscribe(&self) -> Hints {
        Hints::new(self.hints.subscribe())
    }
}

impl Drop for RedisBroadcaster {
    fn drop(&mut self) {
        self.publisher.abort();
    }
}
