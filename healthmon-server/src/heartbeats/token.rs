//! What a service proves itself with: 256 random bits, and whose they are.

use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use healthmon_core::{heartbeat::KeyDigest, id::ServiceId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How every token begins, so that people and scanners of leaked secrets know one when they see it.
const PREFIX: &str = "hb_";
const BYTES: usize = 32;

/// A service's token: `hb_<its id>_<256 random bits>`. Only its SHA-256 is kept.
#[derive(Clone)]
pub(crate) struct HeartbeatToken {
    service: ServiceId,
    text: String,
}

/// Not a token. What was given is not repeated: it may be one with a slip of the pen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoToken;

impl HeartbeatToken {
    /// A new one for `service`.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub(crate) fn generate(service: ServiceId) -> std::io::Result<Self> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self { service, text: format!("{PREFIX}{service}_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)) })
    }

    /// Whose it says it is.
    pub(crate) const fn service(&self) -> ServiceId {
        self.service
    }

    /// The token itself, for whom it is meant.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// What is kept of it.
    pub(crate) fn digest(&self) -> KeyDigest {
        KeyDigest(Sha256::digest(self.text.as_bytes()).into())
    }
}

impl FromStr for HeartbeatToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let (id, random) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(NoToken)?;
        let service: ServiceId = id.parse().map_err(|_| NoToken)?;
        let right = random.len() == (BYTES * 8).div_ceil(6) && service.to_string() == id;
        if right { Ok(Self { service, text: text.to_owned() }) } else { Err(NoToken) }
    }
}

impl fmt::Debug for HeartbeatToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Compares in the same time, whether `kept` is there or not.
pub(super) fn is_key(brought: KeyDigest, kept: Option<KeyDigest>) -> subtle::Choice {
    const NOBODYS: KeyDigest = KeyDigest([0; BYTES]);
    let there = subtle::Choice::from(u8::from(kept.is_some()));
    brought.0.ct_eq(&kept.unwrap_or(NOBODYS).0) & there
}

/// A request's path as logs and errors may show it: a token is its sender's secret, on whichever path.
pub(crate) fn without_tokens(path: &str) -> Cow<'_, str> {
    const HEARTBEATS: &str = "/api/v1/heartbeats/";
    const HIDDEN: &str = "(hidden)";
    if let Some(at) = path.find(HEARTBEATS) {
        return format!("{}{HIDDEN}", &path[..at + HEARTBEATS.len()]).into();
    }
    if !path.contains(PREFIX) {
        return path.into();
    }
    let shown = path.split('/').map(|segment| if segment.contains(PREFIX) { HIDDEN } else { segment });
    shown.collect::<Vec<_>>().join("/").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> ServiceId {
        ServiceId::new(4_711).unwrap()
    }

    #[test]
    fn tokens_are_random_name_their_service_and_read_back() {
        let (token, other) =
            (HeartbeatToken::generate(service()).unwrap(), HeartbeatToken::generate(service()).unwrap());
        assert_ne!(token.expose(), other.expose());
        assert!(token.expose().starts_with("hb_4711_"));
        let read: HeartbeatToken = token.expose().parse().unwrap();
        assert_eq!(read.service(), service());
        assert!(bool::from(is_key(read.digest(), Some(token.digest()))));
        assert!(!bool::from(is_key(read.digest(), Some(other.digest()))));
        assert!(!bool::from(is_key(read.digest(), None)));
        assert!(!bool::from(is_key(KeyDigest([0; 32]), None)), "not even what stands for none");
        assert_eq!(format!("{token:?} {:?}", token.digest()), "(hidden) (hidden)");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let random = "A".repeat(43);
        assert!(format!("hb_1_{random}").parse::<HeartbeatToken>().is_ok());
        for text in ["", "hb_", "hb_1_", "hb_1_short", "hm_1_x", "hb__x"] {
            assert!(text.parse::<HeartbeatToken>().is_err(), "{text}");
        }
        for id in ["0", "01", "+1", "-1", "x", "99999999999999999999"] {
            assert!(format!("hb_{id}_{random}").parse::<HeartbeatToken>().is_err(), "{id}");
        }
    }

    #[test]
    fn sec_paths_are_shown_without_tokens() {
        for (path, shown) in [
            ("/api/v1/services/1", "/api/v1/services/1"),
            ("/api/v1/heartbeats/hb_1_x", "/api/v1/heartbeats/(hidden)"),
            ("/api/v1/heartbeats/hb%5F1_x/a/b", "/api/v1/heartbeats/(hidden)"),
            ("//api/v1/heartbeats/hb_1_x/3", "//api/v1/heartbeats/(hidden)"),
            ("/api/v1/heartbeat/hb_1_x/3", "/api/v1/heartbeat/(hidden)/3"),
        ] {
            assert_eq!(without_tokens(path), shown);
        }
    }
}
