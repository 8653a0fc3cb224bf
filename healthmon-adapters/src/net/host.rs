//! The host of a URL whose scheme the URL standard does not know.

use url::{Host, Url};

/// The host of `url`, an address wherever one is written.
///
/// Of schemes other than its own few the URL standard keeps the host as it is written, `127.0.0.1`
/// and `bücher.example` alike. Here it is read as that of an `http` URL, by the same parser.
/// `None` when there is none, or none that could be.
pub(crate) fn host(url: &Url) -> Option<Host<String>> {
    match url.host()? {
        Host::Domain(text) => Host::parse(text).ok(),
        address => Some(address.to_owned()),
    }
}

/// The same host, borrowed.
pub(crate) fn borrowed(host: &Host<String>) -> Host<&str> {
    match host {
        Host::Domain(name) => Host::Domain(name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Option<String> {
        host(&url.parse().expect("a url")).map(|host| match host {
            Host::Domain(name) => format!("name {name}"),
            address => format!("address {address}"),
        })
    }

    #[test]
    fn addresses_in_any_form_are_addresses() {
        for form in ["127.0.0.1", "0x7f.1", "2130706433", "%31%32%37.0.0.1", "127\u{3002}0\u{3002}0\u{3002}1"] {
            assert_eq!(read(&format!("dns://{form}/a")).as_deref(), Some("address 127.0.0.1"), "{form}");
        }
        assert_eq!(read("dns://[::1]:53/a").as_deref(), Some("address [::1]"));
    }

    #[test]
    fn names_are_names_in_lower_case_ascii() {
        assert_eq!(read("icmp://Bücher.Example/").as_deref(), Some("name xn--bcher-kva.example"));
        assert_eq!(read("icmp://a%2fb/"), None);
    }
}
