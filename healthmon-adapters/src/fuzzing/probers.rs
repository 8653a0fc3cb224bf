//! Probers that dial nothing, for what is seen before that.

use std::sync::{Arc, PoisonError};

use healthmon_core::ports::Prober;

use super::Names;
use crate::{
    dns::{DnsProber, DnsProberConfig},
    grpc::{GrpcProber, GrpcProberConfig},
    http::{HttpProber, HttpProberConfig},
    icmp::IcmpProber,
    net::{AddressPolicy, Dialer, Loopback, ResolveError, tls::TlsClient},
    secrets::Secrets,
    tcp::TcpProber,
    tls::TlsProber,
    websocket::WebSocketProber,
};

/// A prober, and whom it asked for.
struct Refusing {
    names: Arc<Names>,
    prober: Box<dyn Prober>,
}

thread_local! {
    static PROBERS: Vec<Refusing> = probers();
}

/// Gives the prober of `scheme`, if there is one. All addresses are refused to it, and no name is known.
pub(super) fn refusing<T>(scheme: &str, take: impl FnOnce(&dyn Prober, &Names) -> T) -> Option<T> {
    PROBERS.with(|all| {
        let one = all.iter().find(|one| one.prober.schemes().contains(&scheme))?;
        Some(take(&*one.prober, &one.names))
    })
}

fn probers() -> Vec<Refusing> {
    let net = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("a network"));
    let policy = AddressPolicy::new(Loopback::Refused).deny(net("0.0.0.0/0")).deny(net("::/0"));
    let tls = || TlsClient::new(b"").unwrap_or_else(|error| panic!("no client: {error}"));
    let of = |make: &dyn Fn(Arc<Dialer>) -> Box<dyn Prober>| {
        let names = Arc::new(Names::default());
        *names.answer.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Err(ResolveError::Failed("no such name".to_owned())));
        let dialer = Arc::new(Dialer::new(policy.clone()).with_resolver(Arc::clone(&names) as _));
        Refusing { names, prober: make(dialer) }
    };
    let ready = "a prober without settings";
    vec![
        of(&|dialer| Box::new(HttpProber::new(HttpProberConfig { dialer, ..Default::default() }).expect(ready))),
        of(&|dialer| Box::new(WebSocketProber::new(dialer, tls(), Secrets::default()))),
        of(&|dialer| Box::new(TcpProber::new(dialer, tls(), Secrets::default()))),
        of(&|dialer| Box::new(TlsProber::new(dialer, tls(), Secrets::default()))),
        of(&|dialer| Box::new(GrpcProber::new(GrpcProberConfig { dialer, ..Default::default() }).expect(ready))),
        of(&|dialer| Box::new(DnsProber::new(DnsProberConfig { dialer, ..Default::default() }).expect(ready))),
        of(&|dialer| Box::new(IcmpProber::new(dialer))),
    ]
}
