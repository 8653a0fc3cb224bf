//! Servers and databases of one's own.

use std::{
    fs,
    net::Ipv4Addr,
    num::NonZeroUsize,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_adapters::{
    postgres::{Postgres, PostgresOptions, PostgresResultStore},
    servers::{PrivatePostgres, free_port},
};
use healthmon_core::{
    engine::{Control, Input, State},
    id::{Applied, Region, Seq, ServiceId},
    ports::{ResultQuery, ResultStore, StoreError},
    probe::{FailReason, Kind, Observation, Outcome, ProbeId, ProbeResult},
    service::{Service, ServiceSettings},
    time::Slot,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

/// Names the server to use instead of a private one.
const SERVER: &str = "HEALTHMON_TEST_POSTGRES_URL";

/// The server that this binary's tests share: the one that the environment names, or a private one.
/// It goes when the process ends.
fn server_url(database: &str) -> String {
    static SHARED: OnceLock<PrivatePostgres> = OnceLock::new();
    match std::env::var(SERVER) {
        Ok(url) => {
            let (base, query) =
                url.split_once('?').map_or((url.as_str(), String::new()), |(b, q)| (b, format!("?{q}")));
            let (base, _) = base.rsplit_once('/').expect("a URL with a database");
            format!("{base}/{database}{query}")
        }
        Err(_) => SHARED.get_or_init(|| PrivatePostgres::start().expect("PostgreSQL starts")).url(database),
    }
}

/// A database of its own, dropped in the end.
pub(crate) struct Database {
    name: String,
    /// Its URL.
    pub(crate) url: String,
}

impl Database {
    /// One with the schema in it, and no deployment begun.
    pub(crate) async fn new() -> Self {
        if std::env::var_os(SERVER).is_some() {
            // A template would be left over there.
            return Self::empty().await;
        }
        static TEMPLATE: OnceCell<Database> = OnceCell::const_new();
        let template = TEMPLATE.get_or_init(async || {
            let template = Self::empty().await;
            let postgres = Postgres::connect(PostgresOptions::new(&template.url)).await.expect("the schema is made");
            postgres.close().await;
            execute(&template.url, "DELETE FROM deployment").await;
            template
        });
        Self::like(&template.await.name).await
    }

    /// One with nothing in it.
    pub(crate) async fn empty() -> Self {
        Self::like("template1").await
    }

    async fn like(template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("healthmon_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&server_url("postgres"), &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        Self { url: server_url(&name), name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A private server goes as a whole.
        if std::env::var_os(SERVER).is_none() {
            return;
        }
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A drop cannot wait within the runtime that it happens in.
        let drop = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&server_url("postgres")).await?;
                connection.execute(AssertSqlSafe(sql)).await
            })?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        };
        let dropped = std::thread::spawn(drop).join().expect("joined");
        assert!(std::thread::panicking() || dropped.is_ok(), "database {} is left over: {dropped:?}", self.name);
    }
}

/// Runs a statement on a connection of its own.
pub(crate) async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    connection.execute(AssertSqlSafe(sql.to_owned())).await.expect(sql);
    connection.close().await.expect("closed");
}

