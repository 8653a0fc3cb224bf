//! `healthmon auth`: what settings need, and what is kept by whom they name.

use std::io::{self, IsTerminal, Read, Write};

use serde_json::json;

use super::{AccessRole, ApiToken, HashError, PasswordHash, PrincipalName, Token, User, password::MOST_BYTES};
use crate::cli::{AuthCommand, HashPasswordArgs, NewTokenArgs};

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthCommandError {
    /// The password.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// It was typed differently the second time.
    #[error("the two passwords differ")]
    Differ,
    /// The terminal, standard input or output, or the system's randomness.
    #[error("cannot read or write: {0}")]
    Io(#[from] io::Error),
}

/// Does what is asked, and shows the outcome.
///
/// # Errors
/// See [`AuthCommandError`].
pub fn run(command: &AuthCommand, out: &mut impl Write) -> Result<(), AuthCommandError> {
    match command {
        AuthCommand::HashPassword(args) => hash_password(args, out),
        AuthCommand::NewToken(args) => new_token(args, out),
    }
}

fn hash_password(args: &HashPasswordArgs, out: &mut impl Write) -> Result<(), AuthCommandError> {
    let hash = PasswordHash::of(&password()?)?;
    let HashPasswordArgs { name, role, json } = args;
    if *json {
        writeln!(out, "{}", json!({"name": name.as_str(), "role": role.as_str(), "password_hash": hash.to_string()}))?;
        return Ok(());
    }
    let user = User { name: name.clone(), role: *role, password_hash: hash };
    writeln!(out, "The password's hash, for the settings:\n\n  {}\n", user.password_hash)?;
    yaml(out, "users", name, *role, "password_hash", &user.password_hash)?;
    writeln!(out, "or in the environment, several separated by spaces:\n\n  HEALTHMON_USERS='{user}'")?;
    Ok(())
}

fn new_token(args: &NewTokenArgs, out: &mut impl Write) -> Result<(), AuthCommandError> {
    let token = Token::generate()?;
    let NewTokenArgs { name, role, json } = args;
    let entry = ApiToken { name: name.clone(), role: *role, sha256: token.hash() };
    if *json {
        let sha256 = entry.sha256.to_string();
        let shown = json!({"name": name.as_str(), "role": role.as_str(), "token": token.expose(), "sha256": sha256});
        writeln!(out, "{shown}")?;
        return Ok(());
    }
    writeln!(out, "The token, for whom it is meant; it is shown only now:\n\n  {}\n", token.expose())?;
    yaml(out, "tokens", name, *role, "sha256", &entry.sha256)?;
    writeln!(out, "or in the environment, several separated by commas:\n\n  HEALTHMON_TOKENS='{entry}'")?;
    Ok(())
}

fn yaml(
    out: &mut impl Write,
    list: &str,
    name: &PrincipalName,
    role: AccessRole,
    key: &str,
    hash: &impl std::fmt::Display,
) -> io::Result<()> {
    writeln!(out, "In the settings file:\n")?;
    writeln!(out, "  access:\n    {list}:\n      - name: \"{name}\"\n        role: {role}\n        {key}: \"{hash}\"\n")
}

/// Asks for the password twice, or takes one line of what is piped in.
fn password() -> Result<String, AuthCommandError> {
    if io::stdin().is_terminal() {
        let password = rpassword::prompt_password("Password: ")?;
        if rpassword::prompt_password("Again: ")? != password {
            return Err(AuthCommandError::Differ);
        }
        return Ok(password);
    }
    let mut text = String::new();
    io::stdin().lock().take(2 * MOST_BYTES as u64).read_to_string(&mut text)?;
    Ok(text.split(['\r', '\n']).next().unwrap_or_default().to_owned())
}
