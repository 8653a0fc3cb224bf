//! Who may use the API, as settings say it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use clap::ValueEnum;
use serde::Deserialize;
use url::Url;

use super::{
    AccessRole, InvalidPasswordHash, InvalidPrincipalName, InvalidRole, InvalidTokenHash, PasswordHash, PrincipalName,
    TokenHash, TrustedProxy,
};

/// As many users, and as many tokens, as there may be: each request's token is compared with all.
const MOST: usize = 1_000;

/// Someone with a password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// What they log in as.
    pub name: PrincipalName,
    /// The hash of their password.
    pub password_hash: PasswordHash,
    /// What they may do.
    pub role: AccessRole,
}

/// A program with a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiToken {
    /// What the log calls it.
    pub name: PrincipalName,
    /// The hash of the token.
    pub sha256: TokenHash,
    /// What it may do.
    pub role: AccessRole,
}

/// A user or a token that cannot be understood; what is wrong is told without the secret part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCredential {
    /// The parts.
    #[error("must be name:role:hash")]
    Parts,
    /// The name.
    #[error(transparent)]
    Name(#[from] InvalidPrincipalName),
    /// The role.
    #[error(transparent)]
    Role(#[from] InvalidRole),
    /// The password's hash.
    #[error("the password's hash {0}")]
    PasswordHash(#[from] InvalidPasswordHash),
    /// The token's hash.
    #[error("the hash {0}")]
    TokenHash(#[from] InvalidTokenHash),
}

fn parts(text: &str) -> Result<(PrincipalName, AccessRole, &str), InvalidCredential> {
    let mut parts = text.splitn(3, ':');
    let (Some(name), Some(role), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(InvalidCredential::Parts);
    };
    Ok((name.parse()?, role.parse()?, hash))
}

impl FromStr for User {
    type Err = InvalidCredential;

    fn from_str(text: &str) -> Result<Self, InvalidCredential> {
        let (name, role, hash) = parts(text)?;
        Ok(Self { name, role, password_hash: hash.parse()? })
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.role, self.password_hash)
    }
}

impl FromStr for ApiToken {
    type Err = InvalidCredential;

    fn from_str(text: &str) -> Result<Self, InvalidCredential> {
        let (name, role, hash) = parts(text)?;
        Ok(Self { name, role, sha256: hash.parse()? })
    }
}

impl fmt::Display for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.role, self.sha256)
    }
}

/// Users or tokens in one text: as in `HEALTHMON_USERS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T>(pub Vec<T>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

fn listed<T: FromStr<Err = InvalidCredential>>(
    text: &str,
    separates: impl Fn(char) -> bool,
) -> Result<Listed<T>, String> {
    let items = text.split(separates).filter(|item| !item.is_empty()).enumerate();
    let read = items.map(|(index, item)| item.parse().map_err(|error| format!("the entry {}: {error}", index + 1)));
    let read: Vec<T> = read.collect::<Result<_, _>>()?;
    // A variable that was to be filled in and was not must not open the API.
    if read.is_empty() { Err("names nobody; leave it out for that".to_owned()) } else { Ok(Listed(read)) }
}

impl FromStr for Listed<User> {
    type Err = String;

    /// Separated by white space: hashes contain commas.
    fn from_str(text: &str) -> Result<Self, String> {
        listed(text, char::is_whitespace)
    }
}

impl FromStr for Listed<ApiToken> {
    type Err = String;

    /// Separated by commas or white space.
    fn from_str(text: &str) -> Result<Self, String> {
        listed(text, |c| c == ',' || c.is_whitespace())
    }
}

impl<T: fmt::Display> fmt::Display for Listed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = self.0.iter();
        if let Some(first) = items.next() {
            write!(f, "{first}")?;
        }
        items.try_for_each(|item| write!(f, " {item}"))
    }
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum MetricsAccess {
    /// Whoever reaches the server
    Open,
    /// Viewers
    #[default]
    Viewer,
}

/// What becomes of a server that listens beyond loopback and asks nobody who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// It does not start.
    #[default]
    Refused,
    /// Whoever reaches it may do everything.
    Admitted,
}

/// An origin whose pages' requests are not refused, WebSockets above all: `https://status.example.org`.
///
/// Browsers let the scripts of such a page read events, and no other answer: no CORS header is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin(String);

/// Not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an origin, such as https://status.example.org: http or https, a host, perhaps a port, no more")]
pub struct InvalidOrigin;

impl FromStr for AllowedOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let url = Url::parse(text).map_err(|_| InvalidOrigin)?;
        let origin = url.origin().ascii_serialization();
        // A path, a user or a query would show up here.
        let bare = url.as_str().strip_suffix('/') == Some(&origin) && !text.contains('*');
        let web = matches!(url.scheme(), "http" | "https");
        if bare && web { Ok(Self(origin)) } else { Err(InvalidOrigin) }
    }
}

impl AllowedOrigin {
    /// The origin, as browsers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who may use the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// Who logs in with a password.
    pub users: Vec<User>,
    /// What comes with a token.
    pub tokens: Vec<ApiToken>,
    /// What becomes of a server that has neither, and listens beyond loopback.
    pub anonymous: Anonymous,
    /// Who may read `/metrics` where there are users or tokens.
    pub metrics: MetricsAccess,
    /// Origins, beside the server's own, whose pages' requests are not refused.
    pub origins: Vec<AllowedOrigin>,
    /// Proxies that are believed when they say whose request they hand on.
    pub proxies: Vec<TrustedProxy>,
}

