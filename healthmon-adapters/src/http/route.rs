//! The way to a target: which address, through which proxy, by which version of HTTP.

use healthmon_core::{
    probe::{FailReason, IndeterminateReason, Outcome},
    service::Fields,
};
use serde::Deserialize;
use tokio::{net::TcpStream, time::Instant};
use url::{Host, Url};

use super::{
    link::{Link, Manner},
    proxy::Proxy,
    stream::Stream,
};
use crate::{
    net::{
        Dialer, Family, Progress,
        attempt::Fault,
        tls::{Alpn, TlsClient, TlsSettings},
    },
    secrets::Secrets,
};

/// Which version of HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum Version {
    #[default]
    #[serde(rename = "1.1")]
    One,
    /// HTTP/2, without asking first where there is no TLS.
    #[serde(rename = "2")]
    Two,
    /// What the server prefers; HTTP/1.1 where there is no TLS to agree on it.
    #[serde(rename = "any")]
    Any,
}

/// A host and a port that are dialled instead of the URL's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    host: Host,
    port: u16,
}

/// How connections are made, as far as a service says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Route {
    pub(super) version: Version,
    pub(super) family: Family,
    pub(super) tls: TlsSettings,
    pub(super) detour: Option<Box<Detour>>,
}

/// What is dialled instead of the URL's own place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detour {
    /// Another place that is taken for the target.
    Place(Place),
    /// A proxy.
    Proxy(Proxy),
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The target's own.
    Own,
    /// That of another origin, to which nothing goes that is meant for the target.
    Foreign,
}

impl Place {
    /// Reads `host:port`.
    pub(super) fn read(text: &str) -> Option<Self> {
        // The URL parser is the one that reads all hosts, so that what is judged is what is dialled.
        let (_, port) = text.rsplit_once(':')?;
        let url = Url::parse(&format!("http://{text}/")).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none();
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (plain && url.fragment().is_none()).then(|| url.host().map(|host| Self { host: host.to_owned(), port }))?
    }
}

impl Route {
    /// Reads the fields that say how to get there.
    pub(super) fn read(fields: &mut Fields) -> Self {
        let version = fields.optional("version").unwrap_or_default();
        let family = fields.optional("ip").unwrap_or_default();
        let tls = fields.section("tls", TlsSettings::read).unwrap_or_default();
        let mut detour = fields.section("proxy", Proxy::read).map(Detour::Proxy);
        if let Some(text) = fields.optional::<String>("connect_to") {
            match Place::read(&text) {
                None => fields.wrong("connect_to", "must be a host and a port such as \"10.0.0.7:8443\""),
                Some(_) if detour.is_some() => {
                    fields.wrong("connect_to", "cannot be set beside proxy, which connects in our stead");
                }
                Some(place) => detour = Some(Detour::Place(place)),
            }
        }
        Self { version, family, tls, detour: detour.map(Box::new) }
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        match self.detour.as_deref() {
            Some(Detour::Proxy(proxy)) => Some(proxy),
            _ => None,
        }
    }
}

/// What makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) dialer: std::sync::Arc<Dialer>,
    pub(super) tls: TlsClient,
    pub(super) secrets: Secrets,
}

