//! Connections that come back, and scripts that load themselves.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fred::{
    clients::{Client, SubscriberClient, WithOptions},
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::Builder,
    types::{
        ClusterHash, CustomCommand, RespVersion, Value,
        config::{Options, ReconnectPolicy, TlsConfig, TlsConnector},
    },
};
use healthmon_core::ports::QueueError;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::task::AbortHandle;

use super::RedisOptions;

/// Once it is away, it is tried again after this long, and twice as long each time up to two seconds.
const FIRST_RETRY_MS: u32 = 50;
const LAST_RETRY_MS: u32 = 2_000;
/// After how long a caller may try again.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// The oldest server that has what the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// What went wrong at Redis: its words, which hold no password.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct RedisTrouble(pub(super) String);

/// Away for now, or not to be helped by trying again.
#[derive(Debug, Clone)]
pub(super) enum RedisError {
    Away(RedisTrouble),
    Wrong(RedisTrouble),
}

impl RedisError {
    pub(super) fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(RedisTrouble(what.into()))
    }
}

impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        let trouble = RedisTrouble(error.to_string());
        let said = error.details();
        let passing =
            ["LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS"];
        // A script passes on what a command in it was told, with or without its code first.
        if passing.iter().any(|code| said.contains(code)) {
            return Self::Away(trouble);
        }
        match error.kind() {
            ErrorKind::IO
            | ErrorKind::Timeout
            | ErrorKind::Canceled
            | ErrorKind::Backpressure
            | ErrorKind::Routing
            | ErrorKind::Cluster
            | ErrorKind::Protocol
            | ErrorKind::Tls => Self::Away(trouble),
            ErrorKind::Unknown if !said.starts_with("ERR") && !said.starts_with("WRONGTYPE") => Self::Away(trouble),
            _ => Self::Wrong(trouble),
        }
    }
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        match error {
            RedisError::Away(trouble) => Self::Transient { retry_after: RETRY_AFTER, source: Box::new(trouble) },
            RedisError::Wrong(trouble) => Self::Permanent(Box::new(trouble)),
        }
    }
}

/// A script, by the name Redis gives it; known since it was first loaded.
pub(super) struct Script {
    lua: &'static str,
    name: OnceLock<Value>,
}

impl Script {
    pub(super) const fn new(lua: &'static str) -> Self {
        Self { lua, name: OnceLock::new() }
    }
}

/// A connection for commands.
pub(super) struct Connection {
    client: WithOptions<Client>,
    task: AbortHandle,
    base: Value,
}

fn roots(options: &RedisOptions) -> Result<rustls::RootCertStore, RedisError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = &options.ca_file {
        let wrong = |error: &dyn std::fmt::Display| RedisError::wrong(format!("{}: {error}", file.display()));
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
    }
    Ok(roots)
}

/// How every client is made: it reconnects for ever, and nothing waits without a bound.
fn builder(options: &RedisOptions, version: RespVersion) -> Result<Builder, RedisError> {
    let mut config = options.config();
    config.fail_fast = true;
    config.version = version;
    if config.uses_tls() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RedisError::wrong(error.to_string()))?
            .with_root_certificates(roots(options)?)
            .with_no_client_auth();
        config.tls = Some(TlsConfig::from(TlsConnector::from(tls)));
    }
    let mut builder = Builder::from_config(config);
    builder
        .set_policy(ReconnectPolicy::new_exponential(0, FIRST_RETRY_MS, LAST_RETRY_MS, 2))
        .with_connection_config(|connection| {
            connection.connection_timeout = options.connect_timeout;
            connection.internal_command_timeout = options.command_timeout;
            connection.max_command_buffer_len = options.buffer.get();
            connection.max_command_attempts = 1;
            connection.reconnect_on_auth_error = true;
            connection.tcp.nodelay = Some(true);
            // A peer that vanished without a word is noticed by what it does not answer.
            connection.unresponsive.max_timeout = Some(options.command_timeout * 2);
            connection.unresponsive.interval = Duration::from_secs(1);
        })
        .with_performance_config(|performance| {
            performance.default_command_timeout = options.command_timeout;
            performance.broadcast_channel_capacity = 4096;
        });
    Ok(builder)
}

impl Connection {
    /// Connects, and looks whether the server is one that will do.
    pub(super) async fn open(options: &RedisOptions) -> Result<Self, RedisError> {
        let client = builder(options, RespVersion::RESP2)?.build()?;
        let task = client.init().await?.abort_handle();
        let fast = Options { fail_fast: true, timeout: Some(options.command_timeout), ..Options::default() };
        let connection = Self { client: client.with_options(&fast), task, base: Value::from(options.base()) };
        connection.inspect().await?;
        Ok(connection)
    }