/// Settings under which it would not be clear who may do what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The log could not say who it was.
    #[error("the name {0} is given twice among users and tokens")]
    SameName(PrincipalName),
    /// It has two roles.
    #[error("{0} and {1} have the same token")]
    SameToken(PrincipalName, PrincipalName),
    /// Either everyone may do everything, or not.
    #[error("--allow-anonymous lets everyone do everything, so it does not go with users or tokens; leave one out")]
    AnonymousToo,
    /// More than are compared at each request.
    #[error("there may be {MOST} users and {MOST} tokens at most")]
    TooMany,
    /// A file that lost its users must not open the API.
    #[error("there are no users and no tokens any more; to let everyone do everything, restart the server")]
    NobodyLeft,
    /// Nothing secret can be made without it.
    #[error("the system gives no randomness")]
    System,
}

impl AccessSettings {
    /// Whether requests must say who they come from.
    pub fn is_authenticated(&self) -> bool {
        !(self.users.is_empty() && self.tokens.is_empty())
    }

    /// Checks what no single entry can show.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn check(&self) -> Result<(), AccessError> {
        if self.users.len() > MOST || self.tokens.len() > MOST {
            return Err(AccessError::TooMany);
        }
        let mut names = BTreeMap::new();
        let all = self.users.iter().map(|user| &user.name).chain(self.tokens.iter().map(|token| &token.name));
        for name in all {
            if names.insert(name, ()).is_some() {
                return Err(AccessError::SameName(name.clone()));
            }
        }
        let mut hashes = BTreeMap::new();
        for token in &self.tokens {
            if let Some(other) = hashes.insert(token.sha256.to_string(), &token.name) {
                return Err(AccessError::SameToken(other.clone(), token.name.clone()));
            }
        }
        if self.is_authenticated() && self.anonymous == Anonymous::Admitted {
            return Err(AccessError::AnonymousToo);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$YWJjZGVmZ2hpamtsbW5vcA$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";

    fn tokens(text: &str) -> Result<Listed<ApiToken>, String> {
        text.parse()
    }

    #[test]
    fn lists_are_read_as_they_are_written() {
        let text = format!("\n  ann:admin:{HASH}\n  bob:viewer:{HASH}\n");
        let users: Listed<User> = text.parse().unwrap();
        assert_eq!(users.0.len(), 2);
        assert_eq!((users.0[1].name.as_str(), users.0[1].role), ("bob", AccessRole::Viewer));
        assert_eq!(users.to_string().parse(), Ok(users));
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let read = tokens(&format!("ci:editor:{a},grafana:viewer:{b}\n")).unwrap();
        assert_eq!(read.to_string(), format!("ci:editor:{a} grafana:viewer:{b}"));
        assert!(tokens("").is_err() && tokens(" ,\n").is_err(), "a variable that was not filled in");
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_told_without_its_secret() {
        let hash = "c".repeat(64);
        for (text, says) in [
            (format!("ci:editor:{hash} x:{hash}"), "the entry 2: must be name:role:hash"),
            (format!("ci:owner:{hash}"), "the entry 1: the role must be viewer, editor or admin"),
            (format!("c i:editor:{hash}"), "the entry 1: must be name:role:hash"),
            ("ci:editor:canary".to_owned(), "the entry 1: the hash must be a token's SHA-256"),
            (format!(":editor:{hash}"), "the entry 1: a name must be"),
        ] {
            let error = tokens(&text).unwrap_err();
            assert!(error.starts_with(says), "{error}");
            assert!(!error.contains("canary") && !error.contains(&hash), "{error}");
        }
    }

    #[test]
    fn sec_settings_that_leave_it_unclear_who_may_do_what_are_refused() {
        let users: Listed<User> = format!("ann:admin:{HASH} ann2:viewer:{HASH}").parse().unwrap();
        let token =
            |name: &str, digit: &str| format!("{name}:viewer:{}", digit.repeat(64)).parse::<ApiToken>().unwrap();
        let good = AccessSettings { users: users.0, tokens: vec![token("ci", "a")], ..AccessSettings::default() };
        assert_eq!(good.check(), Ok(()));
        let with = |change: &dyn Fn(&mut AccessSettings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(matches!(with(&|bad| bad.tokens.push(token("ann", "b"))), AccessError::SameName(_)));
        assert!(matches!(with(&|bad| bad.tokens.push(token("cd", "a"))), AccessError::SameToken(..)));
        assert_eq!(with(&|bad| bad.anonymous = Anonymous::Admitted), AccessError::AnonymousToo);
        assert_eq!(with(&|bad| bad.tokens = vec![token("ci", "a"); MOST + 1]), AccessError::TooMany);
    }

    #[test]
    fn origins_are_a_scheme_a_host_and_a_port() {
        for (text, read) in [
            ("https://status.example.org", "https://status.example.org"),
            ("https://Status.Example.org:443/", "https://status.example.org"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(text.parse::<AllowedOrigin>().unwrap().as_str(), read);
        }
        for text in [
            "*",
            "null",
            "",
            "status.example.org",
            "https://*.example.org",
            "https://a.example/path",
            "file:///x",
            "https://user@a.example",
            "https://a.example?x",
            "ws://a.example",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text}");
        }
    }
}
