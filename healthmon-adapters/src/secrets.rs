//! Texts in a service's settings that nobody shall see.

mod paths;
#[cfg(any(feature = "grpc", feature = "http", feature = "tcp", feature = "websocket"))]
mod redactor;
#[cfg(feature = "sealing")]
mod sealing;

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use paths::visit_secrets;
#[cfg(feature = "grpc")]
pub(crate) use redactor::BASE64;
#[cfg(any(feature = "grpc", feature = "http", feature = "tcp", feature = "websocket"))]
pub(crate) use redactor::Redactor;
#[cfg(feature = "sealing")]
pub use sealing::{InvalidKeys, SealError, SealingKeys};

/// The longest secret, in bytes.
pub const SECRET_LIMIT: usize = 64 * 1024;
/// Only variables whose names begin so may be referred to, so that whoever may register a service
/// cannot have the process's other secrets sent to a target of theirs.
pub const VARIABLE_PREFIX: &str = "HEALTHMON_SECRET_";
/// Variables that begin so and are the server's own: they hold the keys that seal secrets, or say
/// where those are.
const OWN_VARIABLES: [&str; 2] = ["HEALTHMON_SECRET_KEY", "HEALTHMON_SECRET_KEY_FILE"];

/// A secret as it is written in settings: the text itself, or where it is to be found.
///
/// In JSON a string, `{"env": "HEALTHMON_SECRET_TOKEN"}`, `{"file": "token"}` (a file in the
/// worker's folder of secrets), or `{"sealed": "…"}` as the server keeps what was written plainly.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// The text itself.
    Plain(Box<str>),
    /// A variable of the worker's environment.
    Env(Box<str>),
    /// A file in the worker's folder of secrets.
    File(Box<str>),
    /// The text, encrypted.
    Sealed(Box<str>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Reference {
    Env(Box<str>),
    File(Box<str>),
    Sealed(Box<str>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a text, {\"env\": \"HEALTHMON_SECRET_…\"} or {\"file\": \"…\"}")]
enum Written {
    Plain(Box<str>),
    Reference(Reference),
}

impl Serialize for SecretRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self.clone() {
            Self::Plain(text) => Written::Plain(text),
            Self::Env(name) => Written::Reference(Reference::Env(name)),
            Self::File(name) => Written::Reference(Reference::File(name)),
            Self::Sealed(text) => Written::Reference(Reference::Sealed(text)),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = |problem: &str| Err(serde::de::Error::custom(problem));
        Ok(match Written::deserialize(deserializer)? {
            Written::Plain(text) if text.len() > SECRET_LIMIT => return wrong("must be at most 65536 bytes long"),
            Written::Plain(text) => Self::Plain(text),
            Written::Reference(Reference::Env(name)) if is_variable(&name) => Self::Env(name),
            Written::Reference(Reference::Env(_)) => {
                return wrong(
                    "must name a variable that begins with HEALTHMON_SECRET_ and is none of the server's own",
                );
            }
            Written::Reference(Reference::File(name)) if is_file_name(&name) => Self::File(name),
            Written::Reference(Reference::File(_)) => {
                return wrong(
                    "must name a file in the folder of secrets, by a path without \"..\" that is not absolute",
                );
            }
            Written::Reference(Reference::Sealed(text)) => Self::Sealed(text),
        })
    }
}

fn is_variable(name: &str) -> bool {
    let rest = name.strip_prefix(VARIABLE_PREFIX).unwrap_or_default();
    !rest.is_empty()
        && name.len() <= 200
        && !OWN_VARIABLES.contains(&name)
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_file_name(name: &str) -> bool {
    let inside = |component| matches!(component, Component::Normal(_));
    !name.is_empty() && name.len() <= 200 && !name.contains('\0') && Path::new(name).components().all(inside)
}

/// Says where it is to be found, never what it is.
impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(…)"),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(name) => f.debug_tuple("File").field(name).finish(),
            Self::Sealed(_) => f.write_str("Sealed(…)"),
        }
    }
}

/// A secret that was found. It is not shown by `Debug`, and has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret could not be had. Names where it was looked for, never what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The variable is not set.
    #[error("the variable {0} is not set")]
    Unset(Box<str>),
    /// There is no folder of secrets.
    #[error("no folder of secrets is set, and a file {0:?} is asked for")]
    NoFolder(Box<str>),
    /// The file cannot be read.
    #[error("the secret's file {name:?} cannot be read: {source}")]
    Unreadable {
        /// Its name in the folder.
        name: Box<str>,
        /// What happened.
        source: io::Error,
    },
    /// It is sealed, and there is no key here that opens it.
    #[error("the secret is sealed, and no key here opens it")]
    Sealed,
}

