//! The cheapest HTTP target there is, on several ports, so that no pair of addresses runs out.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PORTS: usize = 16;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::main]
pub(crate) async fn run() {
    let mut ports = Vec::new();
    for _ in 0..PORTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        ports.push(listener.local_addr().expect("its number").port().to_string());
        tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream));
                }
            }
        });
    }
    println!("{}", ports.join(","));
    std::future::pending::<()>().await;
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    let mut end = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer[end..]).await {
        end += n;
        if buffer[..end].ends_with(b"\r\n\r\n") {
            end = 0;
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
        if end == buffer.len() {
            return;
        }
    }
}