impl Connector {
    /// A connection for requests to `url`.
    pub(super) async fn open(
        &self,
        url: &Url,
        route: &Route,
        whose: Whose,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Box<Link>, Fault> {
        let (host, port, secure) = authority(url)?;
        if !secure {
            let multiplexed = route.version == Version::Two;
            let (stream, manner) = match route.proxy() {
                Some(proxy) if !multiplexed => {
                    let stream = self.dial_proxy(proxy, &host, route, deadline, progress).await?;
                    (stream, Manner::Whole(proxy.authorization(&self.secrets)?))
                }
                _ => (self.reach(host, port, route, whose, deadline, progress).await?, Manner::Path),
            };
            let stream = Stream::Plain(stream);
            if multiplexed {
                return Box::pin(Link::open_multiplexed(stream, None)).await;
            }
            return Link::open(stream, manner, None).await;
        }
        let stream = self.reach(host.clone(), port, route, whose, deadline, progress).await?;
        // The shortest-lived of all certificates is told of the probe, the link has its own.
        let earlier = progress.certificate_expires.take();
        let alpn = match route.version {
            Version::One => Alpn::Http1,
            Version::Two => Alpn::Http2,
            Version::Any => Alpn::Http,
        };
        let elsewhere;
        let settings = match whose {
            Whose::Own => &route.tls,
            Whose::Foreign => {
                elsewhere = route.tls.elsewhere();
                &elsewhere
            }
        };
        let session = Box::pin(self.tls.handshake(stream, host, settings, alpn, progress)).await;
        let own = progress.certificate_expires;
        progress.certificate(earlier);
        let session = session?;
        let multiplexed = session.get_ref().1.alpn_protocol() == Some(b"h2");
        if route.version == Version::Two && !multiplexed {
            return Err(Fault::fail(FailReason::Protocol, "the server did not agree to speak HTTP/2"));
        }
        let stream = Stream::Tls(Box::new(session));
        if multiplexed {
            return Box::pin(Link::open_multiplexed(stream, own)).await;
        }
        Link::open(stream, Manner::Path, own).await
    }

    /// A stream to whoever answers for `host`, which may be had by way of a proxy.
    async fn reach(
        &self,
        host: Host<&str>,
        port: u16,
        route: &Route,
        whose: Whose,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, Fault> {
        let (host, port) = match route.detour.as_deref() {
            Some(Detour::Proxy(proxy)) => {
                let stream = self.dial_proxy(proxy, &host, route, deadline, progress).await?;
                let authorization = proxy.authorization(&self.secrets)?;
                progress.is_at_proxy = true;
                let tunnel = Box::pin(proxy.tunnel(stream, &host, port, authorization, progress)).await;
                progress.is_at_proxy = false;
                return tunnel;
            }
            Some(Detour::Place(place)) if whose == Whose::Own => {
                let host = match &place.host {
                    Host::Domain(name) => Host::Domain(name.as_str()),
                    Host::Ipv4(address) => Host::Ipv4(*address),
                    Host::Ipv6(address) => Host::Ipv6(*address),
                };
                (host, place.port)
            }
            _ => (host, port),
        };
        Ok(self.dialer.dial_over(route.family, host, port, deadline, progress).await?)
    }

    /// A connection to the proxy, which then resolves the target's name itself; a target that is
    /// named by its address is judged here, as if it were dialled.
    async fn dial_proxy(
        &self,
        proxy: &Proxy,
        target: &Host<&str>,
        route: &Route,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, Fault> {
        let literal = match *target {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        };
        if let Some(Err(refusal)) = literal.map(|address| self.dialer.policy().judge(address)) {
            return Err(Fault::indeterminate(IndeterminateReason::Blocked, refusal.to_string()));
        }
        let (host, port, _) = authority(proxy.url())?;
        progress.is_at_proxy = true;
        let dialled = self.dialer.dial_over(route.family, host, port, deadline, progress).await;
        progress.is_at_proxy = false;
        dialled.map_err(|error| {
            let fault = Fault::from(error);
            let detail = format!("proxy: {}", fault.detail);
            match fault.outcome {
                Outcome::Fail(_) => Fault::fail(FailReason::Proxy, detail),
                outcome => Fault { outcome, detail },
            }
        })
    }
}

/// Where a URL's connection goes, and whether it is to be secured.
fn authority(url: &Url) -> Result<(Host<&str>, u16, bool), Fault> {
    let secure = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(unsupported(url)),
    };
    match (url.host(), url.port_or_known_default()) {
        (Some(host), Some(port)) => Ok((host, port, secure)),
        _ => Err(unsupported(url)),
    }
}

fn unsupported(url: &Url) -> Fault {
    let detail = format!("{:?} is not a scheme of this prober", url.scheme());
    Fault::indeterminate(IndeterminateReason::Unsupported, detail)
}
