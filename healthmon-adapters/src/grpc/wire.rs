//! The bytes under an HTTP/2 connection: how many may come, and how they came to an end.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that a peer may send for one answer, all frames counted. A health check takes some
/// hundred bytes; floods of settings, pings or headers are cut off here.
pub(super) const READ_LIMIT: usize = 128 * 1024;

/// A connection, secured or not.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Counts what comes, and keeps what an HTTP/2 library's errors do not tell.
pub(super) struct Wire {
    transport: Box<dyn Transport>,
    meter: Arc<Meter>,
}

/// What is known of a wire.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Noted>);

#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    read: usize,
    began_with: [u8; 5],
    began: usize,
    end: Option<End>,
}

/// How a wire came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed it.
    Closed,
    /// The peer ended the TLS session by an alert, or broke it.
    Tls,
    /// More came than one answer may take.
    TooMuch,
}

impl Meter {
    /// Nothing here panics while it holds the lock.
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count anew: another answer is awaited.
    pub(super) fn restart(&self) {
        self.noted().read = 0;
    }

    pub(super) fn end(&self) -> Option<End> {
        self.noted().end
    }

    /// Whether the first that came was the beginning of an HTTP/1 answer.
    pub(super) fn began_as_http1(&self) -> bool {
        self.noted().began_with == *b"HTTP/"
    }
}

impl Wire {
    pub(super) fn new(transport: impl Transport + 'static) -> Self {
        Self { transport: Box::new(transport), meter: Arc::default() }
    }

    pub(super) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.noted().read > READ_LIMIT {
            self.meter.noted().end = Some(End::TooMuch);
            return Poll::Ready(Err(io::Error::other("more came than one answer may take")));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.transport).poll_read(cx, buf);
        let mut noted = self.meter.noted();
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                let came = &buf.filled()[before..];
                if came.is_empty() && buf.remaining() > 0 {
                    noted.end = noted.end.or(Some(End::Closed));
                }
                noted.read += came.len();
                let began = noted.began;
                let first = came.len().min(noted.began_with.len() - began);
                noted.began_with[began..began + first].copy_from_slice(&came[..first]);
                noted.began += first;
            }
            Poll::Ready(Err(error)) => {
                let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
                noted.end = noted.end.or(tls.then_some(End::Tls));
            }
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}
