//! Dialling out: which addresses may be dialled, and how.
//!
//! Everything that leaves the machine goes through one [`Dialer`]: it resolves the name, has the
//! [`AddressPolicy`] judge every address, and connects to *that* socket address, so that what was
//! checked is what is dialled. No proxy settings of the system are read.

#[cfg_attr(
    not(any(
        feature = "dns",
        feature = "grpc",
        feature = "http",
        feature = "icmp",
        feature = "tcp",
        feature = "websocket"
    )),
    allow(dead_code, reason = "only probers make attempts and judge answers")
)]
mod assertions;
#[cfg_attr(
    not(any(
        feature = "dns",
        feature = "grpc",
        feature = "http",
        feature = "icmp",
        feature = "tcp",
        feature = "websocket"
    )),
    allow(dead_code, reason = "only probers make attempts and judge answers")
)]
pub(crate) mod attempt;
#[cfg(any(feature = "dns", feature = "icmp"))]
pub(crate) mod datagram;
mod dialer;
#[cfg_attr(
    not(any(
        feature = "dns",
        feature = "grpc",
        feature = "http",
        feature = "icmp",
        feature = "tcp",
        feature = "websocket"
    )),
    allow(dead_code, reason = "only probers make attempts and judge answers")
)]
mod expect;
#[cfg(any(feature = "dns", feature = "icmp"))]
pub(crate) mod host;
#[cfg(feature = "dns")]
mod name_servers;
mod policy;
#[cfg(feature = "grpc")]
pub(crate) mod pool;
pub(crate) mod progress;
mod resolver;
#[cfg(feature = "tls")]
pub mod tls;

pub use assertions::Assertions;
pub use dialer::{DialError, Dialer, Family};
pub use expect::Expectations;
pub use ipnet::IpNet;
#[cfg(feature = "dns")]
pub use name_servers::{NameServers, NameServersConfig, NameServersError};
pub use policy::{AddressPolicy, Loopback, Refusal, Rule};
pub use progress::{Progress, Stage};
pub use resolver::{LookupPermit, ResolveError, Resolver, SystemResolver};
