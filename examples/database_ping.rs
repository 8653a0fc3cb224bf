//! A prober of one's own for `postgres://` targets: logs in and asks for `SELECT 1`.
//!
//! `cargo run --example database_ping` starts a PostgreSQL of its own, watches it, stops it and starts
//! it again. `cargo run --example database_ping -- postgres://db.example/shop` watches that one; user
//! and password come from `HEALTHMON_SECRET_DB_USER` and `HEALTHMON_SECRET_DB_PASSWORD`.
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use healthmon_adapters::{
    net::{AddressPolicy, Loopback},
    secrets::{SecretRef, Secrets},
    servers::{PrivatePostgres, StopMode},
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Observation, Outcome, Probe},
    runtime::Monitor,
    service::{FieldErrors, Fields, ServiceSettings},
    status::{LogEntry, LogEvent, Status},
};
use serde_json::json;
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

type Failed = (Outcome, String);

/// What stands in the section `postgres` of a service's settings.
struct Login {
    user: SecretRef,
    password: Option<SecretRef>,
}

impl Login {
    fn read(settings: &ServiceSettings) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(settings.options.to_map());
        let login = fields.section("postgres", |map| {
            let mut fields = Fields::new(map);
            let (user, password) = (fields.required("user"), fields.optional("password"));
            fields.finish()?;
            user.map(|user| Self { user, password }).ok_or_else(|| FieldErrors::one("user", "is required"))
        });
        if login.is_none() {
            fields.wrong("postgres", "must be an object with user, and password if there is one");
        }
        fields.finish()?;
        login.ok_or_else(|| FieldErrors::one("postgres", "is required"))
    }
}

/// Logs in to databases.
struct PostgresPing {
    policy: AddressPolicy,
    secrets: Secrets,
}

impl PostgresPing {
    /// Where to connect: the first of the name's addresses that the policy allows. sqlx connects
    /// by itself, so it is given that very address instead of the name.
    async fn address(&self, settings: &ServiceSettings) -> Result<SocketAddr, Failed> {
        let url = settings.url.url();
        // As the parser of URLs has it: an IPv6 address stands in brackets.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let found = tokio::net::lookup_host((host, url.port().unwrap_or(5432))).await;
        let found = found.map_err(|error| (Outcome::Fail(FailReason::Dns), error.to_string()))?;
        let mut refused = (Outcome::Fail(FailReason::Dns), "the name has no address".to_owned());
        for address in found {
            match self.policy.judge(address.ip()) {
                Ok(()) => return Ok(address),
                Err(refusal) => {
                    refused = (Outcome::Indeterminate(IndeterminateReason::Blocked), refusal.to_string());
                }
            }
        }
        Err(refused)
    }

    async fn ping(&self, settings: &ServiceSettings) -> Result<(), Failed> {
        let unreadable = |errors: FieldErrors| {
            let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            (Outcome::Indeterminate(IndeterminateReason::Unsupported), fields.join(", "))
        };
        let login = Login::read(settings).map_err(unreadable)?;
        let reveal = |secret: &SecretRef| {
            let missing = |error: healthmon_adapters::secrets::SecretError| {
                (Outcome::Indeterminate(IndeterminateReason::Secret), error.to_string())
            };
            self.secrets.reveal(secret).map_err(missing)
        };
        let address = self.address(settings).await?;
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&address.ip().to_string())
            .port(address.port())
            .username(reveal(&login.user)?.expose())
            .ssl_mode(PgSslMode::Prefer);
        if let Some(password) = &login.password {
            options = options.password(reveal(password)?.expose());
        }
        let url = settings.url.url();
        if let Some(database) = url.path().strip_prefix('/').filter(|name| !name.is_empty()) {
            options = options.database(database);
        }
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.map_err(failed)?;
        if one != 1 {
            return Err((Outcome::Fail(FailReason::Assertion), format!("1 is {one} there")));
        }
        connection.close().await.map_err(failed)
    }
}

