//! A peer on this machine that says what a fuzzer wants.

use std::{
    future::{Future, pending},
    pin::pin,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::HERE;

/// Where in an input the peer's port is put.
const PORT: &[u8] = b"PORT";

/// Listens, and runs what `probe` makes of the port while `serve` is given each connection, one
/// after the other. Both are polled by the caller's own task; the peer ends with the probe.
pub(super) async fn beside<P, S>(probe: impl FnOnce(u16) -> P, mut serve: impl FnMut(TcpStream, u16) -> S) -> P::Output
where
    P: Future,
    S: Future<Output = ()>,
{
    let listener = TcpListener::bind((HERE, 0)).await.unwrap_or_else(|error| panic!("cannot listen: {error}"));
    let port = listener.local_addr().map_or(0, |address| address.port());
    let serving = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => serve(stream, port).await,
                Err(_) => pending().await,
            }
        }
    };
    let (probing, serving) = (pin!(probe(port)), pin!(serving));
    tokio::select! {
        biased;
        ended = probing => ended,
        () = serving => unreachable!("it serves for ever"),
    }
}

/// Waits for something to be said, and answers it.
pub(super) async fn answer(stream: &mut TcpStream, piece: &[u8], port: u16) {
    let mut heard = vec![0; 16 * 1024];
    if stream.read(&mut heard).await.is_ok_and(|read| read > 0) {
        send(stream, piece, port).await;
    }
}

/// Sends a piece, with the peer's port where it belongs. A peer that is not listened to gives up.
pub(super) async fn send(stream: &mut TcpStream, piece: &[u8], port: u16) {
    let _gave_up = stream.write_all(&with_port(piece, port)).await;
}

/// Ends what is said, and waits for the other's end.
pub(super) async fn leave(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = vec![0; 16 * 1024];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}

fn with_port(piece: &[u8], port: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len());
    let mut rest = piece;
    while let Some(at) = rest.windows(PORT.len()).position(|window| window == PORT) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(port.to_string().as_bytes());
        rest = &rest[at + PORT.len()..];
    }
    out.extend_from_slice(rest);
    out
}