/// A real PgBouncer in transaction mode, with Debian's settings otherwise.
pub(crate) struct PgBouncer {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl PgBouncer {
    /// In front of the server with this URL.
    pub(crate) fn before(url: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("healthmon-pgbouncer-").tempdir().expect("a folder");
        let port = free_port().expect("a port");
        let server: url::Url = url.parse().expect("a URL");
        let (host, to) = (server.host_str().expect("a host"), server.port().unwrap_or(5432));
        let (ini, users) = (folder.path().join("pgbouncer.ini"), folder.path().join("users.txt"));
        fs::write(&users, "\"healthmon\" \"\"\n").expect("written");
        let settings = format!(
            "[databases]\n* = host={host} port={to} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 500\n\
             unix_socket_dir =\nlogfile = {}\n",
            server.username(),
            users.display(),
            folder.path().join("log").display()
        );
        fs::write(&ini, settings.replace("auth_type = any", "auth_type = trust")).expect("written");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL", "--", "pgbouncer"]);
        Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status().expect("chown runs");
        let child = command.arg(&ini).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("pgbouncer runs");
        let mut bouncer = Self { child, folder, port };
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < end, "PgBouncer does not answer: {}", bouncer.log());
            std::thread::yield_now();
        }
        let ended = bouncer.child.try_wait().expect("its state");
        assert!(ended.is_none(), "another answers than PgBouncer, which ended with {ended:?}: {}", bouncer.log());
        bouncer
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://healthmon@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

/// A service that each result can turn: one failure takes it down, one success up.
pub(crate) fn touchy() -> ServiceSettings {
    let settings = serde_json::json!({
        "name": "one", "url": "http://one.test/", "interval": "1m",
        "policy": {"failure_threshold": 1, "success_threshold": 1},
    });
    ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings")
}

pub(crate) async fn registered(store: &PostgresResultStore, number: u64) -> Service {
    patiently(async || store.register(ServiceId::new(number).expect("an id"), touchy()).await).await
}

/// A result; the even ones pass, the odd ones fail.
pub(crate) fn result(service: &Service, slot: Slot, number: u64) -> ProbeResult {
    let outcome = if number.is_multiple_of(2) { Outcome::Pass } else { Outcome::Fail(FailReason::Timeout) };
    let seen = Observation::new(outcome, Duration::from_millis(5));
    let id = ProbeId { service: service.id, slot, region: Region::default(), kind: Kind::Scheduled };
    ProbeResult { id, epoch: service.epoch, started: slot.time(), seen }
}

/// Results in one slot after the other, each of which is a transition.
pub(crate) fn batch(service: &Service, begin: Slot, numbers: std::ops::Range<u64>) -> Vec<ProbeResult> {
    numbers.map(|n| result(service, begin.after(Duration::from_millis(n * 10)), n)).collect()
}

/// An hour ago by the store's time.
pub(crate) async fn an_hour_ago(store: &PostgresResultStore) -> Slot {
    let now = patiently(async || store.now().await).await;
    Slot::at(now.before(Duration::from_hours(1)))
}

/// Repeats a call as long as the store is away, and fails on any other error.
pub(crate) async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        match call().await {
            Ok(done) => return done,
            Err(StoreError::Transient { retry_after, source }) => {
                assert!(Instant::now() < end, "the store stays away: {source}");
                tokio::time::sleep(retry_after).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Asserts that exactly these results are there, with the log and the state that they led to.
pub(crate) async fn assert_holds(store: &PostgresResultStore, service: &Service, expected: &[ProbeResult]) {
    let stored = patiently(async || store.results(service.id, &ResultQuery::default(), ALL).await).await;
    let stored: Vec<ProbeResult> = stored.into_iter().rev().map(|stored| stored.result).collect();
    assert_eq!(stored.len(), expected.len());
    assert_eq!(stored, expected);
    let log = store.service_log(service.id, None, ALL).await.expect("the log");
    assert_eq!(log.len(), expected.len(), "each of these results is a transition");
    let whole = store.log(Seq(0), ALL).await.expect("the log");
    assert!((1..).zip(&whole).all(|(seq, entry)| entry.seq == Seq(seq)), "the log has no gap");
    let inputs = store.inputs(service.id, Applied(0), ALL).await.expect("inputs");
    let Input::Control(Control::Configure { policy, regions, .. }) = &inputs[0].input else { panic!("{inputs:?}") };
    let mut state = State::registered(*policy, regions);
    inputs[1..].iter().for_each(|input| drop(state.apply(&input.input)));
    assert_eq!(store.state(service.id).await.expect("a state"), Some(state), "inputs replay to the state");
}

pub(crate) const ALL: NonZeroUsize = NonZeroUsize::MAX;
