//! Who a request comes from when a proxy hands it on.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use healthmon_adapters::net::IpNet;
use http::HeaderMap;

/// What proxies note there, each behind what it was told.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// A network of proxies that are believed when they say whose request they hand on.
///
/// ```
/// use healthmon_server::auth::TrustedProxy;
///
/// assert!("10.0.0.0/8".parse::<TrustedProxy>().is_ok());
/// assert!("2001:db8::7".parse::<TrustedProxy>().is_ok());
/// assert!("0.0.0.0/0".parse::<TrustedProxy>().is_err(), "then everybody could be anybody");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedProxy(IpNet);

/// Not a network of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the network or the address of proxies, such as 10.1.2.0/24 or 2001:db8::7, and not everybody's")]
pub struct InvalidProxy;

impl FromStr for TrustedProxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| InvalidProxy)?;
        if network.prefix_len() == 0 { Err(InvalidProxy) } else { Ok(Self(network)) }
    }
}

/// Whether an address is a trusted proxy's.
pub(super) fn trusts(trusted: &[TrustedProxy], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|proxy| proxy.0.contains(&address))
}

/// Who sent a request: the last address on its way that is not a trusted proxy's.
///
/// The way is read from its end. What stands before an address that is not trusted is that one's own
/// word, and counts for nothing.
pub(super) fn client(trusted: &[TrustedProxy], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.to_canonical();
    for value in headers.get_all(FORWARDED_FOR).into_iter().rev() {
        for hop in value.to_str().unwrap_or_default().rsplit(',') {
            if !trusts(trusted, client) {
                return client;
            }
            match address(hop.trim()) {
                Some(before) => client = before.to_canonical(),
                None => return client,
            }
        }
    }
    client
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client_of(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let value = |text: &&str| ("x-forwarded-for".parse().unwrap(), HeaderValue::from_str(text).unwrap());
        let headers: HeaderMap = forwarded.iter().map(value).collect();
        client(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn sec_the_last_untrusted_address_on_the_way_is_the_client() {
        for (peer, forwarded, expected) in [
            ("10.0.0.1", &["192.0.2.9"] as &[_], "192.0.2.9"),
            ("10.0.0.1", &["192.0.2.66, 192.0.2.9"], "192.0.2.9"),
            ("10.0.0.1", &["192.0.2.66,192.0.2.9 , 10.3.3.3"], "192.0.2.9"),
            ("10.0.0.1", &["192.0.2.66", "192.0.2.9", "10.3.3.3"], "192.0.2.9"),
            ("::ffff:10.0.0.1", &["::ffff:192.0.2.9"], "192.0.2.9"),
            ("2001:db8::1", &["[2001:db9::9]:4711"], "2001:db9::9"),
            ("10.0.0.1", &["192.0.2.9:4711"], "192.0.2.9"),
            ("10.0.0.1", &["10.0.0.7"], "10.0.0.7"),
            // Nobody said, or not in a way that is understood.
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9, unknown, 10.3.3.3"], "10.3.3.3"),
            // Who is not trusted may say what it likes.
            ("192.0.2.1", &["192.0.2.9"], "192.0.2.1"),
            ("192.0.2.1", &["10.0.0.1"], "192.0.2.1"),
        ] {
            assert_eq!(client_of(peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn networks_and_addresses_are_taken_and_everybody_is_not() {
        for text in ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32", "::1"] {
            assert!(text.parse::<TrustedProxy>().is_ok(), "{text}");
        }
        for text in ["", "*", "proxy", "10.0.0.0/33", "0.0.0.0/0", "::/0"] {
            assert_eq!(text.parse::<TrustedProxy>(), Err(InvalidProxy), "{text}");
        }
    }
}