/// Where secrets are found.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Sources>);

#[derive(Clone, Default)]
struct Sources {
    /// Variables as they were when the process began.
    variables: HashMap<String, String>,
    folder: Option<PathBuf>,
    #[cfg(feature = "sealing")]
    keys: Option<SealingKeys>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("folder", &self.0.folder).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Secrets from this process's environment, and from files in `folder` if one is given.
    pub fn of_environment(folder: Option<PathBuf>) -> Self {
        // A variable that is not text is none of these.
        let texts =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables = texts.filter(|(name, _)| is_variable(name)).collect();
        Self(Arc::new(Sources {
            variables,
            folder,
            #[cfg(feature = "sealing")]
            keys: None,
        }))
    }

    /// These secrets, and those that one of `keys` opens.
    #[cfg(feature = "sealing")]
    #[must_use]
    pub fn with_keys(self, keys: SealingKeys) -> Self {
        Self(Arc::new(Sources { keys: Some(keys), ..(*self.0).clone() }))
    }

    /// The secret itself. Files are read anew each time, so that a rotated one is used at once.
    ///
    /// # Errors
    /// When it is not there.
    pub fn reveal(&self, wanted: &SecretRef) -> Result<Secret, SecretError> {
        match wanted {
            SecretRef::Plain(text) => Ok(Secret(text.clone())),
            SecretRef::Env(name) => {
                let found = self.0.variables.get(&**name).ok_or_else(|| SecretError::Unset(name.clone()))?;
                Ok(Secret(found.as_str().into()))
            }
            SecretRef::File(name) => {
                let folder = self.0.folder.as_ref().ok_or_else(|| SecretError::NoFolder(name.clone()))?;
                let read = read(&folder.join(&**name));
                read.map(Secret).map_err(|source| SecretError::Unreadable { name: name.clone(), source })
            }
            #[cfg(feature = "sealing")]
            SecretRef::Sealed(sealed) => {
                self.0.keys.as_ref().and_then(|keys| keys.open(sealed)).ok_or(SecretError::Sealed)
            }
            #[cfg(not(feature = "sealing"))]
            SecretRef::Sealed(_) => Err(SecretError::Sealed),
        }
    }
}

/// Reads a small file; a line's end behind the secret is not part of it. What is no file (a pipe, a device)
/// could keep us waiting for ever, or never end; whoever may write there is trusted not to change it under our hands.
fn read(path: &Path) -> io::Result<Box<str>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut text = String::new();
    let length = fs::File::open(path)?.take(SECRET_LIMIT as u64 + 1).read_to_string(&mut text)?;
    if length > SECRET_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 65536 bytes"));
    }
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line)).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sec_the_keys_themselves_cannot_be_referred_to() {
        for name in OWN_VARIABLES {
            let refused = serde_json::from_value::<SecretRef>(json!({"env": name})).expect_err("the server's own");
            assert!(refused.to_string().contains("none of the server's own"), "{refused}");
        }
        assert!(serde_json::from_value::<SecretRef>(json!({"env": "HEALTHMON_SECRET_TOKEN"})).is_ok());
    }

    /// Whoever may write there could else keep us reading for ever.
    #[cfg(unix)]
    #[test]
    fn sec_what_is_no_file_is_not_read() {
        let folder = std::env::temp_dir().join(format!("healthmon-secrets-{}", std::process::id()));
        fs::create_dir_all(folder.join("folder")).expect("a folder");
        for device in ["zero", "null"] {
            std::os::unix::fs::symlink(format!("/dev/{device}"), folder.join(device)).expect("a link");
        }
        fs::write(folder.join("long"), vec![b'x'; SECRET_LIMIT + 1]).expect("written");
        let secrets = Secrets::of_environment(Some(folder.clone()));
        for name in ["zero", "null", "folder", "long"] {
            assert!(secrets.reveal(&SecretRef::File(name.into())).is_err(), "{name}");
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_secrets_variable_that_is_not_set_is_named() {
        let wanted = SecretRef::Env("HEALTHMON_SECRET_NOBODY_SET_THIS".into());
        let missing = Secrets::of_environment(None).reveal(&wanted).expect_err("it is not set");
        assert_eq!(missing.to_string(), "the variable HEALTHMON_SECRET_NOBODY_SET_THIS is not set");
    }
}
