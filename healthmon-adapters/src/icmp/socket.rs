//! A socket for pings of one address.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use healthmon_core::probe::{FailReason, IndeterminateReason};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use super::packet::{Echo, HEAD, Version, meaning, quoted, reply, without_ipv4_header};
use crate::net::{DialError, attempt::Fault};

/// How much of what comes is read: the largest payload that we send, and what may stand before it.
const BUFFER: usize = 2048;
/// How much of an error's words about itself is read.
const ANCILLARY: usize = 256;

/// How it was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// As anybody in the right group may; the kernel chooses the identifier, and hands over only
    /// what carries it.
    Datagrams,
    /// With a privilege.
    Raw,
}

/// A socket connected to one address, and the identifier of what it sends.
#[derive(Debug)]
pub(super) struct EchoSocket {
    socket: UdpSocket,
    address: SocketAddr,
    access: Access,
    ident: u16,
}

/// Something that came.
pub(super) enum Heard {
    /// A reply with this number.
    Reply {
        /// Its number.
        sequence: u16,
        /// What came with it.
        payload: Box<[u8]>,
    },
    /// Somebody says that a ping cannot be delivered.
    Undelivered {
        /// The ping's number.
        sequence: u16,
        /// What was said, by whom.
        told: String,
    },
    /// What is not about this socket's pings.
    Nothing,
}

impl EchoSocket {
    /// A socket for pings of `address`, which the policy has allowed.
    pub(super) fn open(address: SocketAddr) -> Result<Self, Fault> {
        let (domain, protocol) = match address {
            SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, access) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
            Ok(socket) => (socket, Access::Datagrams),
            Err(first) => match Socket::new(domain, Type::RAW, Some(protocol)) {
                Ok(socket) => (socket, Access::Raw),
                Err(error) => return Err(refused(address, &first, error)),
            },
        };
        let failed = |source| Fault::from(DialError::Connect { address, source });
        let ident = rand::random();
        if access == Access::Raw {
            // It would get every reply that comes to this machine: those of many probes at once fill the
            // buffers of all of them.
            socket.attach_filter(&only_replies(Version::of(&address), ident)).map_err(failed)?;
        }
        let told_of_errors = match Version::of(&address) {
            Version::V4 => setsockopt(&socket, Ipv4RecvErr, &true),
            Version::V6 => setsockopt(&socket, Ipv6RecvErr, &true),
        };
        told_of_errors.map_err(|error| failed(error.into()))?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.connect(&address.into()).map_err(|error| no_way(address, error))?;
        let socket = UdpSocket::from_std(socket.into()).map_err(failed)?;
        Ok(Self { socket, address, access, ident })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What sort of socket it is, for people.
    pub(super) const fn kind(&self) -> &'static str {
        match self.access {
            Access::Datagrams => "unprivileged",
            Access::Raw => "raw",
        }
    }

    pub(super) const fn ident(&self) -> u16 {
        self.ident
    }

    pub(super) async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send(packet).await.map(drop)
    }

    /// Why a ping could not even be sent.
    pub(super) fn no_way(&self, error: io::Error) -> Fault {
        no_way(self.address, error)
    }

    /// Waits for the next thing that comes.
    pub(super) async fn listen(&self) -> io::Result<Heard> {
        let mut buffer = [0; BUFFER];
        loop {
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            match self.socket.try_recv_from(&mut buffer) {
                Ok((size, from)) => return Ok(self.read(&buffer[..size], from.ip())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It is in the queue of errors too, with more about it.
                Err(_) => {}
            }
            if ready.is_error() {
                match self.socket.try_io(Interest::ERROR, || self.next_error()) {
                    Ok(heard) => return Ok(heard),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn read(&self, packet: &[u8], from: IpAddr) -> Heard {
        let version = Version::of(&self.address);
        let message = match (version, self.access) {
            (Version::V4, Access::Raw) => without_ipv4_header(packet),
            _ => Some(packet),
        };
        // A socket for datagrams gets replies to its pings from wherever they come.
        match message.and_then(|message| reply(version, message)) {
            Some(echo) if from.to_canonical() == self.address.ip() && self.is_ours(&echo) => {
                Heard::Reply { sequence: echo.sequence, payload: echo.payload.into() }
            }
            _ => Heard::Nothing,
        }
    }

    fn is_ours(&self, echo: &Echo<'_>) -> bool {
        self.access == Access::Datagrams || echo.ident == self.ident
    }

    /// Takes one from the queue of errors.
    fn next_error(&self) -> io::Result<Heard> {
        let (mut quote, mut ancillary) = ([0; HEAD], [0; ANCILLARY]);
        let mut slices = [IoSliceMut::new(&mut quote)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let received = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut slices, Some(&mut ancillary), flags)?;
        let size = received.bytes;
        let told = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, by) => {
                let by = by.map(|by| IpAddr::from(u32::from_be(by.sin_addr.s_addr).to_be_bytes()));
                Some((Version::V4, error.ee_type, error.ee_code, error.ee_errno, by))
            }
            ControlMessageOwned::Ipv6RecvErr(error, by) => {
                let by = by.map(|by| IpAddr::from(by.sin6_addr.s6_addr));
                Some((Version::V6, error.ee_type, error.ee_code, error.ee_errno, by))
            }
            _ => None,
        });
        let Some((version, kind, code, errno, by)) = told else { return Ok(Heard::Nothing) };
        let Some(echo) = quoted(version, &quote[..size.min(HEAD)]).filter(|echo| self.is_ours(echo)) else {
            return Ok(Heard::Nothing);
        };
        let told = match by.filter(|by| !by.is_unspecified()) {
            Some(by) => format!("{} (icmp type {kind} code {code}), says {by}", meaning(version, kind, code)),
            // No message said so but our own kernel.
            None => io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0)).to_string(),
        };
        Ok(Heard::Undelivered { sequence: echo.sequence, told })
    }
}

