//! Who is asking, and what they may do.

use std::{fmt, str::FromStr, sync::Arc};

use clap::ValueEnum;
use serde::Deserialize;

/// What someone may do; each role may do all that the ones before it may.
///
/// ```
/// use healthmon_server::auth::AccessRole;
///
/// assert!(AccessRole::Viewer < AccessRole::Editor && AccessRole::Editor < AccessRole::Admin);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessRole {
    /// Reads everything, events too
    Viewer,
    /// Also registers, changes, pauses, probes and deletes services
    Editor,
    /// Also does what concerns the whole deployment
    Admin,
}

impl AccessRole {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Editor, Self::Admin];

    /// Its name, as in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for AccessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the role must be viewer, editor or admin")]
pub struct InvalidRole;

impl FromStr for AccessRole {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(InvalidRole)
    }
}

/// What a user or a token is called: in settings, in the log, in answers.
///
/// Up to 64 letters, digits and `. _ @ + -`: it never needs escaping, and holds no separator.
///
/// ```
/// use healthmon_server::auth::PrincipalName;
///
/// assert!("ci-deploy".parse::<PrincipalName>().is_ok());
/// assert!("two words".parse::<PrincipalName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PrincipalName(Arc<str>);

/// Not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name must be 1 to 64 letters, digits or . _ @ + -")]
pub struct InvalidPrincipalName;

impl PrincipalName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PrincipalName {
    type Err = InvalidPrincipalName;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipalName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain);
        if fits { Ok(Self(text.into())) } else { Err(InvalidPrincipalName) }
    }
}

impl TryFrom<String> for PrincipalName {
    type Error = InvalidPrincipalName;

    fn try_from(text: String) -> Result<Self, InvalidPrincipalName> {
        text.parse()
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