/// A reason of the one taxonomy for whatever may go wrong.
fn failed(error: sqlx::Error) -> Failed {
    let reason = match &error {
        sqlx::Error::Io(_) => FailReason::Connect,
        sqlx::Error::Tls(_) => FailReason::Tls,
        // Class 28: the credentials. 57P03: it is there, and cannot be used now. 3D: no such database.
        sqlx::Error::Database(said) => match said.code().as_deref().unwrap_or_default() {
            code if code.starts_with("28") => FailReason::Authentication,
            code if code.starts_with("3D") => FailReason::UnknownService,
            code if code.starts_with("57") || code.starts_with("53") => FailReason::NotServing,
            _ => FailReason::Assertion,
        },
        _ => FailReason::Protocol,
    };
    (Outcome::Fail(reason), error.to_string())
}

#[async_trait]
impl Prober for PostgresPing {
    fn schemes(&self) -> &[&'static str] {
        &["postgres"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Login::read(settings).map(drop)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["postgres.user", "postgres.password"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let (begun, settings) = (Instant::now(), &probe.service.settings);
        // Dropping what it was doing closes the connection.
        let ended = tokio::time::timeout(settings.timeout.get(), self.ping(settings)).await;
        let late = || Err((Outcome::Fail(FailReason::Timeout), "no answer before the deadline".to_owned()));
        match ended.unwrap_or_else(|_| late()) {
            Ok(()) => Observation::new(Outcome::Pass, begun.elapsed()),
            Err((outcome, detail)) => Observation::new(outcome, begun.elapsed()).with_detail(&detail),
        }
    }
}

fn show(entry: &LogEntry) {
    if let LogEvent::Transition(transition) = &entry.event {
        let why = entry.reason.map(|reason| format!("{reason}: ")).unwrap_or_default();
        println!("{} → {}  {why}{}", transition.from, transition.to, entry.detail.as_deref().unwrap_or_default());
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().nth(1);
    let private = if named.is_none() { Some(Arc::new(PrivatePostgres::start()?)) } else { None };
    let (url, login) = match (&named, &private) {
        (Some(url), _) => {
            let variable = |name: &str| json!({"env": format!("HEALTHMON_SECRET_DB_{name}")});
            let password = std::env::var_os("HEALTHMON_SECRET_DB_PASSWORD").map(|_| variable("PASSWORD"));
            (url.clone(), json!({"user": variable("USER"), "password": password}))
        }
        (None, Some(server)) => {
            (format!("postgres://127.0.0.1:{}/postgres", server.port()), json!({"user": "healthmon"}))
        }
        (None, None) => unreachable!("one of them is there"),
    };
    let prober = PostgresPing { policy: AddressPolicy::new(Loopback::Allowed), secrets: Secrets::of_environment(None) };
    let monitor = Monitor::builder().prober(Arc::new(prober)).build()?;
    let handle = monitor.handle();
    let settings = json!({
        "name": "database", "url": url, "interval": "500ms", "postgres": login,
        "policy": {"failure_threshold": 2, "success_threshold": 1},
    });
    handle.register(serde_json::from_value(settings)?).await?;
    let mut log = handle.log(Default::default());
    let story = async move {
        let mut wait_for = async |status: Status| {
            while let Ok(entry) = log.next().await {
                show(&entry);
                if matches!(&entry.event, LogEvent::Transition(transition) if transition.to == status) {
                    return;
                }
            }
        };
        wait_for(Status::Up).await;
        let Some(server) = private else { return wait_for(Status::Down).await };
        let stopped = Arc::clone(&server);
        let stop = tokio::task::spawn_blocking(move || stopped.stop(StopMode::Fast)).await;
        if !matches!(stop, Ok(Ok(()))) {
            return println!("the server does not stop");
        }
        wait_for(Status::Down).await;
        let resumed = tokio::task::spawn_blocking(move || server.resume().map(|()| server)).await;
        let Ok(Ok(_server)) = resumed else { return println!("the server does not start again") };
        wait_for(Status::Up).await;
    };
    let patience = if named.is_some() { Duration::from_secs(600) } else { Duration::from_secs(60) };
    monitor.run(async { drop(tokio::time::timeout(patience, story).await) }).await?;
    Ok(())
}
