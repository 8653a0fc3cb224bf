//! Who may use the API, and for what.

mod principal;

pub use principal::{AccessRole, InvalidPrincipalName, InvalidRole, PrincipalName};
