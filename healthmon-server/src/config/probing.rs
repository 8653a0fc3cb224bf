//! What probes may reach, and where secrets of services are.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use healthmon_adapters::{
    net::{AddressPolicy, IpNet, Loopback},
    secrets::{InvalidKeys, SealingKeys, Secrets},
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
}

impl ProbingSettings {
    /// The policy by these settings; `unsaid` is how it is with this machine itself if they do not say.
    pub fn policy(&self, unsaid: Loopback) -> AddressPolicy {
        let policy = AddressPolicy::new(self.loopback.unwrap_or(unsaid));
        let policy = self.allow.iter().fold(policy, |policy, network| policy.allow(*network));
        self.deny.iter().fold(policy, |policy, network| policy.deny(*network))
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
    fn of_two_ways_to_give_keys_only_one_may_be_used() {
        let both =
            SecretSettings { keys: Some("AA".into()), key_file: Some("/nowhere".into()), ..SecretSettings::default() };
        assert!(matches!(both.sealing_keys(), Err(SecretSettingsError::Twice)));
        let wrong = SecretSettings { keys: Some("canary".into()), ..SecretSettings::default() };
        let said = wrong.secrets().expect_err("no key").to_string();
        assert!(said.starts_with("HEALTHMON_SECRET_KEY: key 1") && !said.contains("canary"), "{said}");
    }
}
