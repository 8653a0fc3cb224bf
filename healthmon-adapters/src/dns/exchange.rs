//! Sending a question and waiting for its answer.

use std::{io, net::SocketAddr, time::Duration};

use healthmon_core::probe::{FailReason, Outcome};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::message::{Answer, Query, Stray, Verdict, broken};
use crate::net::{DialError, Dialer, Progress, Stage, attempt::Fault, datagram::receive, progress::add};

/// The largest datagram that is read; we ask for less.
const DATAGRAM_LIMIT: usize = 4096;
/// When a datagram is sent again for the first time; then twice as late each time.
const RESEND: Duration = Duration::from_secs(1);
/// How many datagrams that answer something else are ignored before the server is given up.
const STRAYS: u32 = 1024;

/// What came that was no answer to the question.
#[derive(Debug, Default)]
pub(super) struct Heard {
    count: u32,
    last: Option<Stray>,
}

impl Heard {
    fn note(&mut self, stray: Stray) -> Result<(), Fault> {
        self.count += 1;
        self.last = Some(stray);
        match self.fault() {
            Some(fault) if self.count >= STRAYS => Err(fault),
            _ => Ok(()),
        }
    }

    /// What it means when no answer came.
    pub(super) fn fault(&self) -> Option<Fault> {
        let last = self.last?.as_str();
        let detail = match self.count {
            1 => format!("no answer but one message, which {last}"),
            count => format!("no answer but {count} messages, the last of which {last}"),
        };
        Some(Fault::fail(FailReason::Protocol, detail))
    }

    /// The answer has come after all.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Asks `addresses` in turn, each with an equal share of the time that is left, and tells which
/// one answered. The caller enforces the deadline.
pub(super) async fn over_datagrams(
    dialer: &Dialer,
    addresses: &[SocketAddr],
    query: &Query,
    deadline: Instant,
    heard: &mut Heard,
    progress: &mut Progress,
) -> Result<(Answer, SocketAddr), Fault> {
    let begun = Instant::now();
    progress.stage = Stage::Answer;
    let mut seen = None;
    for (at, &address) in addresses.iter().enumerate() {
        let left = addresses.len() - at;
        let share = deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        // The last one has all there is, until the caller's deadline strikes.
        let until = (left > 1).then(|| Instant::now() + share);
        let asked = ask(dialer, address, query, until, heard).await;
        match asked {
            Ok(Some(answer)) => {
                add(&mut progress.phases.first_byte_us, begun.elapsed());
                return Ok((answer, address));
            }
            Ok(None) => {}
            // What is seen of the target says more than a trouble of ours.
            Err(fault) if seen.is_none() || matches!(fault.outcome, Outcome::Fail(_)) => seen = Some(fault),
            Err(_) => {}
        }
    }
    Err(seen.unwrap_or_else(|| Fault::fail(FailReason::Timeout, "no address of the server answers")))
}

/// `None` when `until` has come and no answer.
async fn ask(
    dialer: &Dialer,
    address: SocketAddr,
    query: &Query,
    until: Option<Instant>,
    heard: &mut Heard,
) -> Result<Option<Answer>, Fault> {
    let socket = dialer.datagram(address).await?;
    let failed = |source| Fault::from(DialError::Connect { address, source });
    let mut buffer = vec![0; DATAGRAM_LIMIT];
    let mut patience = RESEND;
    loop {
        socket.send(&query.bytes).await.map_err(failed)?;
        let resend = Instant::now() + patience;
        patience *= 2;
        let wait_until = until.map_or(resend, |until| until.min(resend));
        let waited = timeout_at(wait_until, listen(&socket, query, &mut buffer, heard, address)).await;
        match waited {
            Ok(answer) => return answer.map(Some),
            Err(_) if until.is_some_and(|until| until <= Instant::now()) => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Waits for the answer, and ignores what is none.
async fn listen(
    socket: &UdpSocket,
    query: &Query,
    buffer: &mut [u8],
    heard: &mut Heard,
    address: SocketAddr,
) -> Result<Answer, Fault> {
    loop {
        let size =
            receive(socket, buffer).await.map_err(|source| Fault::from(DialError::Connect { address, source }))?;
        match query.judge(&buffer[..size]) {
            Verdict::Answer(answer) => return Ok(answer),
            Verdict::Other(stray) => heard.note(stray)?,
            Verdict::Broken(why) => return Err(broken(&why)),
        }
    }
}

/// Asks over a stream on which nothing else is asked: whatever comes should be the answer.
pub(super) async fn over_stream<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    query: &Query,
    progress: &mut Progress,
) -> Result<Answer, Fault> {
    let begun = Instant::now();
    progress.stage = Stage::Answer;
    let length = u16::try_from(query.bytes.len()).map_err(|_| broken("the question is too long"))?;
    let message = [&length.to_be_bytes(), query.bytes.as_slice()].concat();
    stream.write_all(&message).await.map_err(|error| interrupted(&error))?;
    stream.flush().await.map_err(|error| interrupted(&error))?;
    let length = stream.read_u16().await.map_err(|error| interrupted(&error))?;
    add(&mut progress.phases.first_byte_us, begun.elapsed());
    progress.stage = Stage::Body;
    // It grows with what comes, not with what is promised.
    let mut answer = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut answer).await.map_err(|error| interrupted(&error))?;
    if answer.len() < usize::from(length) {
        let detail = format!("the connection was closed after {} of {length} bytes of the answer", answer.len());
        return Err(Fault::fail(FailReason::Protocol, detail));
    }
    match query.judge(&answer) {
        Verdict::Answer(answer) => Ok(answer),
        Verdict::Other(stray) => Err(Fault::fail(FailReason::Protocol, format!("what came {}", stray.as_str()))),
        Verdict::Broken(why) => Err(broken(&why)),
    }
}

fn interrupted(error: &io::Error) -> Fault {
    // With TLS 1.3 a peer may refuse us only after the handshake, by an alert.
    let alert = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    match error.kind() {
        _ if alert => Fault::fail(FailReason::Tls, format!("tls: {error}")),
        io::ErrorKind::UnexpectedEof => {
            Fault::fail(FailReason::Protocol, "the connection was closed without an answer")
        }
        _ => Fault::fail(FailReason::Protocol, format!("the connection broke: {error}")),
    }
}
