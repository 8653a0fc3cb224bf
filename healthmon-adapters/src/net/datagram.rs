//! What probers need that do not dial a stream: the addresses that may be asked, and datagrams.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(feature = "dns")]
use tokio::io::Interest;
use tokio::net::UdpSocket;
use url::Host;

use super::{DialError, Dialer, Progress, ResolveError, dialer::lookup_error};

impl Dialer {
    /// The addresses of `host` that the policy allows, with `port`: at least one, at most
    /// [`ADDRESSES`](Self::ADDRESSES), in the order in which they should be tried.
    ///
    /// # Errors
    /// When the name has no address, or the policy refuses them all.
    pub async fn addresses(
        &self,
        host: Host<&str>,
        port: u16,
        progress: &mut Progress,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let found = match host {
            Host::Ipv4(address) => vec![IpAddr::V4(address)],
            Host::Ipv6(address) => vec![IpAddr::V6(address)],
            Host::Domain(name) => {
                let found = self.lookup(name, progress).await?;
                if found.is_empty() {
                    let none = ResolveError::Failed("the name has no address".to_owned());
                    return Err(lookup_error(name, none));
                }
                found
            }
        };
        let mut allowed = Vec::with_capacity(found.len().min(Self::ADDRESSES));
        let mut refusal = None;
        for address in found {
            match self.policy().judge(address) {
                Ok(()) => allowed.push(SocketAddr::new(address.to_canonical(), port)),
                Err(refused) => refusal = refusal.or(Some(refused)),
            }
            if allowed.len() == Self::ADDRESSES {
                break;
            }
        }
        match refusal {
            Some(refusal) if allowed.is_empty() => Err(refusal.into()),
            _ => Ok(allowed),
        }
    }

    /// A datagram socket on a random port of its own, connected to `address`: the kernel drops what
    /// comes from anywhere else, and reports it when nobody listens there.
    ///
    /// # Errors
    /// When the policy refuses the address, or there is no way to it.
    pub async fn datagram(&self, address: SocketAddr) -> Result<UdpSocket, DialError> {
        self.policy().judge(address.ip())?;
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let failed = |source| DialError::Connect { address, source };
        let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
        socket.connect(address).await.map_err(failed)?;
        Ok(socket)
    }
}

/// Receives a datagram, or the error that says that none will come.
///
/// The kernel reports a refusal (nobody listens, no way there) as an error of the socket, and that
/// alone does not wake whoever waits for something to read.
///
/// # Errors
/// What the kernel was told of an earlier datagram.
#[cfg(feature = "dns")]
pub(crate) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<usize> {
    use std::io::{Error, ErrorKind::WouldBlock};
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        match socket.try_recv(buffer) {
            Err(error) if error.kind() == WouldBlock => {}
            received => return received,
        }
        if ready.is_error() {
            let taken = || match socket.take_error()? {
                Some(error) => Ok(error),
                None => Err(Error::from(WouldBlock)),
            };
            match socket.try_io(Interest::ERROR, taken) {
                Err(error) if error.kind() == WouldBlock => {}
                Ok(error) | Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::net::{AddressPolicy, Loopback};

    use super::*;

    #[tokio::test]
    async fn sec_no_datagram_goes_to_a_refused_address() {
        let dialer = Dialer::new(AddressPolicy::new(Loopback::Refused));
        for address in ["127.0.0.1:53", "[::ffff:127.0.0.1]:53", "169.254.169.254:53", "[::1]:53"] {
            let refused = dialer.datagram(address.parse().expect("an address")).await;
            assert!(matches!(refused, Err(DialError::Refused(_))), "{address}");
        }
    }
}
