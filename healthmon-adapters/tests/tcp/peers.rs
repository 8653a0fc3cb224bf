//! Peers that say what a test wants, and the probers that meet them.

use std::sync::Arc;

use healthmon_adapters::{
    net::{Loopback, tls::TlsClient},
    secrets::Secrets,
    tcp::TcpProber,
    tls::TlsProber,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::support::{Authority, Server, dialer, wait_for_end};

/// What a peer does when it has said all it had to say.
#[derive(Clone)]
pub(crate) enum Then {
    Close,
    Hang,
    /// Takes a handshake, and goes on saying.
    Tls(TlsAcceptor, &'static [&'static str]),
}

/// Says the first of `says` at once and each further one when something has come.
pub(crate) async fn saying(says: &'static [&'static [u8]], then: Then) -> Server {
    Server::raw(move |mut stream| {
        let then = then.clone();
        async move {
            if say(&mut stream, says).await.is_none() {
                return;
            }
            match then {
                Then::Close => {
                    stream.shutdown().await.ok();
                    wait_for_end(&mut stream).await;
                }
                Then::Hang => wait_for_end(&mut stream).await,
                Then::Tls(acceptor, says) => {
                    // A prober that refuses the certificate breaks the handshake off.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let says: Vec<&[u8]> = says.iter().map(|said| said.as_bytes()).collect();
                    say(&mut stream, &says).await;
                    wait_for_end(&mut stream).await;
                }
            }
        }
    })
    .await
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, says: &[&[u8]]) -> Option<()> {
    let mut buffer = [0; 4096];
    for (at, said) in says.iter().enumerate() {
        if at > 0 && stream.read(&mut buffer).await.ok()? == 0 {
            return None;
        }
        stream.write_all(said).await.ok()?;
        stream.flush().await.ok()?;
    }
    Some(())
}

pub(crate) fn tcp(tls: TlsClient) -> TcpProber {
    TcpProber::new(dialer(Loopback::Allowed), tls, Secrets::default())
}

pub(crate) fn tls(tls: TlsClient) -> TlsProber {
    TlsProber::new(dialer(Loopback::Allowed), tls, Secrets::default())
}

/// A prober for tests without certificates.
pub(crate) fn plain() -> Arc<TcpProber> {
    Arc::new(tcp(Authority::new().tls()))
}
