//! Changes as they happen, over a WebSocket: `/events`.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{RawQuery, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use healthmon_core::{
    id::{Seq, ServiceId},
    ports::{LogHead, ServiceFilter},
    probe::Reason,
    status::{LogEntry, Overlay},
};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{Api, Problem, query::Parameters, reasons, services::tag};
use crate::{
    accept::Taken,
    auth::Principal,
    hub::{Event, Hub, kind},
};

/// How long a client may take to accept what it is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that is being closed may take to hear why.
const GOODBYE: Duration = Duration::from_millis(500);
/// How often a silent client is pinged, so that dead ones are found.
const PING_PERIOD: Duration = Duration::from_secs(30);
/// How many services are told in one frame of a snapshot.
const SNAPSHOT_PAGE: NonZeroUsize = NonZeroUsize::new(500).unwrap();

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Which entries a client wants, and from where on.
#[derive(Debug)]
struct Wanted {
    after: Option<Seq>,
    log: Option<String>,
    service: Option<ServiceId>,
    group: Option<String>,
    tags: Vec<(String, Option<String>)>,
    kinds: Vec<&'static str>,
    reason: Option<Reason>,
}

const KINDS: [&str; 4] = ["transition", "blind", "paused", "maintenance"];

impl Wanted {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let single = ["after", "log", "service", "group", "reason"];
        let mut query = Parameters::read(query, &single, &["tag", "kinds"])?;
        let kinds = |names: &str| {
            let kind = |name| KINDS.into_iter().find(|kind| *kind == name);
            let kinds: Option<Vec<_>> = names.split(',').map(kind).collect();
            kinds.ok_or_else(|| Problem::field("kinds", format_args!("must be of {}", KINDS.join(", "))))
        };
        let given = query.all("kinds");
        let mut wanted = Self {
            after: query.parsed("after", "the seq of the last entry that was seen")?.map(Seq),
            log: query.text("log"),
            service: query.with("service", str::parse)?,
            group: query.text("group"),
            tags: query.all("tag").iter().map(|text| tag(text)).collect(),
            kinds: if given.is_empty() { Vec::new() } else { kinds(&given.join(","))? },
            reason: query.with("reason", reasons::read)?,
        };
        if wanted.kinds.is_empty() {
            wanted.kinds.push("transition");
        }
        Ok(wanted)
    }

    fn admits(&self, entry: &LogEntry) -> bool {
        let service = &entry.service;
        let tagged = |(key, value): &(String, Option<String>)| {
            service.tags.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        self.kinds.contains(&kind(&entry.event))
            && self.reason.is_none_or(|reason| entry.reason == Some(reason))
            && self.service.is_none_or(|id| id == service.id)
            && self.group.as_deref().is_none_or(|group| service.group.as_deref() == Some(group))
            && self.tags.iter().all(tagged)
    }

    fn filter(&self) -> ServiceFilter {
        ServiceFilter { group: self.group.clone(), tags: self.tags.clone(), ..ServiceFilter::default() }
    }
}

