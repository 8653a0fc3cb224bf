//! The server, and what tests put on the queue.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::{redis::RedisOptions, servers::PrivateRedis};

/// One server for all tests that do it no harm; it goes with this process.
static SHARED: LazyLock<PrivateRedis> = LazyLock::new(|| PrivateRedis::start().expect("Redis starts"));
static PREFIXES: AtomicU64 = AtomicU64::new(0);

/// A prefix that no other test has, nor one of an earlier run on the same server.
pub(crate) fn prefix() -> String {
    format!("test-{}-{}", std::process::id(), PREFIXES.fetch_add(1, Ordering::Relaxed))
}

/// Where the server is that is asked for, or one of our own.
pub(crate) fn options() -> RedisOptions {
    let url = std::env::var("HEALTHMON_TEST_REDIS_URL").unwrap_or_else(|_| SHARED.url(0));
    at(&url)
}

/// A place of one's own on this server.
pub(crate) fn at(url: &str) -> RedisOptions {
    let mut options = RedisOptions::new(url).expect("a URL of Redis");
    options.prefix = prefix();
    options.command_timeout = Duration::from_secs(2);
    options
}
