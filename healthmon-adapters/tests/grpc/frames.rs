//! HTTP/2 by hand, to say what no honest library says.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block: every field a literal that is not indexed.
pub(crate) fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name.as_bytes());
        text(&mut block, value);
    }
    block
}

fn text(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).expect("short"));
    } else {
        block.push(127);
        let mut left = text.len() - 127;
        while left >= 128 {
            block.push(u8::try_from(left % 128 + 128).expect("a byte"));
            left /= 128;
        }
        block.push(u8::try_from(left).expect("a byte"));
    }
    block.extend(text);
}

/// A server's first frame, and the head of an answer with these fields behind `:status`.
pub(crate) fn head(status: &str, flags: u8, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = vec![(":status", status.as_bytes())];
    all.extend(fields);
    [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS | flags, 1, &block(&all))].concat()
}

/// The head of a gRPC answer.
pub(crate) fn grpc_head(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = vec![("content-type", &b"application/grpc"[..])];
    all.extend(fields);
    head("200", 0, &all)
}

/// A message in gRPC's frame.
pub(crate) fn message(compressed: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![compressed];
    message.extend(length.to_be_bytes());
    message.extend(bytes);
    frame(DATA, 0, 1, &message)
}

/// The message that says SERVING.
pub(crate) fn serving() -> Vec<u8> {
    message(0, 2, &[8, 1])
}

/// Trailers that end the answer.
pub(crate) fn trailers(fields: &[(&str, &[u8])]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// Reads a client's preface and its frames until its request is complete.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() {
        return;
    }
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        if stream.read_exact(&mut payload).await.is_err() || (head[3] == DATA && head[4] & END_STREAM != 0) {
            return;
        }
    }
}

/// Reads until the peer closes or resets.
pub(crate) async fn wait_for_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}

/// A server on loopback that gives every connection to a test; it ends with the test.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    pub(crate) async fn new<F, S>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream));
            }
        });
        Self { address, task }
    }

    /// Says `bytes` once a request has come, and no more.
    pub(crate) async fn saying(bytes: Vec<u8>) -> Self {
        Self::new(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                read_request(&mut stream).await;
                // A prober that has seen enough may be gone by now.
                stream.write_all(&bytes).await.ok();
                wait_for_end(&mut stream).await;
            }
        })
        .await
    }

    /// The same, and closes.
    pub(crate) async fn saying_and_closing(bytes: Vec<u8>) -> Self {
        Self::new(move |mut stream| {
            let bytes = bytes.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
                wait_for_end(&mut stream).await;
            }
        })
        .await
    }

    /// Says `first`, and then `over` again and again, as fast as it is taken. What comes is read.
    pub(crate) async fn repeating(first: Vec<u8>, over: Vec<u8>) -> Self {
        Self::new(move |mut stream| {
            let (first, over) = (first.clone(), over.repeat(64));
            async move {
                read_request(&mut stream).await;
                let (mut reading, mut writing) = stream.split();
                let flood = async {
                    if writing.write_all(&first).await.is_ok() {
                        while writing.write_all(&over).await.is_ok() {}
                    }
                };
                tokio::join!(flood, wait_for_end(&mut reading));
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("grpc://{}/", self.address)
    }
}
