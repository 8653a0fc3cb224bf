//! A TCP proxy that can cut and stall what goes through it, at a commit above all.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
};

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Nothing goes on in either direction; connections stay.
    Stall,
}

/// What is done to the next commit that comes through of a transaction that tells of transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    None,
    /// It does not arrive.
    CutBefore,
    /// It does not go on until its connection is cut.
    Hold,
    /// It arrives, and its answer does not.
    CutAfter,
    /// It arrives, and its answer takes this long.
    StallAfter(Duration),
}

/// What becomes of the next thing that a server says.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Passes,
    /// After this long.
    Waits(Duration),
    /// The connection ends instead.
    Cuts,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// Connections of an earlier generation end.
    generation: u64,
    trap: Trap,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(watch::Sender::new(State { mode: Mode::Pass, generation: 0, trap: Trap::None }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A server that is away refuses, and so does this.
                    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    serve(client, server, state).await;
                });
            }
        });
        Self { address, state }
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    pub(crate) fn trap(&self, trap: Trap) {
        self.state.send_modify(|state| state.trap = trap);
    }

    /// Whether the trap has closed.
    pub(crate) fn sprung(&self) -> bool {
        self.state.borrow().trap == Trap::None
    }
}

async fn serve(client: TcpStream, server: TcpStream, state: Arc<watch::Sender<State>>) {
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let generation = state.borrow().generation;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let answer = Arc::new(watch::Sender::new(Answer::Passes));
    let up = forward(from_client, to_server, Arc::clone(&state), Some(Arc::clone(&answer)), answer.subscribe());
    let down = forward(from_server, to_client, Arc::clone(&state), None, answer.subscribe());
    let mut watched = state.subscribe();
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = watched.wait_for(|state| state.generation > generation) => {}
    }
}

/// Forwards until either end is gone. `commits` is given for what a client says: it watches for
/// commits, and tells the other direction what becomes of the answer before the server has anything
/// to answer.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: Arc<watch::Sender<State>>,
    commits: Option<Arc<watch::Sender<Answer>>>,
    answer: watch::Receiver<Answer>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut watched = state.subscribe();
    // Most transactions only read, or settle whose a shard is: nothing would come of cutting those.
    let mut tells = false;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if watched.wait_for(|state| state.mode == Mode::Pass).await.is_err() {
            return;
        }
        let says = |words: &[u8]| commits.is_some() && buffer[..read].windows(words.len()).any(|seen| seen == words);
        tells = (tells && !says(b"BEGIN")) || says(br#""type":"transition""#);
        if let Some(answer) = &commits
            && tells
            && says(b"COMMIT")
        {
            let mut sprung = Trap::None;
            state.send_if_modified(|state| {
                sprung = std::mem::replace(&mut state.trap, Trap::None);
                sprung != Trap::None
            });
            match sprung {
                Trap::None => {}
                Trap::CutBefore => return,
                Trap::Hold => std::future::pending().await,
                Trap::CutAfter => drop(answer.send_replace(Answer::Cuts)),
                Trap::StallAfter(span) => drop(answer.send_replace(Answer::Waits(span))),
            }
        }
        if commits.is_none() {
            let answer = *answer.borrow();
            match answer {
                Answer::Passes => {}
                Answer::Waits(span) => tokio::time::sleep(span).await,
                // The commit was done, and nobody is told.
                Answer::Cuts => return,
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
