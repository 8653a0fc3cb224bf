//! An HTTP/2 connection without a task behind it.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use healthmon_core::{probe::FailReason, time::Timestamp};
use hyper::{
    Uri,
    client::conn::http2::{Builder, Connection, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming, body::Body};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use super::{
    call::{Channel, Heard},
    wire::{Meter, Wire},
};
use crate::net::{Progress, Stage, attempt::Fault, pool::Idle, progress::add};

/// The most that an answer's headers, or its trailers, may take.
const HEADERS_LIMIT: u32 = 16 * 1024;
/// The most that one message may take. A health check's has two bytes.
const MESSAGE_LIMIT: usize = 4 * 1024;
/// How much a peer may send ahead of what was read.
const WINDOW: u32 = 64 * 1024;
/// What we buffer at most of what we send.
const SEND_LIMIT: usize = 64 * 1024;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Inbox = Mutex<Vec<Task>>;

/// Takes the tasks that hyper would spawn. They belong to the link; a task that comes when there
/// is no link any more is dropped, and so are tasks that hold such an executor.
#[derive(Clone)]
struct Tasks(Weak<Inbox>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if let Some(inbox) = self.0.upgrade() {
            inbox.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(task));
        }
    }
}

/// An HTTP/2 connection that makes progress only while somebody waits for something of it, so
/// that dropping it closes its socket and leaves nothing running.
pub(super) struct Link {
    sender: SendRequest<Body>,
    driver: Driver,
    meter: Arc<Meter>,
    opened: Instant,
    /// When its certificate expires.
    pub(super) certificate_expires: Option<Timestamp>,
}

/// All that has to be polled for a connection to go on: two or three small tasks.
struct Driver {
    /// None once it has ended; kept on it would keep requests waiting that nobody answers.
    connection: Option<Connection<TokioIo<Wire>, Body, Tasks>>,
    inbox: Arc<Inbox>,
    tasks: Vec<Task>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            // Its error is dropped: hyper hands it to whoever waits for an answer.
            self.connection = None;
        }
        self.tasks.append(&mut self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        self.tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
    }
}

impl Link {
    pub(super) async fn open(wire: Wire, certificate_expires: Option<Timestamp>) -> Result<Self, Fault> {
        let (inbox, meter) = (Arc::new(Inbox::default()), wire.meter());
        let opened = Builder::new(Tasks(Arc::downgrade(&inbox)))
            .max_header_list_size(HEADERS_LIMIT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_send_buf_size(SEND_LIMIT)
            .handshake(TokioIo::new(wire))
            .await;
        let (sender, connection) =
            opened.map_err(|error| Fault::fail(FailReason::Protocol, format!("http/2: {error}")))?;
        let driver = Driver { connection: Some(connection), inbox, tasks: Vec::new() };
        Ok(Self { sender, driver, meter, opened: Instant::now(), certificate_expires })
    }

    /// What is known of the bytes below.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    fn client(&mut self, origin: Uri) -> (HealthClient<Channel>, Arc<Heard>) {
        self.meter.restart();
        let heard = Arc::<Heard>::default();
        let channel = Channel { sender: self.sender.clone(), heard: Arc::clone(&heard) };
        (HealthClient::with_origin(channel, origin).max_decoding_message_size(MESSAGE_LIMIT), heard)
    }

    /// Asks for a service's health, and notes the time to the answer's first byte.
    pub(super) async fn check(
        &mut self,
        origin: Uri,
        request: Request<HealthCheckRequest>,
        progress: &mut Progress,
    ) -> (Result<Response<HealthCheckResponse>, Status>, Arc<Heard>) {
        let (mut client, heard) = self.client(origin);
        let begun = Instant::now();
        progress.stage = Stage::Answer;
        let mut asked = pin!(client.check(request));
        let answered = std::future::poll_fn(|cx| {
            let polled = poll_by_turns(&mut self.driver, asked.as_mut(), cx);
            if progress.stage == Stage::Answer
                && let Some(at) = heard.head_at()
            {
                progress.stage = Stage::Body;
                add(&mut progress.phases.first_byte_us, at.duration_since(begun));
            }
            polled
        })
        .await;
        (answered, heard)
    }
}

impl Link {
    /// Asks to be told of a service's health from now on. The error is the status that the server
    /// gave, if any.
    pub(super) async fn watch(
        mut self,
        origin: Uri,
        request: Request<HealthCheckRequest>,
    ) -> Result<Held, Option<Code>> {
        let (mut client, heard) = self.client(origin);
        let mut asked = pin!(client.watch(request));
        let answered = std::future::poll_fn(|cx| poll_by_turns(&mut self.driver, asked.as_mut(), cx)).await;
        match answered {
            Ok(stream) => Ok(Held { link: self, heard, stream: stream.into_inner() }),
            Err(_) => Err(heard.so_far().status.map(|status| status.code())),
        }
    }
}

/// A stream of a service's health.
pub(super) struct Held {
    link: Link,
    heard: Arc<Heard>,
    stream: Streaming<HealthCheckResponse>,
}

impl Held {
    /// The next that the server tells. Between two messages it may send as much as for one answer.
    /// The error is the status by which the stream ended, if the server gave one.
    pub(super) async fn next(&mut self) -> Result<i32, Option<Code>> {
        self.link.meter.restart();
        let mut next = pin!(self.stream.message());
        match std::future::poll_fn(|cx| poll_by_turns(&mut self.link.driver, next.as_mut(), cx)).await {
            Ok(Some(message)) => Ok(message.status),
            Ok(None) | Err(_) => Err(self.heard.so_far().status.map(|status| status.code())),
        }
    }
}

/// First what is wanted, for the connection waits until somebody asks; then the connection; then
/// again what is wanted, which may be there now.
fn poll_by_turns<F: Future>(driver: &mut Driver, mut wanted: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let first = wanted.as_mut().poll(cx);
    if first.is_ready() {
        return first;
    }
    driver.poll(cx);
    wanted.poll(cx)
}

impl Idle for Link {
    fn is_reusable(&mut self) -> bool {
        // Polls that wait for nothing: the first sees what has come in since, an end above all, the
        // second takes notice of what the first saw.
        let mut cx = Context::from_waker(Waker::noop());
        self.driver.poll(&mut cx);
        self.driver.poll(&mut cx);
        self.driver.connection.is_some() && self.sender.is_ready()
    }

    fn opened(&self) -> Instant {
        self.opened
    }
}
