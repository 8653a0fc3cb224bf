//! HTTP/2 without a task behind it.
//!
//! hyper wants an executor for the futures that an HTTP/2 connection is made of. Ours keeps them, and
//! they are polled with the connection, by whoever waits for something of it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri, client::conn::http2, header, http::uri::Authority, rt::Executor};
use hyper_util::rt::TokioIo;
use url::{Position, Url};

use super::{link::HEAD_LIMIT, stream::Metered};

/// What a peer may have sent that nobody has read yet.
const WINDOW: u32 = 64 * 1024;

pub(super) type Sender = http2::SendRequest<Full<Bytes>>;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection, and what it consists of.
pub(super) struct Connection {
    /// None once it has ended: it must not be polled again.
    connection: Option<http2::Connection<TokioIo<Metered>, Full<Bytes>, Started>>,
    started: Started,
    tasks: Vec<Task>,
}

/// What was started and not polled yet.
#[derive(Clone, Default)]
struct Started(Arc<Mutex<Vec<Task>>>);

impl<F: Future + Send + 'static> Executor<F> for Started {
    fn execute(&self, future: F) {
        let task: Task = Box::pin(async move { drop(future.await) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

impl Started {
    fn take(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) async fn open(stream: Metered) -> Result<(Sender, Connection), hyper::Error> {
    let started = Started::default();
    let opened = http2::Builder::new(started.clone())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = opened.await?;
    Ok((sender, Connection { connection: Some(connection), started, tasks: Vec::new() }))
}

impl Connection {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
        loop {
            self.tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
            let started = self.started.take();
            if started.is_empty() {
                break;
            }
            self.tasks.extend(started);
        }
        // What it is made of may have more to do than it: the last frames, for one.
        if self.connection.is_none() && self.tasks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Addresses a request as HTTP/2 does: by scheme and authority, instead of by a header `Host`.
pub(super) fn address(request: &mut Request<Full<Bytes>>, url: &Url) {
    let host = request.headers_mut().remove(header::HOST);
    request.headers_mut().remove(header::CONNECTION);
    let own = &url[Position::BeforeHost..Position::AfterPort];
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = url.scheme().parse().ok();
    parts.authority = authority.or_else(|| own.parse().ok());
    // A URL's own host is an authority, and its path was taken for one before.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
