//! Peers that are asked for STARTTLS, and dialogues. An input is the number of a protocol and then
//! what the peer says to begin with, when it is spoken to, and so on; for a dialogue there is first a
//! section with its steps, in JSON.

use healthmon_core::{probe::Outcome, service::Fields};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant, timeout_at},
};

use super::{
    dialogue::{Dialogue, READ_LIMIT},
    starttls::StartTls,
};
use crate::{
    fuzzing::{HERE, assert_printable, assert_progress_harmless, parts, run},
    net::{Progress, attempt::Fault},
    secrets::Secrets,
};

const PROTOCOLS: [StartTls; 6] =
    [StartTls::Smtp, StartTls::Imap, StartTls::Pop3, StartTls::Ftp, StartTls::Postgres, StartTls::Ldap];
/// Longer pieces may come in several reads, of which the first decides.
const IN_ONE_READ: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn target(data: &[u8]) {
    let Some((number, rest)) = data.split_first() else { return };
    match PROTOCOLS.get(usize::from(number % 8)) {
        Some(protocol) => run(starttls(*protocol, rest)),
        None => dialogue(rest),
    }
}

fn conclude(ended: Result<Result<(), Fault>, tokio::time::error::Elapsed>, progress: Progress) {
    if let Ok(Err(fault)) = ended {
        assert!(!fault.detail.is_empty() && !matches!(fault.outcome, Outcome::Pass));
        // None of these faults repeats what a peer said, so there is nothing to escape.
        assert_printable(&fault.detail);
    }
    assert_progress_harmless(progress);
}

async fn starttls(protocol: StartTls, said: &[u8]) {
    let (mut stream, mut peer) = connected().await;
    let mut progress = Progress::inspecting();
    let deadline = Instant::now() + PATIENCE;
    // Whom to greet first depends on who speaks first.
    let greets = !matches!(protocol, StartTls::Postgres | StartTls::Ldap);
    let ended = {
        let asking = timeout_at(deadline, protocol.ask(&mut stream, &mut progress));
        tokio::select! {
            biased;
            ended = asking => ended,
            () = speak(&mut peer, said, greets) => unreachable!("it speaks for ever"),
        }
    };
    let short = parts(said).all(|piece| piece.len() < IN_ONE_READ);
    if let (Ok(Ok(())), true) = (&ended, short) {
        // What stands in plain behind the consent would be taken into the session.
        let left = stream.try_read(&mut [0; 64]);
        let nothing = match &left {
            Ok(read) => *read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        };
        assert!(nothing, "{left:?} was left unread by {protocol:?}");
    }
    assert!(progress.code.is_none_or(|code| code < 600), "{:?}", progress.code);
    conclude(ended, progress);
}

async fn connected() -> (TcpStream, TcpStream) {
    let cannot = |error: std::io::Error| -> ! { panic!("cannot listen on {HERE}: {error}") };
    let listener = TcpListener::bind((HERE, 0)).await.unwrap_or_else(|error| cannot(error));
    let address = listener.local_addr().unwrap_or_else(|error| cannot(error));
    let (connecting, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let stream = connecting.unwrap_or_else(|error| cannot(error));
    (stream, accepted.unwrap_or_else(|error| cannot(error)).0)
}

/// Says one piece after the other, waiting before each (but for a greeting) to be spoken to. At last
/// it hangs up, unless the last piece is empty, and then it is silent.
async fn speak<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut S, said: &[u8], greets: bool) {
    let mut heard = [0; 4096];
    let mut is_greeting = greets;
    for piece in parts(said) {
        if !std::mem::take(&mut is_greeting) && !peer.read(&mut heard).await.is_ok_and(|read| read > 0) {
            break;
        }
        if peer.write_all(piece).await.is_err() {
            break;
        }
    }
    if !said.ends_with(&[crate::fuzzing::BETWEEN]) {
        let _hung_up = peer.shutdown().await;
    }
    std::future::pending().await
}

fn dialogue(data: &[u8]) {
    let (steps, said) = match data.iter().position(|byte| *byte == crate::fuzzing::BETWEEN) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let Ok(map) = serde_json::from_slice::<Map<String, Value>>(steps) else { return };
    let mut fields = Fields::new(map);
    let dialogue = Dialogue::read(&mut fields);
    if fields.finish().is_err() {
        return;
    }
    run(async {
        let (mut stream, mut peer): (DuplexStream, DuplexStream) = duplex(2 * READ_LIMIT);
        let mut progress = Progress::inspecting();
        let (secrets, deadline) = (Secrets::default(), Instant::now() + PATIENCE);
        let ended = tokio::select! {
            biased;
            ended = timeout_at(deadline, dialogue.hold(&mut stream, &secrets, deadline, &mut progress)) => ended,
            () = speak(&mut peer, said, true) => unreachable!("it speaks for ever"),
        };
        conclude(ended, progress);
    });
}
