//! Who may use the API, and for what.
//!
//! Settings name users, with an argon2id hash of their password each, and tokens, with their
//! SHA-256; both have a role. The [`Gate`] finds out who a request comes from; the table of routes
//! says what each takes ([`Need`](crate::Need)). Where there are neither users nor tokens, nobody
//! is asked: whoever reaches the server may do everything, which is why it then listens on loopback
//! only unless told otherwise outright.
//!
//! A password is looked at only after a limit by peer and by name, and a few at a time: computing
//! argon2id is dear for us as well as for who guesses. A password that was right is remembered, as a
//! keyed hash, with the user whose it is: for a minute it is right without a look at it, and for
//! as long as the user's settings stay, no limit keeps it out. So whoever guesses, even from the
//! same address, locks out nobody who was there before. What a peer's address is behind a balancer,
//! [`TrustedProxy`] says.

mod access;
pub mod command;
mod gate;
mod password;
mod principal;
mod proxies;
mod roster;
#[cfg(test)]
mod tests;
mod throttle;
mod token;

pub use access::{
    AccessError, AccessSettings, AllowedOrigin, Anonymous, ApiToken, InvalidCredential, InvalidOrigin, Listed,
    MetricsAccess, User,
};
pub use gate::Gate;
pub(crate) use gate::Refused;
pub use password::{HashError, InvalidPasswordHash, PasswordHash};
pub use principal::{AccessRole, InvalidPrincipalName, InvalidRole, PrincipalName};
pub use proxies::{InvalidProxy, TrustedProxy};
pub(crate) use roster::Principal;
pub(crate) use throttle::Peer;
pub use token::{InvalidToken, InvalidTokenHash, Token, TokenHash};
