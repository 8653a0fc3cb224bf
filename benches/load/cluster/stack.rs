//! PostgreSQL, Redis, the target and the nodes.

use std::path::PathBuf;

use healthmon_adapters::servers::{PrivatePostgres, PrivateRedis};

use super::{
    accounts::Account,
    nodes::{self, Node},
};
use crate::process::Child;

/// As in docker-compose.yml. All else is PostgreSQL's default: it syncs to the disk at each commit.
const POSTGRES: [(&str, &str); 2] = [("shared_buffers", "256MB"), ("max_wal_size", "4GB")];

/// healthmon's own.
pub(crate) const ROLES: [&str; 4] = ["scheduler", "worker", "recorder", "api"];
/// The servers it leans on.
pub(crate) const SERVERS: [&str; 2] = ["postgres", "redis"];

pub(crate) struct Stack {
    // Nodes go before what they lean on.
    pub(crate) nodes: Vec<Node>,
    pub(crate) postgres: PrivatePostgres,
    pub(crate) redis: PrivateRedis,
    pub(crate) target: Child,
    /// The target's, with commas between them.
    pub(crate) ports: String,
    /// Whether PostgreSQL keeps account of its statements.
    pub(crate) statements: bool,
    binary: PathBuf,
    folder: tempfile::TempDir,
}

/// A PostgreSQL as a deployment has it.
pub(crate) fn postgres() -> PrivatePostgres {
    postgres_with(&[])
}

fn postgres_with(more: &[(&str, &str)]) -> PrivatePostgres {
    let server = PrivatePostgres::start_with(&[&POSTGRES, more].concat()).expect("PostgreSQL starts");
    let folder = std::env::temp_dir();
    println!("PostgreSQL and Redis keep their data in {} ({})", folder.display(), disk_of(&folder));
    server
}

/// The file system that a folder is on: one in memory makes syncing free.
fn disk_of(folder: &std::path::Path) -> String {
    let said = std::process::Command::new("df").args(["--output=source,fstype"]).arg(folder).output();
    let text = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().nth(1).unwrap_or("on what, cannot be told").split_whitespace().collect::<Vec<_>>().join(", ")
}

impl Stack {
    /// Everything but the nodes. PostgreSQL keeps account of its statements if it is told to.
    pub(crate) fn start(binary: &std::path::Path, statements: bool) -> Self {
        let more: &[_] = if statements { &[("shared_preload_libraries", "pg_stat_statements")] } else { &[] };
        let target = Child::start("role-target", &[]);
        Self {
            nodes: Vec::new(),
            postgres: postgres_with(more),
            redis: PrivateRedis::start().expect("Redis starts"),
            ports: target.line(),
            target,
            statements,
            binary: binary.to_owned(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn database(&self) -> String {
        self.postgres.url("postgres")
    }

    /// Starts a node of each of these roles; does not wait for them.
    pub(crate) fn play(&mut self, roles: &[&'static str]) {
        let (database, queue) = (self.database(), self.redis.url(0));
        for role in roles {
            let arguments = ["--database", &database, "--queue", &queue];
            self.nodes.push(Node::start(&self.binary, role, self.folder.path(), &arguments));
        }
    }

    pub(crate) fn ready(&mut self) {
        self.nodes.iter_mut().for_each(Node::ready);
    }

    pub(crate) fn node(&self, role: &str) -> &Node {
        self.nodes.iter().find(|node| node.role == role).expect("a node of this role")
    }

    pub(crate) fn accounts(&self) -> Vec<Account> {
        let postgres = self.postgres.process().expect("PostgreSQL runs");
        let redis = self.redis.process().expect("Redis runs");
        let mut accounts: Vec<Account> = self.nodes.iter().map(Node::account).collect();
        accounts.push(Account { name: "postgres", process: postgres });
        accounts.push(Account { name: "redis", process: redis });
        accounts.push(Account { name: "target", process: self.target.process() });
        accounts
    }

    /// What nodes complained of, the beginning.
    pub(crate) fn complaints(&self) {
        for node in &self.nodes {
            let log = node.log();
            for line in log.lines().take(5) {
                println!("  {} said: {line}", node.role);
            }
            let more = log.lines().count().saturating_sub(5);
            if more > 0 {
                println!("  and {more} lines more");
            }
        }
    }
}

pub(crate) fn the_binary() -> PathBuf {
    nodes::binary()
}
