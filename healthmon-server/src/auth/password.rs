//! Passwords are kept as argon2id hashes.

use std::{fmt, str::FromStr};

use argon2::{
    Argon2, Params, PasswordHasher, PasswordVerifier,
    password_hash::phc::{self, Output, Salt},
};
use serde::Deserialize;

/// The least that one guess must cost, in KiB × passes: OWASP's weakest recommended setting.
const LEAST_COST: u64 = 7_168 * 5;
/// Below this much memory, passes do not make up for it: special hardware guesses too well.
const LEAST_MEMORY_KIB: u32 = 7_168;
/// What one check may cost this process, in KiB and in KiB × passes.
const MOST_MEMORY_KIB: u32 = 256 * 1_024;
const MOST_COST: u64 = 1_024 * 1_024;
/// More lanes than this have no use here.
const MOST_LANES: u32 = 16;
/// The shortest output that is not guessed instead of the password.
const LEAST_OUTPUT_BYTES: usize = 16;
/// The shortest password that is hashed; the longest that is looked at.
const LEAST_CHARS: usize = 8;
pub(super) const MOST_BYTES: usize = 1_024;

/// The argon2id hash of a password: costly enough for who steals it, not too costly for us.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PasswordHash(Box<phc::PasswordHash>);

/// Why a text is no hash to check passwords with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPasswordHash {
    /// It cannot be read.
    #[error("must be an argon2id hash, as `healthmon auth hash-password` prints it: $argon2id$v=19$m=…,t=…,p=…$…$…")]
    Form,
    /// It is another function's.
    #[error("must be of argon2id in version 19; other functions and versions are weaker")]
    Function,
    /// It is guessed too cheaply.
    #[error(
        "is too weak: its m must be at least {LEAST_MEMORY_KIB}, m × t at least {LEAST_COST}, and 16 bytes come out"
    )]
    Weak,
    /// Checking it would take the machine down.
    #[error("is too costly: its m may be {MOST_MEMORY_KIB}, m × t {MOST_COST}, and p {MOST_LANES} at most")]
    Costly,
}

/// Why a password is not hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// It is guessed too easily.
    #[error("the password must be at least {LEAST_CHARS} characters long")]
    Short,
    /// Nobody types this.
    #[error("the password must be at most {MOST_BYTES} bytes long")]
    Long,
    /// No randomness, or no memory.
    #[error("the system gives no randomness or memory")]
    System,
}

impl PasswordHash {
    /// Hashes a password with a new salt: 19 MiB, two passes. Takes some 30 ms.
    ///
    /// # Errors
    /// When the password is too short or too long.
    pub fn of(password: &str) -> Result<Self, HashError> {
        if password.chars().count() < LEAST_CHARS {
            return Err(HashError::Short);
        }
        if password.len() > MOST_BYTES {
            return Err(HashError::Long);
        }
        let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
        getrandom::fill(&mut salt).map_err(|_| HashError::System)?;
        let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
        hash.map(|hash| Self(Box::new(hash))).map_err(|_| HashError::System)
    }

    /// A hash of no password, as costly to check as the costliest of these.
    pub(super) fn decoy<'a>(like: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let costliest = like.max_by_key(|hash| hash.params().map_or(0, |params| cost(&params)))?;
        let (mut salt, mut output) = ([0; 16], [0; 32]);
        getrandom::fill(&mut salt).ok()?;
        getrandom::fill(&mut output).ok()?;
        let (salt, hash) = (Salt::new(&salt).ok()?, Output::new(&output).ok()?);
        Some(Self(Box::new(phc::PasswordHash { salt: Some(salt), hash: Some(hash), ..(*costliest.0).clone() })))
    }

    /// Whether this is the password. Takes what the hash was made to cost, right or wrong.
    pub fn matches(&self, password: &str) -> bool {
        // The outputs are compared in constant time.
        Argon2::default().verify_password(password.as_bytes(), &*self.0).is_ok()
    }

    fn params(&self) -> Option<Params> {
        Params::try_from(&*self.0).ok()
    }

    fn check(&self) -> Result<(), InvalidPasswordHash> {
        let hash = &self.0;
        if hash.algorithm != argon2::ARGON2ID_IDENT || hash.version != Some(19) {
            return Err(InvalidPasswordHash::Function);
        }
        let output = hash.hash.as_ref().ok_or(InvalidPasswordHash::Form)?;
        let params = self.params().filter(|_| hash.salt.is_some()).ok_or(InvalidPasswordHash::Form)?;
        let weak = params.m_cost() < LEAST_MEMORY_KIB || cost(&params) < LEAST_COST;
        if weak || output.len() < LEAST_OUTPUT_BYTES {
            return Err(InvalidPasswordHash::Weak);
        }
        let costly = params.m_cost() > MOST_MEMORY_KIB || cost(&params) > MOST_COST || params.p_cost() > MOST_LANES;
        if costly { Err(InvalidPasswordHash::Costly) } else { Ok(()) }
    }
}

fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

impl FromStr for PasswordHash {
    type Err = InvalidPasswordHash;

    fn from_str(text: &str) -> Result<Self, InvalidPasswordHash> {
        let hash = phc::PasswordHash::new(text).map_err(|_| InvalidPasswordHash::Form)?;
        let hash = Self(Box::new(hash));
        hash.check()?;
        Ok(hash)
    }
}

impl TryFrom<String> for PasswordHash {
    type Error = InvalidPasswordHash;

    fn try_from(text: String) -> Result<Self, InvalidPasswordHash> {
        text.parse()
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "YWJjZGVmZ2hpamtsbW5vcA";
    const OUTPUT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";

    fn parse(head: &str) -> Result<PasswordHash, InvalidPasswordHash> {
        format!("{head}${SALT}${OUTPUT}").parse()
    }

    #[test]
    fn a_hash_matches_its_password_and_no_other_and_survives_being_written() {
        let hash = PasswordHash::of("correct horse").unwrap();
        let read: PasswordHash = hash.to_string().parse().unwrap();
        assert!(read.matches("correct horse"));
        assert!(!read.matches("correct horsf") && !read.matches("") && !read.matches(&read.to_string()));
        assert_ne!(PasswordHash::of("correct horse").unwrap(), hash, "salts differ");
    }

    #[test]
    fn sec_weak_costly_and_foreign_hashes_are_refused() {
        use InvalidPasswordHash::{Costly, Form, Function, Weak};
        for (head, wrong) in [
            ("$argon2i$v=19$m=19456,t=2,p=1", Function),
            ("$argon2d$v=19$m=19456,t=2,p=1", Function),
            ("$argon2id$v=16$m=19456,t=2,p=1", Function),
            ("$argon2id$m=19456,t=2,p=1", Function),
            ("$2b$12", Form),
            ("$argon2id$v=19$m=4096,t=100,p=1", Weak),
            ("$argon2id$v=19$m=19456,t=1,p=1", Weak),
            ("$argon2id$v=19$m=4194304,t=1,p=1", Costly),
            ("$argon2id$v=19$m=19456,t=4000,p=1", Costly),
            ("$argon2id$v=19$m=19456,t=2,p=64", Costly),
            ("$argon2id$v=19$m=x,t=2,p=1", Form),
            ("plain", Form),
            ("", Form),
        ] {
            assert_eq!(parse(head), Err(wrong), "{head}");
        }
        for head in
            ["$argon2id$v=19$m=19456,t=2,p=1", "$argon2id$v=19$m=7168,t=5,p=1", "$argon2id$v=19$m=65536,t=3,p=4"]
        {
            assert!(parse(head).is_ok(), "{head}");
        }
        let short = format!("$argon2id$v=19$m=19456,t=2,p=1${SALT}$MDEyMzQ1Njc4OQ");
        assert_eq!(short.parse::<PasswordHash>(), Err(Weak));
        assert_eq!(format!("$argon2id$v=19$m=19456,t=2,p=1${SALT}").parse::<PasswordHash>(), Err(Form));
        assert_eq!("hunter22".parse::<PasswordHash>(), Err(Form), "a password in place of its hash");
    }

    #[test]
    fn a_decoy_costs_what_the_costliest_costs_and_matches_nothing() {
        let hashes =
            ["$argon2id$v=19$m=19456,t=2,p=1", "$argon2id$v=19$m=65536,t=3,p=4"].map(|head| parse(head).unwrap());
        let decoy = PasswordHash::decoy(hashes.iter()).unwrap();
        assert_eq!(decoy.params().unwrap().m_cost(), 65_536);
        assert!(!decoy.matches("correct horse"));
        assert!(PasswordHash::decoy([].iter()).is_none());
    }

    #[test]
    fn sec_hashes_are_not_shown_by_debug() {
        assert_eq!(format!("{:?}", PasswordHash::of("correct horse").unwrap()), "(hidden)");
    }

    #[test]
    fn passwords_nobody_should_have_are_not_hashed() {
        assert_eq!(PasswordHash::of("short"), Err(HashError::Short));
        assert_eq!(PasswordHash::of(&"x".repeat(MOST_BYTES + 1)), Err(HashError::Long));
    }
}
