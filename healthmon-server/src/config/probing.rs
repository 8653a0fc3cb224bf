//! What probes may reach, and where secrets of services are.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use healthmon_adapters::{
    net::{AddressPolicy, Dialer, IpNet, Loopback, NameServers, NameServersConfig, NameServersError},
    secrets::{InvalidKeys, SealingKeys, Secrets},
};
use healthmon_core::{
    runtime::{Canary, InvalidCanary},
    service::Target,
};

use super::{Database, Secret};

/// No file of keys is longer.
const KEY_FILE_BYTES: u64 = 64 * 1024;

/// What probes may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbingSettings {
    /// Whether workers may probe their own machine; none: only where all is one machine's.
    pub loopback: Option<Loopback>,
    /// Networks that may be probed although they are special, or within a denied one.
    pub allow: Vec<IpNet>,
    /// Networks that may not be probed.
    pub deny: Vec<IpNet>,
    /// Name servers to ask for the names of targets; none: the system's resolver.
    pub resolver: Vec<SocketAddr>,
    /// Targets that are asked whether this worker's own network is there; none: nobody is.
    pub canary: Vec<Target>,
    /// Probes under way that may wait on the same host; none: a quarter of all.
    pub per_host: Option<NonZeroUsize>,
}

impl ProbingSettings {
    /// The policy by these settings; `unsaid` is how it is with this machine itself if they do not say.
    pub fn policy(&self, unsaid: Loopback) -> AddressPolicy {
        let policy = AddressPolicy::new(self.loopback.unwrap_or(unsaid));
        let policy = self.allow.iter().fold(policy, |policy, network| policy.allow(*network));
        self.deny.iter().fold(policy, |policy, network| policy.deny(*network))
    }

    /// The connector with this policy, by these name servers.
    ///
    /// # Errors
    /// When there are too many name servers.
    pub fn dialer(&self, policy: AddressPolicy) -> Result<Dialer, NameServersError> {
        let canary = self.canary.iter().filter_map(|target| target.url().host_str().map(str::to_owned));
        let dialer = Dialer::new(policy).with_places_kept_for(canary);
        if self.resolver.is_empty() {
            return Ok(dialer);
        }
        let resolver = NameServers::new(NameServersConfig { servers: self.resolver.clone(), ..Default::default() })?;
        Ok(dialer.with_resolver(Arc::new(resolver)))
    }

    /// The canary, if there is one.
    ///
    /// # Errors
    /// Unless its targets are 2 to 8 on different hosts.
    pub fn canary(&self) -> Result<Option<Canary>, InvalidCanary> {
        if self.canary.is_empty() { Ok(None) } else { Canary::new(self.canary.clone()).map(Some) }
    }
}

/// Whether workers may probe their own machine when nobody said.
///
/// With a database file one process on one machine is all there is, and whoever may use its API on
/// loopback could reach what listens there anyway. Workers of a shared database are other machines,
/// whose loopback is nothing to those who use the API, wherever that listens.
pub(super) fn loopback(database: &Database, listen: IpAddr) -> Loopback {
    match database {
        Database::File(_) if listen.is_loopback() => Loopback::Allowed,
        _ => Loopback::Refused,
    }
}

/// Where secrets of services are found, and how they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretSettings {
    /// A folder whose files services' settings may refer to.
    pub folder: Option<PathBuf>,
    /// The keys that seal secrets in the database, the newest first.
    pub keys: Option<Secret>,
    /// A file with those keys.
    pub key_file: Option<PathBuf>,
}

/// Why secrets cannot be found or kept as the settings say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretSettingsError {
    /// The folder is none.
    #[error("--secrets-dir {}: must be a folder", .0.display())]
    NoFolder(PathBuf),
    /// The keys are none.
    #[error("HEALTHMON_SECRET_KEY: {0}")]
    Keys(InvalidKeys),
    /// The file cannot be read.
    #[error("--secret-key-file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: io::Error,
    },
    /// What stands in the file are no keys.
    #[error("--secret-key-file {}: {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: InvalidKeys,
    },
    /// Nobody could say which of them seals.
    #[error("--secret-key-file and HEALTHMON_SECRET_KEY are both given; give one, with all keys in it")]
    Twice,
}

