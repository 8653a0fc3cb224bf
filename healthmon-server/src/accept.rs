//! Takes in clients' connections, as many as there may be, and gives each an end.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::extract::ConnectInfo;
use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    time::{Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Gate, Peer},
    http::{Api, router},
};

/// Connections to the API at once; more wait to be accepted.
const CONNECTIONS: usize = 16_384;
/// How many of them one peer may have: it takes several to keep out the others. A trusted proxy, and
/// this machine, bring those of many.
const OF_ONE_PEER: usize = 1_024;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what it is sent.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts clients until closing, each in a task of its own.
pub(crate) async fn accept(listener: TcpListener, api: Api, closing: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let (access, crowd) = (Arc::clone(&api.access), Arc::new(Crowd::default()));
    let app = TowerToHyperService::new(router(api));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = closing.cancelled() => return,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of sockets, most likely: others will end.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(presence) = Crowd::admit(&crowd, peer.ip(), &access) else {
            tracing::debug!(peer = %peer.ip(), "a peer has as many connections as it may");
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (app, closing) = (app.clone(), closing.clone());
        let app = service_fn(move |mut request| {
            request.extensions_mut().insert(ConnectInfo(peer));
            app.call(request)
        });
        tasks.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(Taken::new(stream)), app)
                .with_upgrades();
            tokio::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a client's connection ended");
            }
            drop((place, presence));
        });
    }
}

/// How many connections each peer has.
#[derive(Debug, Default)]
struct Crowd(Mutex<HashMap<Peer, usize>>);

/// A connection, counted until it is dropped; nobody's where they are not counted.
#[derive(Debug)]
struct Presence(Option<(Arc<Crowd>, Peer)>);

impl Crowd {
    /// A place for one more connection of a peer, unless it has too many.
    fn admit(crowd: &Arc<Self>, peer: IpAddr, access: &Gate) -> Option<Presence> {
        if peer.to_canonical().is_loopback() || access.trusts(peer) {
            return Some(Presence(None));
        }
        let peer = Peer::from(peer);
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer).or_default();
        (*count < OF_ONE_PEER).then(|| {
            *count += 1;
            Presence(Some((Arc::clone(crowd), peer)))
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Some((crowd, peer)) = &self.0 else { return };
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(peer);
            }
        }
    }
}

/// A stream whose writes fail when the other side takes nothing for too long. Else whoever asks and
/// never reads would keep a connection for ever.
#[derive(Debug)]
pub(crate) struct Taken<S> {
    stream: S,
    /// Runs while a write waits.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    fn new(stream: S) -> Self {
        Self { stream, patience: None }
    }

    /// The stream, for who minds the time otherwise.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Unpin> Taken<S> {
    /// What a write came to, or that it has waited too long.
    fn patiently<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(TAKE_TIMEOUT)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patiently(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.patiently(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.patiently(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, advance},
    };

    use super::*;
    use crate::auth::AccessSettings;

    #[tokio::test(start_paused = true)]
    async fn sec_who_takes_nothing_of_what_it_asked_for_is_left() {
        let (ours, mut theirs) = duplex(64);
        let mut taken = Taken::new(ours);
        let begun = Instant::now();
        let error = taken.write_all(&[0; 1_000]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, TAKE_TIMEOUT));
        assert_eq!(theirs.read(&mut [0; 64]).await.unwrap(), 64);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_it_slowly_gets_all_of_it() {
        let (ours, mut theirs) = duplex(64);
        let writing = tokio::spawn(async move { Taken::new(ours).write_all(&[7; 1_000]).await });
        let mut read = 0;
        while read < 1_000 {
            advance(TAKE_TIMEOUT - Duration::from_secs(1)).await;
            read += theirs.read(&mut [0; 64]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[test]
    fn sec_one_peer_has_a_share_of_the_connections_and_a_trusted_proxy_any() {
        let settings = AccessSettings { proxies: vec!["10.0.0.0/8".parse().unwrap()], ..AccessSettings::default() };
        let (access, crowd) = (Gate::new(settings).unwrap(), Arc::new(Crowd::default()));
        let admit = |peer: &str| Crowd::admit(&crowd, peer.parse().unwrap(), &access);
        let mut here: Vec<_> = (0..OF_ONE_PEER).map(|_| admit("192.0.2.1").unwrap()).collect();
        assert!(admit("192.0.2.1").is_none() && admit("::ffff:192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some(), "others are let in");
        here.pop();
        here.push(admit("192.0.2.1").unwrap());
        assert!(admit("192.0.2.1").is_none());
        for many in ["10.0.0.1", "127.0.0.1", "::1"] {
            let all: Vec<_> = (0..OF_ONE_PEER + 1).map(|_| admit(many)).collect();
            assert!(all.iter().all(Option::is_some), "{many}");
        }
        drop(here);
        assert!(crowd.0.lock().unwrap().is_empty(), "what is gone is forgotten");
    }
}
