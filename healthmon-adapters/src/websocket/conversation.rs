//! What is said and heard in a session.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use healthmon_core::{
    probe::{FailReason, Held},
    time::span,
};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message, Utf8Bytes,
    error::CapacityError,
    handshake::client::generate_key,
    protocol::frame::{CloseFrame, coding::CloseCode},
};

use super::{
    Session,
    settings::{Ping, Settings},
    stream::LIMIT,
    upgrade::{MESSAGE_LIMIT, broken, is_too_much},
};
use crate::{
    net::{Progress, attempt::Fault},
    pattern::{Effort, Found, Pattern},
};

/// So long before the deadline it is told what came instead; the deadline itself would drop that.
const LAST_WORD: Duration = Duration::from_millis(5);
/// How long the peer may take to close its side.
const FAREWELL: Duration = Duration::from_millis(250);

/// Says what is to be said and waits for what is expected; what does not come is noted.
pub(super) async fn hold(
    session: &mut Session,
    settings: &Settings,
    message: Option<Utf8Bytes>,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<(), Fault> {
    let mut awaited =
        Awaited { pong: None, message: settings.expect.as_ref(), messages: 0, effort: Effort::of_a_probe() };
    if let Some(ping) = &settings.ping {
        // What is in it is hard to guess, so that only an answer to this one counts.
        let payload = Bytes::from(generate_key());
        let begun = Instant::now();
        let until = ping.within.map(|within| begun + within);
        awaited.pong = Some(Pong { payload: payload.clone(), ping: *ping, begun, until });
        session.send(Message::Ping(payload)).await.map_err(|error| broken(&error))?;
    }
    if let Some(message) = message {
        session.send(Message::Text(message)).await.map_err(|error| broken(&error))?;
    }
    awaited.come(session, deadline, progress).await
}

/// What is still to come.
struct Awaited<'a> {
    pong: Option<Pong>,
    message: Option<&'a Pattern>,
    /// How many messages came.
    messages: usize,
    effort: Effort,
}

struct Pong {
    payload: Bytes,
    ping: Ping,
    begun: Instant,
    until: Option<Instant>,
}

impl Awaited<'_> {
    async fn come(&mut self, session: &mut Session, deadline: Instant, progress: &mut Progress) -> Result<(), Fault> {
        let last_word = deadline.checked_sub(LAST_WORD).unwrap_or(deadline);
        while self.pong.is_some() || self.message.is_some() {
            let pong_until = self.pong.as_ref().and_then(|pong| pong.until).filter(|until| *until < last_word);
            let next = timeout_at(pong_until.unwrap_or(last_word), session.next()).await;
            match next {
                Err(_) if pong_until.is_some() => self.miss_pong("none by then", progress),
                // Messages came, so the peer has answered: that it is not the expected answer says
                // more than that time ran out.
                Err(_) if self.messages > 0 && self.pong.is_none() => self.miss("until the deadline", progress),
                Err(_) => std::future::pending().await,
                Ok(Some(Ok(Message::Text(text)))) => self.hear(text.as_bytes(), progress),
                Ok(Some(Ok(Message::Binary(bytes)))) => self.hear(&bytes, progress),
                Ok(Some(Ok(Message::Pong(payload)))) => self.pong(&payload, progress),
                // Pings are answered by the library, with the next that is sent or read.
                Ok(Some(Ok(Message::Ping(_) | Message::Frame(_)))) => {}
                Ok(Some(Ok(Message::Close(frame)))) => self.closed(frame.as_ref(), progress)?,
                Ok(None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed))) => self.closed(None, progress)?,
                Ok(Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. })))) if self.message.is_some() => {
                    self.miss(&format!("and then one longer than {MESSAGE_LIMIT} bytes"), progress);
                }
                Ok(Some(Err(error))) if is_too_much(&error) => {
                    self.miss(&format!("within {LIMIT} bytes"), progress);
                }
                Ok(Some(Err(error))) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    fn hear(&mut self, message: &[u8], progress: &mut Progress) {
        self.messages += 1;
        let Some(pattern) = self.message else { return };
        if !self.effort.spend(pattern, message) {
            let Some(pattern) = self.message.take() else { return };
            progress.assertions.note("message", Held::Failed, FailReason::Assertion, || {
                let searched = self.messages - 1;
                (
                    pattern.to_string(),
                    format!("{searched} messages without it, and more than is searched for so large an expression"),
                )
            });
            return;
        }
        if let Found::Until(_) = pattern.find(message, 0) {
            self.message = None;
            progress
                .assertions
                .note("message", Held::Held, FailReason::Assertion, || (pattern.to_string(), "it".into()));
        }
    }

    fn pong(&mut self, payload: &Bytes, progress: &mut Progress) {
        let Some(pong) = self.pong.take_if(|pong| pong.payload == *payload) else { return };
        let took = pong.begun.elapsed();
        let seen = format!("{:.1} ms", took.as_secs_f64() * 1e3);
        progress.learn("pong", format_args!("after {seen}"));
        let Some(within) = pong.ping.within else { return };
        let held = if took <= within { Held::Held } else { Held::Failed };
        progress.assertions.note("pong", held, FailReason::Assertion, || (wanted(within), seen));
    }

    fn closed(&mut self, frame: Option<&CloseFrame>, progress: &mut Progress) -> Result<(), Fault> {
        let code = frame.map(|frame| frame.code);
        if let Some(CloseCode::Away | CloseCode::Restart | CloseCode::Again) = code {
            let code = code.map_or(0, u16::from);
            return Err(Fault::fail(FailReason::NotServing, format!("the peer closed the session with code {code}")));
        }
        // What it says as a reason is its own text, and not repeated.
        let how = match code {
            Some(code) => format!("and then a close with code {}", u16::from(code)),
            None => "and then the end".to_owned(),
        };
        self.miss(&how, progress);
        Ok(())
    }

    /// Notes that nothing of what is awaited will come.
    fn miss(&mut self, how: &str, progress: &mut Progress) {
        self.miss_pong("none", progress);
        let Some(pattern) = self.message.take() else { return };
        progress.assertions.note("message", Held::Failed, FailReason::Assertion, || {
            let came = match self.messages {
                0 => "nothing of it".to_owned(),
                1 => "1 message without it".to_owned(),
                several => format!("{several} messages without it"),
            };
            (pattern.to_string(), format!("{came} {how}"))
        });
    }

    fn miss_pong(&mut self, seen: &str, progress: &mut Progress) {
        let Some(pong) = self.pong.take() else { return };
        progress.assertions.note("pong", Held::Failed, FailReason::Assertion, || {
            (pong.ping.within.map_or_else(|| "one".to_owned(), wanted), seen.to_owned())
        });
    }
}

fn wanted(within: Duration) -> String {
    format!("within {}", span::format(within))
}

/// Closes the session and gives the peer a moment to do so too.
pub(super) async fn close(mut session: Session, deadline: Instant) {
    let until = (Instant::now() + FAREWELL).min(deadline);
    let farewell = async {
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        session.close(Some(frame)).await?;
        while let Some(said) = session.next().await {
            said?;
        }
        Ok::<_, Error>(())
    };
    if let Ok(Err(error)) = timeout_at(until, farewell).await {
        tracing::trace!(%error, "the peer did not close the session by the book");
    }
}
