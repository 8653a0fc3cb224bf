//! Tokens are 256 random bits; what is kept is their SHA-256.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How every token begins, so that people and scanners of leaked secrets know one when they see it.
const PREFIX: &str = "hm_";
const BYTES: usize = 32;

/// A bearer token.
#[derive(Clone)]
pub struct Token(String);

/// Not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a token, as `healthmon auth new-token` prints it: {PREFIX}…")]
pub struct InvalidToken;

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The token itself, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it: `printf %s hm_… | sha256sum` gives the same.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let random = text.strip_prefix(PREFIX).filter(|random| random.len() == (BYTES * 8).div_ceil(6));
        let decoded = random.and_then(|random| BASE64_URL_SAFE_NO_PAD.decode(random).ok());
        decoded.map(|_| Self(text.to_owned())).ok_or(InvalidToken)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A token's SHA-256. Unlike a password's, it need not be slow: nobody guesses 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenHash([u8; 32]);

/// Not a token's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a token's SHA-256, as `healthmon auth new-token` prints it: 64 hexadecimal digits")]
pub struct InvalidTokenHash;

impl ConstantTimeEq for TokenHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl FromStr for TokenHash {
    type Err = InvalidTokenHash;

    fn from_str(text: &str) -> Result<Self, InvalidTokenHash> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(InvalidTokenHash);
        }
        let digit = |digit: u8| (digit as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or(InvalidTokenHash)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = InvalidTokenHash;

    fn try_from(text: String) -> Result<Self, InvalidTokenHash> {
        text.parse()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_read_back_and_so_are_their_hashes() {
        let (token, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_ne!(token.expose(), other.expose());
        assert_eq!(token.expose().len(), 46);
        let read: Token = token.expose().parse().unwrap();
        let hash: TokenHash = read.hash().to_string().parse().unwrap();
        assert!(bool::from(hash.ct_eq(&token.hash())) && !bool::from(hash.ct_eq(&other.hash())));
        assert_eq!(format!("{token:?} {hash:?}"), "(hidden) (hidden)");
    }

    #[test]
    fn the_hash_is_plain_sha256_of_the_whole_token() {
        let token = Token("hm_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned());
        assert_eq!(token.hash().to_string(), "4365c699cec4245f9cd56f01e3455c8b8fed836c47e53f4885695a027337e416");
    }

    #[test]
    fn what_is_no_token_or_no_hash_is_refused() {
        for text in ["", "hm_", "hm_short", "xx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
        assert!(format!("hm_{}", "A".repeat(44)).parse::<Token>().is_err());
        assert!(format!("hm_{}B", "A".repeat(42)).parse::<Token>().is_err(), "bits beyond the 256");
        for text in ["", "abc", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<TokenHash>().is_err(), "{text}");
        }
        assert!("aB".repeat(32).parse::<TokenHash>().is_ok());
    }
}
