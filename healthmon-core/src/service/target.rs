//! The address that probes go to.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use url::Url;

/// A service's target: an absolute URL without user information, at most 2,048 characters.
///
/// It is kept as the URL parser understood it, so that what is checked is what is dialled. Whether
/// some prober takes its scheme is asked when a service is registered.
///
/// ```
/// use healthmon_core::service::Target;
/// let target: Target = "https://example.org/health".parse()?;
/// assert_eq!(target.scheme(), "https");
/// assert!("example.org".parse::<Target>().is_err());
/// assert!("https://user:secret@example.org/".parse::<Target>().is_err());
/// # Ok::<(), healthmon_core::service::InvalidTarget>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Target(Box<str>);

/// A text that is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// It is not an absolute URL.
    #[error("must be an absolute URL such as https://example.org/health ({0})")]
    NotAUrl(url::ParseError),
    /// It has no host.
    #[error("must name a host, such as https://example.org/health")]
    NoHost,
    /// It carries a user name or a password, which would be shown wherever the target is.
    #[error("must not contain a user name or password; put credentials in the headers")]
    Credentials,
    /// It is too long.
    #[error("must be at most 2048 characters long")]
    TooLong,
}

impl Target {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL's scheme, in lower case.
    pub fn scheme(&self) -> &str {
        self.0.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// The host and port that it is at, as far as the URL says: `db.example:5432`, or with the
    /// scheme where the port goes without saying, as in `https://shop.example`.
    ///
    /// ```
    /// use healthmon_core::service::Target;
    /// let at = |url: &str| url.parse::<Target>().map(|target| target.place().to_owned());
    /// assert_eq!(at("https://shop.example/health?full")?, "https://shop.example");
    /// assert_eq!(at("https://shop.example:8443/health")?, "shop.example:8443");
    /// assert_eq!(at("tcp://[2001:db8::1]:22")?, "[2001:db8::1]:22");
    /// assert_eq!(at("icmp://[2001:db8::1]")?, "icmp://[2001:db8::1]");
    /// # Ok::<(), healthmon_core::service::InvalidTarget>(())
    /// ```
    pub fn place(&self) -> &str {
        let rest = self.0.split_once("://").map_or(&*self.0, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        if has_port { authority } else { &self.0[..self.0.len() - rest.len() + authority.len()] }
    }

    /// The parsed URL.
    pub fn url(&self) -> Url {
        // Only a text that the same parser produced gets in, and parsing is idempotent on those.
        Url::parse(&self.0).unwrap_or_else(|error| unreachable!("a target that parsed no longer does: {error}"))
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 2048 {
            return Err(InvalidTarget::TooLong);
        }
        let url = Url::parse(text.trim()).map_err(InvalidTarget::NotAUrl)?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidTarget::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTarget::Credentials);
        }
        let text = String::from(url);
        if text.len() > 2048 || Url::parse(&text).is_err() {
            return Err(InvalidTarget::TooLong);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
