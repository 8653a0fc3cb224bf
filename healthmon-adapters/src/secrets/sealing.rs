//! Secrets at rest: encrypted with a key that is not kept beside them.

use std::fmt;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};

use super::{Secret, SecretRef};

/// How the sealed texts of this version begin.
const VERSION: &str = "v1.";
/// Tells these texts from others that the same key might encrypt.
const PURPOSE: &[u8] = b"healthmon secret v1";
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// Keys that seal secrets. The first one seals, all of them open, so that a key is replaced by
/// putting the new one before it.
///
/// A secret is sealed with XChaCha20-Poly1305 under a random nonce. What that is good for: copies of
/// the database (backups, dumps, disks) give no secret away. What it is not: whoever can *write* to
/// the database can turn a service to a target of theirs, and workers would open its secrets for it.
/// A sealed text is therefore bound to nothing but the key; that one service's text is not given to
/// another is the server's business, which takes no sealed text from anyone.
///
/// ```
/// use healthmon_adapters::secrets::{SealingKeys, SecretRef, Secrets};
/// let keys = SealingKeys::read("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")?;
/// let sealed = keys.seal("hunter2")?;
/// assert!(!serde_json::to_string(&sealed)?.contains("hunter2"));
/// let secrets = Secrets::default().with_keys(keys);
/// assert_eq!(secrets.reveal(&sealed)?.expose(), "hunter2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SealingKeys {
    newest: XChaCha20Poly1305,
    older: Vec<XChaCha20Poly1305>,
}

/// A text that holds no keys. Does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {place} is not 32 bytes in base64 or hex; `openssl rand -base64 32` makes one, several stand with commas or \
     line breaks between them"
)]
pub struct InvalidKeys {
    /// Which of them, from 1 on.
    pub place: usize,
}

/// That nothing could be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The system gives no randomness.
    #[error("the system gives no randomness: {0}")]
    Randomness(String),
    /// The cipher did not take the text.
    #[error("the text cannot be encrypted")]
    Cipher,
}

