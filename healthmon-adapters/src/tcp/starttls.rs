//! Asking a peer, in its own protocol, to go on over TLS.

mod ldap;
mod lines;

use healthmon_core::probe::FailReason;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::dialogue::broken;
use crate::net::{Progress, Stage, attempt::Fault};
use lines::Lines;

/// The protocols in which TLS can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartTls {
    Smtp,
    Imap,
    Pop3,
    Ftp,
    Postgres,
    Ldap,
}

/// As we introduce ourselves to a mail server: a name that nobody has.
const EHLO: &[u8] = b"EHLO healthmon.invalid\r\n";

impl StartTls {
    /// Asks, and returns when the peer waits for the handshake. Nothing it sent is left unread or
    /// taken over into the session: what came in plain behind its consent is refused, for whoever
    /// stands between could have put it there (CVE-2011-0411).
    pub(super) async fn ask(self, stream: &mut TcpStream, progress: &mut Progress) -> Result<(), Fault> {
        progress.stage = Stage::StartTls;
        let mut lines = Lines::new(stream);
        match self {
            Self::Smtp => smtp(&mut lines, progress).await?,
            Self::Ftp => ftp(&mut lines, progress).await?,
            Self::Imap => imap(&mut lines, progress).await?,
            Self::Pop3 => pop3(&mut lines, progress).await?,
            Self::Postgres => return postgres(stream, progress).await,
            Self::Ldap => return ldap::ask(stream, progress).await,
        }
        lines.end()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Ftp => "ftp",
            Self::Postgres => "postgres",
            Self::Ldap => "ldap",
        }
    }

    fn broken(self, what: &str) -> Fault {
        Fault::fail(FailReason::Protocol, format!("{what} is not {}", self.name()))
    }
}

fn refused(what: impl std::fmt::Display) -> Fault {
    Fault::fail(FailReason::Unimplemented, format!("the peer does not offer starttls: {what}"))
}

fn not_serving(what: impl std::fmt::Display) -> Fault {
    Fault::fail(FailReason::NotServing, format!("the peer says that it is not serving: {what}"))
}

fn injected() -> Fault {
    Fault::fail(FailReason::Protocol, "bytes came in plain behind the consent to starttls, before the handshake")
}

async fn smtp(lines: &mut Lines<'_>, progress: &mut Progress) -> Result<(), Fault> {
    let greeting = reply(StartTls::Smtp, lines, progress, |_| {}).await?;
    match greeting {
        220 => {}
        421 | 554 => return Err(not_serving(format_args!("its greeting is {greeting}"))),
        _ => return Err(unexpected("its greeting", greeting)),
    }
    lines.send(EHLO).await?;
    let mut offered = None;
    let answer = reply(StartTls::Smtp, lines, progress, |line| {
        let keyword = line.get(4..).unwrap_or_default();
        if keyword.trim_ascii().eq_ignore_ascii_case(b"STARTTLS") {
            offered = Some(());
        }
    });
    match answer.await? {
        250 => {}
        421 => return Err(not_serving("it answered EHLO with 421")),
        code => return Err(unexpected("its answer to EHLO", code)),
    }
    if offered.is_none() {
        return Err(refused("it is not among what it lists"));
    }
    lines.send(b"STARTTLS\r\n").await?;
    match reply(StartTls::Smtp, lines, progress, |_| {}).await? {
        220 => Ok(()),
        421 => Err(not_serving("it answered STARTTLS with 421")),
        code => Err(refused(format_args!("it answered STARTTLS with {code}"))),
    }
}

async fn ftp(lines: &mut Lines<'_>, progress: &mut Progress) -> Result<(), Fault> {
    match reply(StartTls::Ftp, lines, progress, |_| {}).await? {
        220 => {}
        code @ (120 | 421) => return Err(not_serving(format_args!("its greeting is {code}"))),
        code => return Err(unexpected("its greeting", code)),
    }
    lines.send(b"AUTH TLS\r\n").await?;
    match reply(StartTls::Ftp, lines, progress, |_| {}).await? {
        234 => Ok(()),
        421 => Err(not_serving("it answered AUTH TLS with 421")),
        code => Err(refused(format_args!("it answered AUTH TLS with {code}"))),
    }
}

fn unexpected(what: &str, code: u16) -> Fault {
    Fault::fail(FailReason::Status, format!("{what} is {code}"))
}