impl SecretSettings {
    /// The keys, if there are any.
    ///
    /// # Errors
    /// When they are none, or cannot be read.
    pub fn sealing_keys(&self) -> Result<Option<SealingKeys>, SecretSettingsError> {
        match (&self.keys, &self.key_file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(SecretSettingsError::Twice),
            (Some(keys), None) => SealingKeys::read(keys.expose()).map(Some).map_err(SecretSettingsError::Keys),
            (None, Some(path)) => {
                let unreadable = |source| SecretSettingsError::Unreadable { path: path.clone(), source };
                let keys = SealingKeys::read(&read(path).map_err(unreadable)?);
                keys.map(Some).map_err(|source| SecretSettingsError::KeyFile { path: path.clone(), source })
            }
        }
    }

    /// Where this process finds secrets.
    ///
    /// # Errors
    /// When the folder is none, or the keys.
    pub fn secrets(&self) -> Result<Secrets, SecretSettingsError> {
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_dir()) {
            return Err(SecretSettingsError::NoFolder(folder.clone()));
        }
        let secrets = Secrets::of_environment(self.folder.clone());
        Ok(match self.sealing_keys()? {
            Some(keys) => secrets.with_keys(keys),
            None => secrets,
        })
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > KEY_FILE_BYTES {
        return Err(io::Error::other("it is longer than 64 KiB, so it holds no keys"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

    #[test]
    fn sec_workers_of_a_shared_database_do_not_probe_their_own_machine_unless_it_is_said() {
        let file = Database::File("healthmon.db".into());
        let shared = Database::Postgres("postgres://db.example/healthmon".into());
        assert_eq!(loopback(&file, NEAR), Loopback::Allowed);
        assert_eq!(loopback(&file, FAR), Loopback::Refused);
        assert_eq!(loopback(&shared, NEAR), Loopback::Refused, "its API is not on the worker's loopback");
        assert_eq!(loopback(&shared, FAR), Loopback::Refused);
        let said = ProbingSettings { loopback: Some(Loopback::Allowed), ..ProbingSettings::default() };
        assert!(said.policy(loopback(&shared, NEAR)).judge(NEAR).is_ok());
        let said = ProbingSettings { loopback: Some(Loopback::Refused), ..ProbingSettings::default() };
        assert!(said.policy(loopback(&file, NEAR)).judge(NEAR).is_err());
    }

    #[test]
    fn one_host_is_no_canary_and_nine_servers_are_no_resolver() {
        let targets = |urls: &[&str]| urls.iter().map(|url| url.parse().expect("a target")).collect();
        let with = |urls: &[&str]| ProbingSettings { canary: targets(urls), ..ProbingSettings::default() };
        assert_eq!(with(&[]).canary(), Ok(None));
        assert!(with(&["tcp://192.0.2.1:443", "tcp://192.0.2.2:443"]).canary().is_ok_and(|canary| canary.is_some()));
        assert!(with(&["tcp://192.0.2.1:443"]).canary().is_err());
        let resolver = vec!["192.0.2.53:53".parse().expect("an address"); 9];
        let nine = ProbingSettings { resolver, ..ProbingSettings::default() };
        assert!(nine.dialer(AddressPolicy::default()).is_err());
    }

    #[test]
    fn of_two_ways_to_give_keys_only_one_may_be_used() {
        let both =
            SecretSettings { keys: Some("AA".into()), key_file: Some("/nowhere".into()), ..SecretSettings::default() };
        assert!(matches!(both.sealing_keys(), Err(SecretSettingsError::Twice)));
        let wrong = SecretSettings { keys: Some("canary".into()), ..SecretSettings::default() };
        let said = wrong.secrets().expect_err("no key").to_string();
        assert!(said.starts_with("HEALTHMON_SECRET_KEY: key 1") && !said.contains("canary"), "{said}");
    }
}
