//! Targets of the form `scheme://host:port`.

use url::{Host, Url};

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    host: Host<String>,
    pub(crate) port: u16,
}

impl Address {
    /// Reads the address of a target whose scheme must be `scheme`.
    ///
    /// # Errors
    /// What would be right.
    pub(crate) fn of(url: &Url, scheme: &str) -> Result<Self, String> {
        let wrong = || format!("must be {scheme}://host:port, with nothing behind it");
        let bare = url.scheme() == scheme
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        let (Some(host), Some(port), true) = (url.host_str(), url.port(), bare) else { return Err(wrong()) };
        if port == 0 {
            return Err("must name a port from 1 to 65535".to_owned());
        }
        // The URL parser leaves hosts of such schemes as they are written. Here every form of an
        // address becomes that address, so that no policy takes one for a name.
        let host = Host::parse(host).map_err(|error| format!("must name a host or an address: {error}"))?;
        Ok(Self { host, port })
    }

    pub(crate) fn host(&self) -> Host<&str> {
        match &self.host {
            Host::Domain(name) => Host::Domain(name),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn address(url: &str) -> Result<Address, String> {
        let url = Url::parse(url).expect("a url");
        Address::of(&url, url.scheme())
    }

    #[test]
    fn every_form_of_an_address_is_that_address() {
        for form in ["127.0.0.1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "%31%32%37.0.0.1", "127.0.0.1."] {
            let read = address(&format!("tcp://{form}:25")).expect(form);
            assert_eq!(read.host(), Host::<&str>::Ipv4(Ipv4Addr::LOCALHOST), "{form}");
        }
        assert_eq!(address("tcp://[0:0::1]:25").expect("right").host(), Host::<&str>::Ipv6(Ipv6Addr::LOCALHOST));
    }

    #[test]
    fn names_are_in_lower_case() {
        for (url, name) in [("tcp://Mail.Test:25", "mail.test"), ("tls://B%C3%BCcher.test:443/", "xn--bcher-kva.test")]
        {
            assert_eq!(address(url).expect(url).host(), Host::Domain(name));
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for url in
            ["tcp://mail.test", "tcp://mail.test:0", "tcp://mail.test:25/inbox", "tcp://mail.test:25?a", "tcp://a b:1"]
        {
            assert!(Url::parse(url).is_err() || address(url).is_err(), "{url}");
        }
    }
}
