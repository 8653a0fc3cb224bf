//! What probes may reach, and what they may know.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use healthmon_adapters::net::{IpNet, Loopback};
use healthmon_core::service::Target;

use crate::config::{ProbingSettings, Secret, SecretSettings};

/// Whether this machine itself may be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoopbackRule {
    /// It may.
    Allowed,
    /// It may not, unless a network that may be probed names the address.
    Refused,
}

impl From<LoopbackRule> for Loopback {
    fn from(rule: LoopbackRule) -> Self {
        match rule {
            LoopbackRule::Allowed => Self::Allowed,
            LoopbackRule::Refused => Self::Refused,
        }
    }
}

/// What probes may reach. In a settings file these stand under `probing`.
#[derive(Debug, Clone, Default, Args)]
pub struct ProbingArgs {
    /// Whether workers may probe their own machine (`probing.loopback`): allowed or refused; if not
    /// given, allowed with a database file and an API on loopback, where all is one machine's
    #[arg(long = "probe-loopback", value_enum, env = "HEALTHMON_PROBE_LOOPBACK", value_name = "RULE")]
    pub loopback: Option<LoopbackRule>,
    /// Networks that may be probed although they are special, such as 169.254.0.0/16, or although a
    /// wider one is denied (`probing.allow`)
    #[arg(
        long = "probe-allow",
        value_delimiter = ',',
        env = "HEALTHMON_PROBE_ALLOW",
        value_name = "NETWORK",
        value_parser = network
    )]
    pub allow: Vec<IpNet>,
    /// Networks that may not be probed, such as 10.0.0.0/8; of all that hold an address the narrowest
    /// decides (`probing.deny`)
    #[arg(
        long = "probe-deny",
        value_delimiter = ',',
        env = "HEALTHMON_PROBE_DENY",
        value_name = "NETWORK",
        value_parser = network
    )]
    pub deny: Vec<IpNet>,
    /// Name servers that are asked for the names of targets instead of the system's resolver, such as
    /// 192.0.2.53 or `[2001:db8::53]:5353`, at most 8 (`probing.resolver`)
    #[arg(
        long = "probe-resolver",
        value_delimiter = ',',
        env = "HEALTHMON_PROBE_RESOLVER",
        value_name = "ADDRESS",
        value_parser = name_server
    )]
    pub resolver: Vec<SocketAddr>,
    /// 2 to 8 targets on different hosts, such as tcp://192.0.2.1:443: while none of them can be
    /// reached, failures count as this worker's own trouble (`probing.canary`)
    #[arg(long = "canary", value_delimiter = ',', env = "HEALTHMON_CANARY", value_name = "URL")]
    pub canary: Vec<Target>,
    /// Probes under way at once that wait on the same host and port; if not given, a quarter of what a
    /// worker does at once (`probing.per_host`)
    #[arg(long = "probes-per-host", env = "HEALTHMON_PROBES_PER_HOST", value_name = "N")]
    pub per_host: Option<NonZeroUsize>,
}

/// A name server, at port 53 unless another is given.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let usual = |address: IpAddr| SocketAddr::new(address, 53);
    let read = text.parse::<SocketAddr>().ok().or_else(|| text.parse().ok().map(usual));
    read.ok_or_else(|| "must be an address such as 192.0.2.53 or [2001:db8::53]:53".to_owned())
}

/// A network such as `10.0.0.0/8`, or an address, which is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let one = |address: IpAddr| IpNet::from(address);
    let read = text.parse::<IpNet>().ok().or_else(|| text.parse().ok().map(one));
    read.ok_or_else(|| "must be a network such as 10.0.0.0/8 or fd00::/8, or an address".to_owned())
}

impl ProbingArgs {
    /// The settings these arguments make.
    pub(crate) fn to_settings(&self) -> ProbingSettings {
        ProbingSettings {
            loopback: self.loopback.map(Loopback::from),
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            resolver: self.resolver.clone(),
            canary: self.canary.clone(),
            per_host: self.per_host,
        }
    }
}

/// Where secrets of services are found, and how they are kept.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretArgs {
    /// A folder with secrets that services' settings refer to as {"file": "…"}
    #[arg(long, env = "HEALTHMON_SECRETS_DIR", value_name = "FOLDER")]
    pub secrets_dir: Option<PathBuf>,
    /// Keys that services' secrets are sealed with in the database: 32 bytes in base64 or hex
    /// (`openssl rand -base64 32`), several with commas between them. The first seals, all open.
    /// Better said by the environment than here, where every process can read it
    #[arg(long, env = "HEALTHMON_SECRET_KEY", hide_env_values = true, value_name = "KEYS")]
    pub secret_key: Option<Secret>,
    /// A file with those keys, instead
    #[arg(long, env = "HEALTHMON_SECRET_KEY_FILE", value_name = "FILE")]
    pub secret_key_file: Option<PathBuf>,
}

impl SecretArgs {
    /// The settings these arguments make.
    pub(crate) fn to_settings(&self) -> SecretSettings {
        SecretSettings {
            folder: self.secrets_dir.clone(),
            keys: self.secret_key.clone(),
            key_file: self.secret_key_file.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_listens_at_port_53_unless_another_is_given() {
        assert_eq!(name_server("192.0.2.53"), Ok("192.0.2.53:53".parse().expect("an address")));
        assert_eq!(name_server("[2001:db8::53]:5353"), Ok("[2001:db8::53]:5353".parse().expect("an address")));
        assert!(name_server("dns.example").is_err());
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().expect("a network")));
        assert_eq!(network("169.254.169.254"), Ok("169.254.169.254/32".parse().expect("a network")));
        assert_eq!(network("::1"), Ok("::1/128".parse().expect("a network")));
        for wrong in ["", "localhost", "10.0.0.0/33", "10.0.0"] {
            assert!(network(wrong).is_err(), "{wrong:?}");
        }
    }
}