pub(super) async fn upgrade(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
    mut request: Request,
) -> Result<Response, Problem> {
    let wanted = Wanted::read(query.as_deref())?;
    let accept = handshake(&request)?;
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade =
        upgrade.ok_or_else(|| Problem::new(StatusCode::UPGRADE_REQUIRED, "this connection cannot be upgraded"))?;
    let full = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "there are as many WebSocket clients as there may be");
    let place = Arc::clone(&api.places).try_acquire_owned().map_err(full)?;
    api.tasks.clone().spawn(async move {
        let _place = place;
        match upgrade.await {
            Ok(upgraded) => serve(api, wanted, principal, upgraded).await,
            Err(error) => tracing::debug!(%error, "a client did not complete the upgrade"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Checks the opening handshake of RFC 6455, section 4.2.1. Returns the answer to its key.
fn handshake(request: &Request) -> Result<HeaderValue, Problem> {
    let named = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let lists = |name, token: &str| {
        named(name).is_some_and(|list| list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token)))
    };
    let upgrade = lists(header::UPGRADE, "websocket") && lists(header::CONNECTION, "upgrade");
    if !upgrade {
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, "this route speaks WebSocket only"));
    }
    if named(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Version must be 13"));
    }
    let key = named(header::SEC_WEBSOCKET_KEY).unwrap_or("");
    if BASE64_STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// How a client's session ended, when it did not just go.
enum Ended {
    /// It, or the connection, is gone.
    Gone(WsError),
    /// It did not take what it was sent in time.
    Slow,
    /// The settings no longer say of the client what they said when it came.
    Revoked,
    /// The server stops.
    Closing,
    /// The server cannot read the log yet.
    NotYet,
    /// The store failed.
    Store(healthmon_core::ports::StoreError),
}

impl From<WsError> for Ended {
    fn from(error: WsError) -> Self {
        Self::Gone(error)
    }
}

impl From<healthmon_core::ports::StoreError> for Ended {
    fn from(error: healthmon_core::ports::StoreError) -> Self {
        Self::Store(error)
    }
}

async fn serve(api: Api, wanted: Wanted, principal: Principal, upgraded: Upgraded) {
    // Small buffers: there may be thousands of clients, and frames are a few hundred bytes.
    let config = WebSocketConfig::default()
        .read_buffer_size(2 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(1024 * 1024)
        .max_message_size(Some(4 * 1024))
        .max_frame_size(Some(4 * 1024));
    // Without hyper's own buffer around it, a connection is a socket again.
    match upgraded.downcast::<TokioIo<Taken<TcpStream>>>() {
        Ok(parts) => {
            let socket = WebSocketStream::from_partially_read(
                parts.io.into_inner().into_inner(),
                parts.read_buf.to_vec(),
                Role::Server,
                Some(config),
            );
            session(&api, &wanted, &principal, socket.await).await;
        }
        Err(upgraded) => {
            let socket: Socket =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
            session(&api, &wanted, &principal, socket).await;
        }
    }
}

/// A client and its place in the log.
struct Client<'a, S> {
    api: &'a Api,
    wanted: &'a Wanted,
    socket: WebSocketStream<S>,
    cursor: Seq,
}

async fn session<S>(api: &Api, wanted: &Wanted, principal: &Principal, socket: WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut client = Client { api, wanted, socket, cursor: Seq::default() };
    // A client that does not read holds up its own frames, but not this.
    let ended = tokio::select! {
        Err(ended) = client.run() => ended,
        () = api.access.revoked(principal) => Ended::Revoked,
    };
    let place = format!("after={}", client.cursor);
    let (code, why) = match ended {
        Ended::Gone(error) => {
            tracing::debug!(%error, after = client.cursor.0, "a WebSocket client is gone");
            return;
        }
        Ended::Slow => (CloseCode::Again, "too slow"),
        Ended::Revoked => (CloseCode::Policy, "what you may do was changed"),
        Ended::Closing => (CloseCode::Away, "the server stops"),
        Ended::NotYet => (CloseCode::Again, "the log cannot be read yet"),
        Ended::Store(error) => {
            tracing::warn!(%error, "a WebSocket client is closed because the store failed");
            (CloseCode::Again, "the store is away")
        }
    };
    tracing::debug!(why, after = client.cursor.0, "closing a WebSocket client");
    let frame = CloseFrame { code, reason: format!("{why}; resume with {place}").into() };
    // It may well not read this either; then it just sees the end.
    tokio::time::timeout(GOODBYE, client.socket.close(Some(frame))).await.ok();
}

impl<S> Client<'_, S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    async fn run(&mut self) -> Result<std::convert::Infallible, Ended> {
        let hub: Arc<Hub> = Arc::clone(&self.api.hub);
        let mut more = hub.subscribe();
        // It begins with the first log that the hub follows; which one that is must be known before
        // the head is read: one that is another from then on is noticed below.
        let followed = more.wait_for(|place| place.log > 0);
        let followed = tokio::time::timeout(SEND_TIMEOUT, followed).await.map_err(|_| Ended::NotYet)?;
        let mut log = followed.map_err(|_| Ended::Closing)?.log;
        let head = self.api.handle.store().head().await?;
        self.greet(&head).await?;
        let mut ping = tokio::time::interval(PING_PERIOD);
        ping.reset();
        loop {
            let place = *more.borrow_and_update();
            if place.log != log {
                log = place.log;
                self.reset("the log is another one than it was").await?;
            }
            let events = hub.after(self.cursor).await?;
            if let Some(first) = events.first() {
                if self.api.closing.is_cancelled() {
                    return Err(Ended::Closing);
                }
                if first.entry.seq == self.cursor.next() {
                    self.send(events).await?;
                } else {
                    self.reset("the log no longer reaches back that far").await?;
                }
                continue;
            }
            tokio::select! {
                () = self.api.closing.cancelled() => return Err(Ended::Closing),
                changed = more.changed() => changed.map_err(|_| Ended::Closing)?,
                message = self.socket.next() => match message {
                    None => return Err(Ended::Gone(WsError::ConnectionClosed)),
                    // Pings are answered by the library; nothing else is expected of a client.
                    Some(message) => drop(message?),
                },
                _ = ping.tick() => self.timely(Message::Ping(Vec::new().into())).await?,
            }
        }
    }

    /// Says where the log stands, and begins where the client wants if that can be.
    async fn greet(&mut self, head: &LogHead) -> Result<(), Ended> {
        let hello = json!({"type": "hello", "log": head.log.to_string(), "head": head.head});
        self.timely(Message::text(hello.to_string())).await?;
        self.cursor = self.wanted.after.unwrap_or(head.head);
        let other = self.wanted.log.as_deref().is_some_and(|log| log != &*head.log.0);
        let why = match () {
            () if other => Some("that place is in another log"),
            () if self.cursor > head.head => Some("the log does not reach that far"),
            () if self.cursor < head.tail => Some("the log no longer reaches back that far"),
            () => None,
        };
        match why {
            None => Ok(()),
            Some(why) => self.begin_anew(head, why).await,
        }
    }

    async fn reset(&mut self, why: &str) -> Result<(), Ended> {
        let head = self.api.handle.store().head().await?;
        self.begin_anew(&head, why).await
    }

    /// Tells the client to forget what it knows, and how everything stands.
    async fn begin_anew(&mut self, head: &LogHead, why: &str) -> Result<(), Ended> {
        self.cursor = head.head;
        let reset = json!({"type": "reset", "log": head.log.to_string(), "head": head.head, "reason": why});
        self.timely(Message::text(reset.to_string())).await?;
        self.snapshot().await
    }

    /// How every service stands, in pieces.
    async fn snapshot(&mut self) -> Result<(), Ended> {
        let mut after = None;
        loop {
            let page = self.api.handle.services(&self.wanted.filter(), after, SNAPSHOT_PAGE).await?;
            let last = page.len() < SNAPSHOT_PAGE.get();
            after = page.last().map(|view| view.service.id);
            let services: Vec<_> = page
                .iter()
                .filter(|view| self.wanted.service.is_none_or(|id| id == view.service.id))
                .map(|view| {
                    let overlays: Vec<_> = view.overlays.iter().copied().map(Overlay::as_str).collect();
                    json!({"service": view.service.label(), "status": view.status, "since": view.since, "overlays": overlays})
                })
                .collect();
            let frame = json!({"type": "snapshot", "services": services, "last": last});
            self.timely(Message::text(frame.to_string())).await?;
            if last {
                return Ok(());
            }
        }
    }

    async fn send(&mut self, events: Vec<Event>) -> Result<(), Ended> {
        for event in events {
            if self.wanted.admits(&event.entry) {
                self.timely(Message::Text(event.text)).await?;
            }
            self.cursor = event.entry.seq;
        }
        Ok(())
    }

    async fn timely(&mut self, message: Message) -> Result<(), Ended> {
        match tokio::time::timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Ended::Slow),
        }
    }
}
