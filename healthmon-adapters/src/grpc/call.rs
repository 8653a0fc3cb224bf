//! One call, and what is heard of its answer on the way.

use std::{
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http2::SendRequest,
    header::{self, HeaderName},
};
use tokio::time::Instant;
use tonic::{Status, client::GrpcService};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// What came of an answer so far.
///
/// tonic reports what the server said and what went wrong on our side by one type; here they are
/// kept apart.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Told>);

#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// The answer's head, once it has come.
    pub(super) head: Option<Head>,
    /// The status that the server itself gave.
    pub(super) status: Option<Status>,
    /// What broke the connection or the stream.
    pub(super) broken: Option<Box<str>>,
}

#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) at: Instant,
    pub(super) http_status: u16,
    /// As the server wrote it, capped.
    pub(super) content_type: Option<Box<str>>,
}

/// Why there is no answer to read; what is known of it was [`Heard`].
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the stream broke off")]
    Broken,
    #[error("the answer is not gRPC")]
    NotGrpc,
}

impl Heard {
    /// Nothing here panics while it holds the lock.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn so_far(&self) -> Told {
        self.told().clone()
    }

    /// When the answer's head came.
    pub(super) fn head_at(&self) -> Option<Instant> {
        self.told().head.as_ref().map(|head| head.at)
    }

    fn broke(&self, error: &hyper::Error) -> CallError {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        self.told().broken.get_or_insert(text.into());
        CallError::Broken
    }

    fn head(&self, http_status: u16, headers: &mut HeaderMap) -> Result<(), CallError> {
        // Whole, of a head that is bounded: a secret that it repeats is looked for, and then it is cut.
        let content_type =
            headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into());
        let (status, fits) = (own_status(headers), content_type.as_deref().is_some_and(is_grpc));
        let mut told = self.told();
        told.head = Some(Head { at: Instant::now(), http_status, content_type });
        if status.is_some() {
            told.status = status;
        } else if !fits {
            return Err(CallError::NotGrpc);
        }
        Ok(())
    }

    fn trailers(&self, trailers: &mut HeaderMap) {
        if let Some(status) = own_status(trailers) {
            self.told().status = Some(status);
        }
    }
}

pub(super) fn is_grpc(content_type: &str) -> bool {
    content_type.starts_with("application/grpc")
}

/// The status that stands in headers or trailers.
///
/// Its details are taken out: nobody looks at them, and tonic panics on some that are no base64.
fn own_status(headers: &mut HeaderMap) -> Option<Status> {
    headers.remove(STATUS_DETAILS);
    let mut own = HeaderMap::with_capacity(2);
    own.insert(STATUS, headers.get(STATUS)?.clone());
    own.extend(headers.get(MESSAGE).map(|message| (MESSAGE, message.clone())));
    Status::from_header_map(&own)
}

/// A connection for one call.
pub(super) struct Channel {
    pub(super) sender: SendRequest<tonic::body::Body>,
    pub(super) heard: Arc<Heard>,
}

impl GrpcService<tonic::body::Body> for Channel {
    type ResponseBody = Answer;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let sent = self.sender.send_request(request);
        let heard = Arc::clone(&self.heard);
        Box::pin(async move {
            let response = sent.await.map_err(|error| heard.broke(&error))?;
            let (mut parts, body) = response.into_parts();
            heard.head(parts.status.as_u16(), &mut parts.headers)?;
            Ok(Response::from_parts(parts, Answer { body, heard }))
        })
    }
}

/// An answer's body, listened to while tonic reads it. The wire bounds its size.
pub(super) struct Answer {
    body: Incoming,
    heard: Arc<Heard>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match polled {
            None => None,
            Some(Err(error)) => Some(Err(self.heard.broke(&error))),
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    self.heard.trailers(trailers);
                }
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
