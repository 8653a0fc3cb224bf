//! The gRPC prober against servers that send anything. An input is the number of some settings and
//! then either bytes, or what right frames carry: a head's fields, a message, trailers' fields.

use std::{cell::Cell, rc::Rc};

use healthmon_core::ports::Prober;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{assert_harmless, assert_hidden, dialer, parts, peer, probe, run};
use crate::grpc::{GrpcProber, GrpcProberConfig};

/// What is sent in confidence; a server that repeats it is not repeated.
const CANARY: &str = "canary-5d1f";
const SETTINGS: [&str; 2] = ["{}", r#"{"grpc": {"metadata": {"authorization": "Bearer canary-5d1f"}}}"#];
const SETTINGS_FRAME: u8 = 4;
const HEADERS_FRAME: u8 = 1;
const DATA_FRAME: u8 = 0;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

thread_local! {
    static PROBER: Rc<GrpcProber> = {
        let config = GrpcProberConfig { dialer: dialer(), idle_connections: None, ..Default::default() };
        GrpcProber::new(config).unwrap_or_else(|error| panic!("no prober: {error}")).into()
    };
}

pub(super) fn target(data: &[u8]) {
    let Some((number, rest)) = data.split_first() else { return };
    let (settings, raw) = (SETTINGS[usize::from(*number) % SETTINGS.len()], *number >= 0x80);
    let prober = PROBER.with(Rc::clone);
    let sections = serde_json::from_str(settings).unwrap_or_else(|error| panic!("{settings}: {error}"));
    let answer = if raw { rest.to_vec() } else { frames(rest) };
    let served = Cell::new(0);
    let look = run(peer::beside(
        |port| {
            let probe = probe(&format!("grpc://cart.test:{port}/shop.v1.Cart"), &sections);
            let probe = probe.unwrap_or_else(|| panic!("{settings} are no settings"));
            assert_eq!(prober.check(&probe.service.settings), Ok(()));
            async move { prober.inspect(&probe).await }
        },
        |stream, port| {
            served.set(served.get() + 1);
            converse(stream, port, &answer)
        },
    ));
    assert!(served.get() <= 1, "one question is asked once");
    assert_harmless(&look);
    assert_hidden(&look, CANARY);
}

/// Waits until the question has come, and answers.
async fn converse(mut stream: TcpStream, port: u16, answer: &[u8]) {
    let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
    while !is_asked(&heard) {
        match stream.read(&mut piece).await {
            Ok(read) if read > 0 => heard.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    peer::send(&mut stream, answer, port).await;
    peer::leave(stream).await;
}

/// Whether a client's preface is followed by frames, one of which has headers.
fn is_asked(heard: &[u8]) -> bool {
    let mut rest = heard.get(24..).unwrap_or_default();
    while let Some((head, behind)) = rest.split_at_checked(9) {
        if head[3] == HEADERS_FRAME {
            return true;
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        rest = behind.get(length..).unwrap_or_default();
    }
    false
}

fn frames(said: &[u8]) -> Vec<u8> {
    let mut said = parts(said);
    let mut out = frame(SETTINGS_FRAME, 0, 0, &[]);
    let head = said.next().unwrap_or_default();
    let message = said.next();
    let trailers = said.next();
    let ends = if message.is_none() && trailers.is_none() { END_STREAM } else { 0 };
    out.extend(frame(HEADERS_FRAME, END_HEADERS | ends, 1, &fields(head)));
    if let Some(message) = message {
        let ends = if trailers.is_none() { END_STREAM } else { 0 };
        out.extend(frame(DATA_FRAME, ends, 1, message));
    }
    if let Some(trailers) = trailers {
        out.extend(frame(HEADERS_FRAME, END_HEADERS | END_STREAM, 1, &fields(trailers)));
    }
    out
}

fn frame(kind: u8, flags: u8, stream: u8, content: &[u8]) -> Vec<u8> {
    let content = &content[..content.len().min(16 * 1024)];
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], content].concat()
}

/// Lines of `name: value` as HPACK writes what is in no table.
fn fields(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        // The first character of `:status` is no separator.
        let at = line.iter().skip(1).position(|byte| *byte == b':').map_or(line.len(), |at| at + 1);
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        out.push(0);
        for text in [name, value] {
            let text = &text[..text.len().min(126)];
            out.push(u8::try_from(text.len()).unwrap_or(0));
            out.extend_from_slice(text);
        }
    }
    out
}
