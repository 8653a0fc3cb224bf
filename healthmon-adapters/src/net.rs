//! Dialling out: which addresses may be dialled, and how.
//!
//! Everything that leaves the machine goes through one [`Dialer`]: it resolves the name, has the
//! [`AddressPolicy`] judge every address, and connects to *that* socket address, so that what was
//! checked is what is dialled. No proxy settings of the system are read.

mod assertions;
pub(crate) mod attempt;
#[cfg(any(feature = "dns", feature = "icmp"))]
pub(crate) mod datagram;
mod dialer;
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
