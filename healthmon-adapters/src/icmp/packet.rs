//! Echo requests, and what is read of what comes.

use std::net::SocketAddr;

/// The head of an echo message.
pub(super) const HEAD: usize = 8;

/// Which ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

impl Version {
    pub(super) const fn of(address: &SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    pub(super) const fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// An echo request.
pub(super) fn request(version: Version, ident: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![version.request(), 0, 0, 0];
    packet.extend(ident.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(payload);
    // With IPv6, and on sockets for datagrams, the kernel does it.
    let sum = checksum(&packet).to_be_bytes();
    packet[2..4].copy_from_slice(&sum);
    packet
}

/// The internet checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// An echo message that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Echo<'a> {
    pub(super) ident: u16,
    pub(super) sequence: u16,
    pub(super) payload: &'a [u8],
}

/// The reply that `message` is, if it is one.
pub(super) fn reply(version: Version, message: &[u8]) -> Option<Echo<'_>> {
    echo(message, version.reply())
}

/// The request that an error is about, as far as it is quoted.
pub(super) fn quoted(version: Version, message: &[u8]) -> Option<Echo<'_>> {
    echo(message, version.request())
}

fn echo(message: &[u8], kind: u8) -> Option<Echo<'_>> {
    let (head, payload) = message.split_at_checked(HEAD)?;
    let number = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    (head[0] == kind && head[1] == 0).then(|| Echo { ident: number(4), sequence: number(6), payload })
}

/// What follows the IPv4 header with which a raw socket hands packets over.
pub(super) fn without_ipv4_header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(length.max(20)..)
}

/// What an ICMP error says.
pub(super) fn meaning(version: Version, kind: u8, code: u8) -> &'static str {
    match (version, kind, code) {
        (Version::V4, 3, 0) => "network unreachable",
        (Version::V4, 3, 1) => "host unreachable",
        (Version::V4, 3, 2) => "protocol unreachable",
        (Version::V4, 3, 3) => "port unreachable",
        (Version::V4, 3, 4) => "fragmentation needed",
        (Version::V4, 3, 9 | 10 | 13) | (Version::V6, 1, 1) => "administratively prohibited",
        (Version::V4, 11, _) | (Version::V6, 3, _) => "time to live exceeded",
        (Version::V6, 1, 0) => "no route to destination",
        (Version::V6, 1, 3) => "address unreachable",
        (Version::V6, 1, 4) => "port unreachable",
        (Version::V6, 2, _) => "packet too big",
        (Version::V4, 3, _) | (Version::V6, 1, _) => "destination unreachable",
        _ => "not delivered",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_sum_that_adds_up() {
        for payload in [&b""[..], b"odd", b"even"] {
            let packet = request(Version::V4, 0xbeef, 7, payload);
            assert_eq!(checksum(&packet), 0);
            assert_eq!(quoted(Version::V4, &packet), Some(Echo { ident: 0xbeef, sequence: 7, payload }));
            assert_eq!(reply(Version::V4, &packet), None);
        }
    }

    #[test]
    fn what_is_no_reply_is_none() {
        for message in [&[][..], &[0; 7], &[0, 1, 0, 0, 0, 0, 0, 0], &[8, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(reply(Version::V4, message), None, "{message:?}");
        }
        assert!(reply(Version::V6, &[129, 0, 0, 0, 0, 1, 0, 2, 3]).is_some());
    }

    #[test]
    fn an_ipv4_header_is_left_out_whatever_its_length() {
        let packet = [&[0x46; 24][..], b"icmp"].concat();
        assert_eq!(without_ipv4_header(&packet), Some(&b"icmp"[..]));
        assert_eq!(without_ipv4_header(&[0x4f; 8]), None);
        assert_eq!(without_ipv4_header(&[]), None);
    }

    #[test]
    fn errors_are_told_in_words() {
        for (version, kind, code, words) in [
            (Version::V4, 3, 1, "host unreachable"),
            (Version::V4, 3, 13, "administratively prohibited"),
            (Version::V4, 11, 0, "time to live exceeded"),
            (Version::V6, 1, 0, "no route to destination"),
            (Version::V6, 1, 3, "address unreachable"),
            (Version::V6, 1, 6, "destination unreachable"),
        ] {
            assert_eq!(meaning(version, kind, code), words);
        }
    }
}