    /// What keys begin with.
    pub(super) fn base(&self) -> std::borrow::Cow<'_, str> {
        self.base.as_str().unwrap_or_default()
    }

    async fn inspect(&self) -> Result<(), RedisError> {
        let info = self.say("INFO", vec!["server".into()]).await?;
        let info = info.as_str().unwrap_or_default().into_owned();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        let mut numbers = version.trim().split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
            return Err(RedisError::wrong(format!("Redis {version} is too old; it must be 6.2 or newer")));
        }
        // Some services forbid the question; then nobody can tell.
        if let Ok(answer) = self.say("CONFIG", vec!["GET".into(), "maxmemory-policy".into()]).await {
            let policy = strings(answer).pop().unwrap_or_default();
            if !policy.is_empty() && policy != "noeviction" {
                tracing::error!(
                    maxmemory_policy = policy,
                    "Redis may throw probes and results away when its memory is full; set maxmemory-policy to noeviction"
                );
            }
        }
        Ok(())
    }

    /// Says a command.
    pub(super) async fn say(&self, command: &'static str, arguments: Vec<Value>) -> Result<Value, RedisError> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        Ok(self.client.custom(command, arguments).await?)
    }

    /// Runs a script, loading it first where it is not known.
    pub(super) async fn run(&self, script: &Script, arguments: Vec<Value>) -> Result<Value, RedisError> {
        let Some(name) = script.name.get() else {
            let name = self.load(script).await?;
            return Ok(self.evaluate(name, arguments).await?);
        };
        // Cheap to keep: the large ones are shared bytes.
        let again = arguments.clone();
        match self.evaluate(name.clone(), arguments).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                let name = self.load(script).await?;
                Ok(self.evaluate(name, again).await?)
            }
            answer => Ok(answer?),
        }
    }

    async fn load(&self, script: &Script) -> Result<Value, RedisError> {
        let name = self.say("SCRIPT", vec!["LOAD".into(), script.lua.into()]).await?;
        Ok(script.name.get_or_init(|| name).clone())
    }

    async fn evaluate(&self, name: Value, arguments: Vec<Value>) -> Result<Value, Error> {
        let mut all = Vec::with_capacity(arguments.len() + 3);
        all.extend([name, Value::Integer(1), self.base.clone()]);
        all.extend(arguments);
        // The client's own EVALSHA waits for each answer before it sends the next; this does not.
        self.client.custom(CustomCommand::new_static("EVALSHA", ClusterHash::FirstKey, false), all).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a subscription brings.
pub(super) enum News {
    /// A message.
    Message(Value),
    /// Messages may have been missed.
    Gap,
}

/// A connection that listens to one channel.
pub(super) struct Subscription {
    client: SubscriberClient,
    tasks: [AbortHandle; 2],
}

impl Subscription {
    /// Subscribes; `hear` is called for each message, and whenever some may have been missed.
    pub(super) async fn open(
        options: &RedisOptions,
        channel: String,
        mut hear: impl FnMut(News) + Send + 'static,
    ) -> Result<Self, RedisError> {
        let client = builder(options, RespVersion::RESP3)?.build_subscriber_client()?;
        let (mut messages, mut connected) = (client.message_rx(), client.reconnect_rx());
        let router = client.init().await?.abort_handle();
        client.subscribe::<_>(channel).await?;
        let (own, patience) = (client.clone(), options.command_timeout);
        // The first connection is no gap: nothing was missed before it.
        while connected.try_recv().is_ok() {}
        let listener = tokio::spawn(async move {
            loop {
                // A silent connection is asked whether it is there, so that its end is noticed.
                let quiet = tokio::time::sleep(patience);
                tokio::select! {
                    message = messages.recv() => match message {
                        Ok(message) => hear(News::Message(message.value)),
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => hear(News::Gap),
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                    server = connected.recv() => {
                        if let Err(tokio::sync::broadcast::error::RecvError::Closed) = server {
                            return;
                        }
                        while let Err(error) = own.resubscribe_all().await {
                            tracing::warn!(%error, "cannot subscribe again for now");
                            tokio::time::sleep(RETRY_AFTER).await;
                        }
                        hear(News::Gap);
                    }
                    () = quiet => {
                        if let Err(error) = own.ping::<Value>(None).await {
                            tracing::debug!(%error, "the subscription does not answer");
                        }
                    }
                }
            }
        });
        Ok(Self { client, tasks: [router, listener.abort_handle()] })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        tracing::trace!(client = self.client.id(), "no longer subscribed");
    }
}

/// The items of an answer.
pub(super) fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

/// The texts of an answer.
pub(super) fn strings(value: Value) -> Vec<String> {
    items(value).into_iter().filter_map(Value::into_string).collect()
}

/// A number that stands as text or as a number; zero when it is none.
pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}