fn no_way(address: SocketAddr, source: io::Error) -> Fault {
    // A ping has no port.
    let told = format!("ping {}: {source}", address.ip());
    match Fault::from(DialError::Connect { address, source }) {
        fault if fault.outcome == healthmon_core::probe::Outcome::Fail(FailReason::Connect) => {
            Fault::fail(FailReason::Connect, told)
        }
        ours => ours,
    }
}

/// Lets in echo replies to this identifier: a program of the classic packet filter, whose instructions
/// are in <https://www.kernel.org/doc/html/latest/networking/filter.html>.
fn only_replies(version: Version, ident: u16) -> Vec<SockFilter> {
    const LENGTH_OF_IPV4_HEADER: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let load = |code, at| SockFilter::new(code, 0, 0, at);
    let (mut program, byte, half) = match version {
        // Beyond a header of any length.
        Version::V4 => (vec![load(LENGTH_OF_IPV4_HEADER, 0)], 0x50, 0x48),
        Version::V6 => (Vec::new(), 0x30, 0x28),
    };
    program.extend([
        load(byte, 0),
        SockFilter::new(EQUAL, 0, 3, version.reply().into()),
        load(half, 4),
        SockFilter::new(EQUAL, 0, 1, ident.into()),
        load(RETURN, u32::MAX),
        load(RETURN, 0),
    ]);
    program
}

/// The system gives neither socket.
fn refused(address: SocketAddr, datagrams: &io::Error, raw: io::Error) -> Fault {
    if raw.kind() != io::ErrorKind::PermissionDenied {
        return no_way(address, raw);
    }
    let detail = format!(
        "the system gives this process no socket for pings: let its group into the sysctl \
         net.ipv4.ping_group_range (\"0 2147483647\" lets in everybody), or give it CAP_NET_RAW \
         (datagrams: {datagrams}; raw: {raw})"
    );
    Fault::indeterminate(IndeterminateReason::Permission, detail)
}

#[cfg(test)]
mod tests {
    use healthmon_core::probe::Outcome;

    use super::*;

    fn told(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn to_be_refused_both_sockets_is_a_lack_of_permission_and_says_how_to_allow_them() {
        let address = "192.0.2.1:0".parse().expect("an address");
        let fault = refused(address, &told(13), told(1));
        assert_eq!(fault.outcome, Outcome::Indeterminate(IndeterminateReason::Permission));
        assert!(fault.detail.contains("net.ipv4.ping_group_range") && fault.detail.contains("CAP_NET_RAW"));
        assert!(fault.detail.chars().count() < healthmon_core::probe::DETAIL_LIMIT, "it is told whole");
        let exhausted = refused(address, &told(13), told(24));
        assert_eq!(exhausted.outcome, Outcome::Indeterminate(IndeterminateReason::Internal));
    }
}
