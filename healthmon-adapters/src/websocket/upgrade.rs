//! From a connection to a session.

use std::{error::Error as _, io};

use healthmon_core::probe::FailReason;
use http::Request;
use tokio::time::Instant;
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error,
        error::{ProtocolError, SubProtocolError},
        protocol::WebSocketConfig,
    },
};

use super::{Session, settings::SEND_LIMIT, stream::Metered};
use crate::net::{Progress, Stage, attempt::Fault, progress::add};

/// The longest message that is read, in bytes, whole or in fragments.
pub(super) const MESSAGE_LIMIT: usize = 64 * 1024;

pub(super) async fn upgrade(request: Request<()>, stream: Metered, progress: &mut Progress) -> Result<Session, Fault> {
    // Small buffers: a probe's memory, and what is worked off before others have their turn.
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * SEND_LIMIT)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(MESSAGE_LIMIT));
    let begun = Instant::now();
    progress.stage = Stage::Answer;
    let upgraded = client_async_with_config(request, stream, Some(config)).await;
    add(&mut progress.phases.first_byte_us, begun.elapsed());
    let (session, response) = upgraded.map_err(|error| refused(&error, progress))?;
    progress.code = Some(response.status().as_u16());
    if let Some(agreed) = response.headers().get(http::header::SEC_WEBSOCKET_PROTOCOL) {
        progress.learn("subprotocol", String::from_utf8_lossy(agreed.as_bytes()));
    }
    Ok(session)
}

fn refused(error: &Error, progress: &mut Progress) -> Fault {
    match error {
        Error::Http(response) => {
            let status = response.status().as_u16();
            progress.code = Some(status);
            Fault::fail(FailReason::Status, format!("expected status 101, got {status}"))
        }
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol)) => {
            progress.code = Some(101);
            Fault::fail(FailReason::Unimplemented, "the peer speaks none of the subprotocols that were offered")
        }
        Error::AttackAttempt => {
            Fault::fail(FailReason::Protocol, "the answer to the upgrade is too long, or comes in too small pieces")
        }
        other => broken(other),
    }
}

/// The fault of a session that broke. None of these texts holds what the peer sent.
pub(super) fn broken(error: &Error) -> Fault {
    match error {
        Error::Io(error) => {
            // With TLS 1.3 a peer may refuse us only after the handshake, by an alert.
            let alert = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            let reason = if alert { FailReason::Tls } else { FailReason::Protocol };
            Fault::fail(reason, format!("the connection broke: {error}"))
        }
        Error::Protocol(error) => Fault::fail(FailReason::Protocol, format!("websocket: {error}")),
        Error::Capacity(error) => Fault::fail(FailReason::Protocol, format!("websocket: {error}")),
        Error::Utf8(_) => Fault::fail(FailReason::Protocol, "websocket: a text that is not UTF-8"),
        Error::HttpFormat(error) => {
            Fault::fail(FailReason::Protocol, format!("the answer to the upgrade is not HTTP: {error}"))
        }
        other => Fault::fail(FailReason::Protocol, format!("websocket: {other}")),
    }
}

/// Whether a session broke because more came than is read.
pub(super) fn is_too_much(error: &Error) -> bool {
    let of_meter = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<super::stream::TooMuch>());
    match error {
        Error::Io(error) => {
            of_meter(error) || error.source().is_some_and(|source| source.is::<super::stream::TooMuch>())
        }
        _ => false,
    }
}
