//! URLs of one or several hosts, and which of those is the primary.

use std::{str::FromStr, time::Duration};

use futures_util::future::join_all;
use healthmon_core::ports::StoreError;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgPool},
};
use tokio::time::{interval, timeout};

use super::error::{PostgresError, from_sqlx, permanent, read_only, slow};

/// Whether this server writes, and whether the connection stands between transactions as it should.
/// A `BEGIN` that was dropped while it was on its way leaves a transaction open that nobody knows of.
const FIT: &str = "SELECT NOT pg_is_in_recovery() AND now() = statement_timestamp()";
const PLACE: &str =
    "SELECT CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END";

/// How long a server may take to say what it is.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// The hosts that a URL names, each with all else that the URL says.
#[derive(Clone)]
pub(super) struct Hosts(Vec<PgConnectOptions>);

/// A URL, apart: scheme, user and password, hosts, the rest.
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    hosts: &'a str,
    rest: &'a str,
}

fn parts(url: &str) -> Option<Parts<'_>> {
    let (scheme, after) = url.split_once("://")?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (authority, rest) = after.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user), hosts),
        None => (None, authority),
    };
    Some(Parts { scheme, user, hosts, rest })
}

/// The URL without password and parameters, for people.
pub(super) fn shown(url: &str) -> String {
    let Some(parts) = parts(url) else { return "(not a URL)".to_owned() };
    let user = parts.user.and_then(|user| user.split(':').next()).map(|user| format!("{user}@")).unwrap_or_default();
    let path = parts.rest.split('?').next().unwrap_or_default();
    format!("{}://{user}{}{path}", parts.scheme, parts.hosts)
}

impl Hosts {
    /// Reads `postgres://user:password@host:port,host:port/database?parameters`.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let bad = |why: &str| permanent(PostgresError::Url(why.to_owned()));
        let parts = parts(url).ok_or_else(|| bad("it is to be like postgres://user:password@host:port/database"))?;
        if !matches!(parts.scheme, "postgres" | "postgresql") {
            return Err(bad("its scheme is to be postgres"));
        }
        let user = parts.user.map(|user| format!("{user}@")).unwrap_or_default();
        let rest = without_session_attributes(parts.rest);
        let each = parts.hosts.split(',').map(|host| {
            // The error may quote the URL, so it is not shown.
            let options = PgConnectOptions::from_str(&format!("{}://{user}{host}{rest}", parts.scheme));
            // Poolers refuse this parameter, and nothing here reads numbers as text.
            options.map(|options| options.extra_float_digits(None).statement_cache_capacity(0))
        });
        let hosts: Result<Vec<_>, _> = each.collect();
        hosts.map(Self).map_err(|_| bad("a host, port or parameter in it is not understood"))
    }

    pub(super) fn several(&self) -> bool {
        self.0.len() > 1
    }

    /// Connects to the primary: of those that write, the one whose history is the newest, so that
    /// a former primary that came back is not taken for the present one.
    pub(super) async fn primary(&self, limit: Duration) -> Result<(PgConnectOptions, PgConnection), StoreError> {
        let tries = self.0.iter().map(|options| async move {
            let connect = async {
                let mut connection = options.connect().await.map_err(from_sqlx)?;
                let place = if self.several() { place(&mut connection).await? } else { fit(&mut connection).await? };
                place.map(|place| (place, options, connection)).ok_or_else(read_only)
            };
            timeout(limit, connect).await.unwrap_or_else(|_| Err(slow(limit)))
        });
        let mut best: Option<(String, &PgConnectOptions, PgConnection)> = None;
        let mut trouble = None;
        for tried in join_all(tries).await {
            match tried {
                Ok(found) if best.as_ref().is_none_or(|(place, ..)| *place < found.0) => best = Some(found),
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        match best {
            Some((_, options, connection)) => Ok((options.clone(), connection)),
            None => Err(trouble.unwrap_or_else(read_only)),
        }
    }
}

/// `target_session_attrs` is libpq's; the primary is looked for anyway.
fn without_session_attributes(rest: &str) -> String {
    let Some((path, query)) = rest.split_once('?') else { return rest.to_owned() };
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("target_session_attrs=")).collect();
    format!("{path}?{}", kept.join("&"))
}

/// The timeline of a server that writes.
async fn place(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let row = sqlx::raw_sql(PLACE).fetch_one(connection).await.map_err(from_sqlx)?;
    let place: String = row.try_get(0).map_err(from_sqlx)?;
    Ok(Some(place).filter(|place| !place.is_empty()))
}

async fn fit(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    Ok(is_fit(connection).await.map_err(from_sqlx)?.then(String::new))
}

/// Whether a connection may be used: it answers, writes, and has no transaction open.
pub(super) async fn is_fit(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let row = timeout(ANSWER, sqlx::raw_sql(FIT).fetch_one(connection));
    match row.await {
        Ok(row) => row?.try_get(0),
        Err(_) => Ok(false),
    }
}

/// Looks each second whether the pool's host is the primary, and points the pool to whichever is.
/// Runs until it is aborted.
pub(super) async fn follow(hosts: Hosts, pool: PgPool, mut watched: PgConnection, moved: impl Fn()) {
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        if matches!(is_fit(&mut watched).await, Ok(true)) {
            continue;
        }
        match hosts.primary(ANSWER).await {
            Ok((options, connection)) => {
                tracing::warn!(host = options.get_host(), port = options.get_port(), "going on with this PostgreSQL");
                pool.set_connect_options(options);
                moved();
                watched.close_hard().await.ok();
                watched = connection;
            }
            Err(error) => tracing::warn!(%error, "no PostgreSQL that writes is found"),
        }
    }
}
