//! Lines of a peer, bounded.

use healthmon_core::probe::FailReason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{super::dialogue::broken, injected};
use crate::net::{Progress, attempt::Fault, progress::add};

/// The longest line, in bytes; SMTP, the most exact of the protocols, has at most 512.
const LINE_LIMIT: usize = 4 * 1024;
/// The most lines that are read before the handshake.
const LINES_LIMIT: usize = 200;

/// A connection on which lines come and go.
pub(super) struct Lines<'a> {
    stream: &'a mut TcpStream,
    /// What was read beyond the last line.
    ahead: Vec<u8>,
    taken: usize,
    begun: Instant,
}

impl<'a> Lines<'a> {
    pub(super) fn new(stream: &'a mut TcpStream) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0, begun: Instant::now() }
    }

    /// The next line, without its end.
    pub(super) async fn next(&mut self, progress: &mut Progress) -> Result<Vec<u8>, Fault> {
        if self.taken >= LINES_LIMIT {
            return Err(protocol(format!("more than {LINES_LIMIT} lines came before the handshake")));
        }
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.pop();
                line.pop_if(|last| *last == b'\r');
                self.taken += 1;
                return Ok(line);
            }
            if self.ahead.len() >= LINE_LIMIT {
                return Err(protocol(format!("a line is longer than {LINE_LIMIT} bytes")));
            }
            let mut piece = [0; 1024];
            let most = piece.len().min(LINE_LIMIT - self.ahead.len());
            let read = self.stream.read(&mut piece[..most]).await.map_err(|error| broken(&error))?;
            first_byte(progress, self.begun, read);
            if read == 0 {
                let what = if self.ahead.is_empty() { "before a line came" } else { "within a line" };
                return Err(protocol(format!("the connection was closed {what}")));
            }
            self.ahead.extend_from_slice(&piece[..read]);
        }
    }

    /// Sends a command. What came before it is no answer to it, and must not be there.
    pub(super) async fn send(&mut self, command: &[u8]) -> Result<(), Fault> {
        if !self.ahead.is_empty() {
            return Err(protocol("the peer answered before it was asked".to_owned()));
        }
        self.stream.write_all(command).await.map_err(|error| broken(&error))
    }

    /// Ends the plain part of the connection, in which nothing may be left.
    pub(super) fn end(self) -> Result<(), Fault> {
        if self.ahead.is_empty() { Ok(()) } else { Err(injected()) }
    }
}

/// Notes when the first bytes came.
pub(super) fn first_byte(progress: &mut Progress, begun: Instant, read: usize) {
    if read > 0 && progress.phases.first_byte_us.is_none() {
        add(&mut progress.phases.first_byte_us, begun.elapsed());
    }
}

fn protocol(detail: String) -> Fault {
    Fault::fail(FailReason::Protocol, detail)
}
