//! Servers and databases of one's own.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_adapters::servers::PrivatePostgres;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// The server that this binary's tests share: the one that the environment names, or a private one.
/// It goes when the process ends.
fn server_url(database: &str) -> String {
    static SHARED: OnceLock<PrivatePostgres> = OnceLock::new();
    match std::env::var("HEALTHMON_TEST_POSTGRES_URL") {
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
    pub(crate) async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("healthmon_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        execute(&server_url("postgres"), &format!("CREATE DATABASE {name}")).await;
        Self { url: server_url(&name), name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
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
        if let Err(error) = std::thread::spawn(drop).join().expect("joined") {
            eprintln!("database {} is left over: {error}", self.name);
        }
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
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port").port();
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
        let bouncer = Self { child, folder, port };
        let end = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < end, "PgBouncer does not answer: {}", bouncer.log());
            std::thread::yield_now();
        }
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
