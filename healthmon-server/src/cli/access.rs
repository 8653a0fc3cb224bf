//! Arguments about who may use the API.

use clap::{Args, Subcommand};

use crate::auth::{
    AccessRole, AccessSettings, AllowedOrigin, Anonymous, ApiToken, Listed, MetricsAccess, PrincipalName, TrustedProxy,
    User,
};

/// Who may use the API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Who logs in with a password: name:role:hash, separated by white space. Roles are viewer,
    /// editor and admin; `healthmon auth hash-password` prints hashes
    #[arg(long, env = "HEALTHMON_USERS", hide_env_values = true, value_name = "USERS")]
    pub users: Option<Listed<User>>,
    /// What comes with a token: name:role:sha256, separated by commas. `healthmon auth new-token`
    /// prints them
    #[arg(long, env = "HEALTHMON_TOKENS", hide_env_values = true, value_name = "TOKENS")]
    pub tokens: Option<Listed<ApiToken>>,
    /// Listen beyond loopback without users or tokens: whoever reaches the server may do everything
    #[arg(long, env = "HEALTHMON_ALLOW_ANONYMOUS")]
    pub allow_anonymous: bool,
    /// Who may read /metrics, where there are users or tokens
    #[arg(long, value_enum, default_value = "viewer", env = "HEALTHMON_METRICS_ACCESS")]
    pub metrics_access: MetricsAccess,
    /// An origin, beside the server's own, whose pages may open the WebSocket of events, and whose
    /// requests are not refused for it. Their scripts can read no other answer, since no CORS header
    /// is sent; may be given several times
    #[arg(long, value_delimiter = ',', env = "HEALTHMON_ALLOWED_ORIGIN", value_name = "ORIGIN")]
    pub allowed_origin: Vec<AllowedOrigin>,
    /// A network of balancers or proxies in front: of whom they say in X-Forwarded-For, limits and
    /// the log take a request to come. Without it all who come through one are one to the limits;
    /// may be given several times
    #[arg(long, value_delimiter = ',', env = "HEALTHMON_TRUSTED_PROXY", value_name = "NETWORK")]
    pub trusted_proxy: Vec<TrustedProxy>,
}

impl AccessArgs {
    /// The settings these arguments make.
    pub fn to_settings(&self) -> AccessSettings {
        AccessSettings {
            users: self.users.clone().unwrap_or_default().0,
            tokens: self.tokens.clone().unwrap_or_default().0,
            anonymous: if self.allow_anonymous { Anonymous::Admitted } else { Anonymous::Refused },
            metrics: self.metrics_access,
            origins: self.allowed_origin.clone(),
            proxies: self.trusted_proxy.clone(),
        }
    }
}

/// What to make for the settings.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Hash a password, and show what to put into the settings
    ///
    /// Asks for the password on a terminal; else reads one line from standard input.
    HashPassword(HashPasswordArgs),
    /// Make a token, show it once, and what to put into the settings
    NewToken(NewTokenArgs),
}

/// Whose password to hash.
#[derive(Debug, Args)]
pub struct HashPasswordArgs {
    /// What the user logs in as
    #[arg(long, default_value = "admin")]
    pub name: PrincipalName,
    /// What the user may do
    #[arg(long, value_enum, default_value = "admin")]
    pub role: AccessRole,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

/// What token to make.
#[derive(Debug, Args)]
pub struct NewTokenArgs {
    /// What the log calls whoever comes with it
    #[arg(long)]
    pub name: PrincipalName,
    /// What it may do
    #[arg(long, value_enum)]
    pub role: AccessRole,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}
