//! One connection, and requests over it.

use std::{
    error::Error,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use healthmon_core::{probe::FailReason, time::Timestamp};
use http_body_util::Full;
use hyper::{Method, Request, Response, Version, body::Incoming, client::conn::http1, header::HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use url::Url;

use super::{
    multiplexed, proxy,
    stream::{Allowance, Metered, Stream, TooMuch},
};
use crate::net::{Progress, Stage, attempt::Fault, progress::add};

/// The most that a response's head may take; hyper looks after each read, so that one that comes whole
/// with the read that passes the bound is still taken. Headers are at most 100 (hyper's own bound).
pub(super) const HEAD_LIMIT: u32 = 32 * 1024;

/// An HTTP connection that makes progress only while somebody waits for something of it: there
/// is no task behind it, so dropping it closes its socket. It is large and handed from one to the
/// other, so it comes boxed.
pub(super) struct Link {
    sender: Sender,
    connection: Connection,
    state: State,
    manner: Manner,
    allowance: Allowance,
    /// When it was opened.
    pub(super) opened: Instant,
    /// When its certificate expires.
    pub(super) certificate_expires: Option<Timestamp>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(multiplexed::Sender),
}

#[expect(clippy::large_enum_variant, reason = "nearly all are of the first kind, and a box would cost each of them")]
enum Connection {
    One(http1::Connection<TokioIo<Metered>, Full<Bytes>>),
    Two(Box<multiplexed::Connection>),
}

/// How requests are addressed.
pub(super) enum Manner {
    /// By their path: whoever is at the other end is the one that is asked.
    Path,
    /// By the whole URL, as a proxy wants it, and with what it wants to be shown.
    Whole(Option<HeaderValue>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The connection has ended; it must not be polled again.
    Ended,
}

/// An exchange that ended without an answer.
#[derive(Debug)]
pub(super) struct Broken(pub(super) hyper::Error);

impl Link {
    /// An HTTP/1 connection over `stream`.
    pub(super) async fn open(
        stream: Stream,
        manner: Manner,
        certificate_expires: Option<Timestamp>,
    ) -> Result<Box<Self>, Fault> {
        let allowance = Allowance::default();
        allowance.restart();
        let stream = TokioIo::new(Metered { stream, allowance: allowance.clone() });
        let opened = http1::Builder::new().max_buf_size(HEAD_LIMIT as usize).handshake(stream).await;
        let (sender, connection) = opened.map_err(|error| Fault::from(Broken(error)))?;
        let (sender, connection) = (Sender::One(sender), Connection::One(connection));
        let opened = Instant::now();
        let state = State::Running;
        Ok(Box::new(Self { sender, connection, state, manner, allowance, opened, certificate_expires }))
    }

    /// An HTTP/2 connection over `stream`.
    pub(super) async fn open_multiplexed(
        stream: Stream,
        certificate_expires: Option<Timestamp>,
    ) -> Result<Box<Self>, Fault> {
        let allowance = Allowance::default();
        allowance.restart();
        let stream = Metered { stream, allowance: allowance.clone() };
        let (sender, connection) = multiplexed::open(stream).await.map_err(|error| Fault::from(Broken(error)))?;
        let (sender, connection) = (Sender::Two(sender), Connection::Two(Box::new(connection)));
        let manner = Manner::Path;
        let opened = Instant::now();
        let state = State::Running;
        Ok(Box::new(Self { sender, connection, state, manner, allowance, opened, certificate_expires }))
    }

    /// Sends `request` for `url` and waits for the head of the answer.
    pub(super) async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
        url: &Url,
        progress: &mut Progress,
    ) -> Result<Response<Incoming>, Broken> {
        let begun = Instant::now();
        progress.stage = Stage::Answer;
        self.allowance.restart();
        if let Manner::Whole(authorization) = &self.manner {
            proxy::address(&mut request, url, authorization.as_ref());
        }
        let (connection, state) = (&mut self.connection, &mut self.state);
        let answered = match &mut self.sender {
            Sender::One(sender) => drive(connection, state, sender.send_request(request)).await,
            Sender::Two(sender) => {
                multiplexed::address(&mut request, url);
                drive(connection, state, sender.send_request(request)).await
            }
        };
        add(&mut progress.phases.first_byte_us, begun.elapsed());
        answered.map_err(Broken)
    }

    /// So much of an answer's body has come.
    pub(super) fn earn(&self, bytes: usize) {
        self.allowance.earn(bytes);
    }

    /// Waits for `wanted`, which something that this connection does will complete.
    pub(super) async fn wait_for<F: Future>(&mut self, wanted: F) -> F::Output {
        drive(&mut self.connection, &mut self.state, wanted).await
    }

    /// Whether the peer has kept the connection open and is ready for another request.
    pub(super) fn is_reusable(&mut self) -> bool {
        // One poll that waits for nothing: it sees what has come in since, an end above all.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if self.state == State::Running && self.connection.poll(&mut cx).is_ready() {
            self.state = State::Ended;
        }
        let ready = match &self.sender {
            Sender::One(sender) => sender.is_ready(),
            Sender::Two(sender) => sender.is_ready(),
        };
        self.state == State::Running && ready
    }
}

impl Connection {
    /// Ready at its end. Its error is dropped: hyper hands it to whoever waits for the answer or the
    /// body.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::One(connection) => Pin::new(connection).poll(cx).map(drop),
            Self::Two(connection) => connection.poll(cx),
        }
    }
}

/// Polls `wanted` and the connection by turns, in this task.
async fn drive<F: Future>(connection: &mut Connection, state: &mut State, wanted: F) -> F::Output {
    let mut wanted = pin!(wanted);
    std::future::poll_fn(|cx| {
        // First what is wanted, for the connection waits until somebody asks; then the connection;
        // then again what is wanted, which may be there now.
        let first = wanted.as_mut().poll(cx);
        if first.is_ready() || *state == State::Ended {
            return first;
        }
        if connection.poll(cx).is_ready() {
            *state = State::Ended;
        }
        wanted.as_mut().poll(cx)
    })
    .await
}

/// A version as people say it.
pub(super) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "3",
    }
}

impl Broken {
    /// Whether a connection that had lain idle was closed under the request, which may be
    /// repeated: because it was never sent, or because doing it twice is like doing it once.
    pub(super) fn is_stale(&self, method: &Method) -> bool {
        let broken = io_error(&self.0);
        if broken.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<TooMuch>()) {
            return false;
        }
        let closed = self.0.is_incomplete_message() || self.0.is_closed() || broken.is_some();
        self.0.is_canceled() || (closed && !matches!(*method, Method::POST | Method::PATCH))
    }
}

fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>())
}

impl From<Broken> for Fault {
    fn from(Broken(error): Broken) -> Self {
        // With TLS 1.3 a peer may refuse us only after the handshake, by an alert.
        let alert = io_error(&error).and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>());
        let reason = if alert { FailReason::Tls } else { FailReason::Protocol };
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            detail = format!("{detail}: {inner}");
            source = inner.source();
        }
        Self::fail(reason, detail)
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        Broken(error).into()
    }
}