impl SealingKeys {
    /// Reads one key or several, the newest first: 32 bytes each in base64 or hex, with commas or
    /// white space between them.
    ///
    /// # Errors
    /// When there is none, or one is none.
    pub fn read(text: &str) -> Result<Self, InvalidKeys> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        let mut older = Vec::new();
        for (at, word) in words.enumerate() {
            older.push(key(word).ok_or(InvalidKeys { place: at + 1 })?);
        }
        if older.is_empty() {
            return Err(InvalidKeys { place: 1 });
        }
        let newest = older.remove(0);
        Ok(Self { newest, older })
    }

    /// Seals a text with the newest key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal(&self, text: &str) -> Result<SecretRef, SealError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| SealError::Randomness(error.to_string()))?;
        let payload = Payload { msg: text.as_bytes(), aad: PURPOSE };
        let encrypted = self.newest.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::Cipher)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.encode([nonce.as_slice(), &encrypted].concat());
        Ok(SecretRef::Sealed(format!("{VERSION}{sealed}").into()))
    }

    /// The secret as it is to be kept: what is written plainly sealed, what an older key sealed
    /// sealed anew. `None` when it is to be kept as it is.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn reseal(&self, secret: &SecretRef) -> Result<Option<SecretRef>, SealError> {
        match secret {
            SecretRef::Plain(text) => self.seal(text).map(Some),
            SecretRef::Sealed(sealed) if open(&self.newest, sealed).is_none() => match self.open(sealed) {
                Some(secret) => self.seal(secret.expose()).map(Some),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// What was sealed, if one of the keys opens it.
    pub(super) fn open(&self, sealed: &str) -> Option<Secret> {
        let text = std::iter::once(&self.newest).chain(&self.older).find_map(|key| open(key, sealed));
        text.map(|text| Secret(text.into()))
    }
}

fn key(word: &str) -> Option<XChaCha20Poly1305> {
    let bytes = if word.len() == 2 * KEY_BYTES { hex(word)? } else { base64(word)? };
    (bytes.len() == KEY_BYTES).then(|| XChaCha20Poly1305::new_from_slice(&bytes).ok())?
}

fn base64(word: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(word).or_else(|_| BASE64_URL_SAFE.decode(word)).ok()
}

fn hex(word: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = word.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    Some(digits?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn open(key: &XChaCha20Poly1305, sealed: &str) -> Option<String> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed.strip_prefix(VERSION)?).ok()?;
    let (nonce, encrypted) = bytes.split_first_chunk::<NONCE_BYTES>()?;
    let opened = key.decrypt(&XNonce::from(*nonce), Payload { msg: encrypted, aad: PURPOSE }).ok()?;
    String::from_utf8(opened).ok()
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKeys").field("count", &(1 + self.older.len())).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Secrets, *};

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

    fn keys(text: &str) -> SealingKeys {
        SealingKeys::read(text).expect("keys")
    }

    fn revealed(keys: &SealingKeys, sealed: &SecretRef) -> Option<String> {
        let secrets = Secrets::default().with_keys(keys.clone());
        secrets.reveal(sealed).ok().map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn a_sealed_secret_opens_with_its_key_only_and_shows_nothing() {
        let sealed = keys(OLD).seal("canary").expect("sealed");
        assert_eq!(revealed(&keys(OLD), &sealed).as_deref(), Some("canary"));
        assert_eq!(revealed(&keys(NEW), &sealed), None);
        assert!(Secrets::default().reveal(&sealed).is_err(), "there is no key at all");
        let json = serde_json::to_string(&sealed).expect("json");
        assert!(!json.contains("canary") && json.starts_with("{\"sealed\":\"v1."), "{json}");
        assert_ne!(keys(OLD).seal("canary").expect("sealed"), sealed, "each time under another nonce");
    }

    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let (old, both) = (keys(OLD), keys(&format!("{NEW},\n{OLD}")));
        let before = old.seal("canary").expect("sealed");
        assert_eq!(revealed(&both, &before).as_deref(), Some("canary"));
        let after = both.reseal(&before).expect("sealed").expect("by the new key");
        assert_eq!(revealed(&keys(NEW), &after).as_deref(), Some("canary"));
        assert_eq!(both.reseal(&after).expect("sealed"), None, "it is by the newest already");
        let plain = SecretRef::Plain("canary".into());
        assert!(matches!(both.reseal(&plain), Ok(Some(SecretRef::Sealed(_)))));
        let elsewhere = SecretRef::Env("HEALTHMON_SECRET_X".into());
        assert_eq!(both.reseal(&elsewhere).expect("nothing to do"), None);
        assert_eq!(keys(NEW).reseal(&before).expect("nothing to do"), None, "what cannot be opened is left");
    }

    #[test]
    fn a_sealed_text_that_was_tampered_with_does_not_open() {
        let keys = keys(OLD);
        let SecretRef::Sealed(sealed) = keys.seal("canary").expect("sealed") else { panic!("it is sealed") };
        for at in 0..sealed.len() {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("text");
            assert!(keys.open(&changed).is_none(), "{at}");
        }
        for short in ["", "v1.", "v1.AAAA", "v2.AAAA"] {
            assert!(keys.open(short).is_none(), "{short:?}");
        }
    }

    #[test]
    fn keys_are_32_bytes_in_base64_or_hex_and_an_error_names_the_place_not_the_key() {
        assert!(SealingKeys::read(&format!("  {OLD}\n")).is_ok());
        let short = SealingKeys::read(&format!("{OLD}, c2hvcnQ=")).expect_err("too short");
        assert_eq!(short, InvalidKeys { place: 2 });
        assert!(!short.to_string().contains("c2hvcnQ"), "{short}");
        assert_eq!(SealingKeys::read(" ,").err(), Some(InvalidKeys { place: 1 }));
        assert!(SealingKeys::read(&"zz".repeat(32)).is_err());
        assert_eq!(format!("{:?}", keys(NEW)), "SealingKeys { count: 1, .. }");
    }
}