/// Reads a reply of SMTP or FTP, which may be of several lines, and notes its code.
async fn reply(
    protocol: StartTls,
    lines: &mut Lines<'_>,
    progress: &mut Progress,
    mut each: impl FnMut(&[u8]),
) -> Result<u16, Fault> {
    let garbage = || protocol.broken("the answer");
    let mut first = None;
    loop {
        let line = lines.next(progress).await?;
        let (digits, mark) = (line.get(..3), line.get(3).copied().unwrap_or(b' '));
        let code = digits
            .filter(|digits| digits.iter().all(u8::is_ascii_digit))
            .map(|digits| digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
            .filter(|code| (100..600).contains(code));
        each(&line);
        match (first, code, mark) {
            (None, Some(code), b' ') => first = Some(code),
            (None, Some(code), b'-') => {
                first = Some(code);
                continue;
            }
            (Some(begun), Some(code), b' ') if begun == code => {}
            (Some(_), ..) => continue,
            _ => return Err(garbage()),
        }
        progress.code = first;
        return first.ok_or_else(garbage);
    }
}

async fn imap(lines: &mut Lines<'_>, progress: &mut Progress) -> Result<(), Fault> {
    let greeting = lines.next(progress).await?;
    if !begins(&greeting, b"* OK") {
        return Err(match () {
            () if begins(&greeting, b"* BYE") => not_serving("its greeting is BYE"),
            () if begins(&greeting, b"* PREAUTH") => refused("its greeting is PREAUTH"),
            () => StartTls::Imap.broken("the greeting"),
        });
    }
    lines.send(b"h1 STARTTLS\r\n").await?;
    loop {
        let line = lines.next(progress).await?;
        return match () {
            () if begins(&line, b"h1 OK") => Ok(()),
            () if begins(&line, b"h1 NO") => Err(refused("it answered STARTTLS with NO")),
            () if begins(&line, b"h1 BAD") => Err(refused("it answered STARTTLS with BAD")),
            () if begins(&line, b"* BYE") => Err(not_serving("it answered STARTTLS with BYE")),
            // It may tell of other things in between.
            () if begins(&line, b"* ") => continue,
            () => Err(StartTls::Imap.broken("the answer to STARTTLS")),
        };
    }
}

async fn pop3(lines: &mut Lines<'_>, progress: &mut Progress) -> Result<(), Fault> {
    let greeting = lines.next(progress).await?;
    if !begins(&greeting, b"+OK") {
        return Err(match () {
            () if begins(&greeting, b"-ERR") => not_serving("its greeting is -ERR"),
            () => StartTls::Pop3.broken("the greeting"),
        });
    }
    lines.send(b"STLS\r\n").await?;
    let answer = lines.next(progress).await?;
    match () {
        () if begins(&answer, b"+OK") => Ok(()),
        () if begins(&answer, b"-ERR") => Err(refused("it answered STLS with -ERR")),
        () => Err(StartTls::Pop3.broken("the answer to STLS")),
    }
}

fn begins(line: &[u8], with: &[u8]) -> bool {
    line.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with))
        && line.get(with.len()).is_none_or(|next| !next.is_ascii_alphanumeric() || with.ends_with(b" "))
}

/// One byte answers; whatever stands behind it stays in the socket, where the handshake finds it
/// and fails. So what waits there already is looked for.
async fn postgres(stream: &mut TcpStream, progress: &mut Progress) -> Result<(), Fault> {
    // A message of 8 bytes that asks for TLS in place of a version.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    stream.write_all(&SSL_REQUEST).await.map_err(|error| broken(&error))?;
    let mut answer = [0; 16];
    let begun = tokio::time::Instant::now();
    let read = stream.read(&mut answer).await.map_err(|error| broken(&error))?;
    lines::first_byte(progress, begun, read);
    match (answer[0], read) {
        (_, 0) => Err(Fault::fail(FailReason::Protocol, "the connection was closed without an answer")),
        (b'S', 1) => Ok(()),
        (b'S', _) => Err(injected()),
        (b'N', _) => Err(refused("it answered that it has no tls")),
        (b'E', _) => Err(not_serving("it answered with an error")),
        _ => Err(StartTls::Postgres.broken("the answer")),
    }
}
