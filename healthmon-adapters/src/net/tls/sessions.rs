//! Sessions that may be resumed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};
use tokio::time::Instant;

use super::RENEWED_AFTER;

/// How many servers' sessions are kept. rustls's own store keeps an eighth of its size, the newest to
/// come; services that come round and round and are more than that would never find theirs.
const SERVERS: usize = 2_048;

/// How many tickets of TLS 1.3 are kept for a server. Each is good for one handshake: several services
/// may be there, and be probed at once.
const TICKETS: usize = 4;

/// The newest sessions of each server.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Kept>);

struct Kept {
    of: HashMap<ServerName<'static>, Session>,
    since: Instant,
}

impl Default for Kept {
    fn default() -> Self {
        Self { of: HashMap::new(), since: Instant::now() }
    }
}

#[derive(Default)]
struct Session {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The newest last.
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl fmt::Debug for Sessions {
    /// They are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Nothing here panics while it holds the lock.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, server: ServerName<'static>, edit: impl FnOnce(&mut Session)) {
        let mut kept = self.kept();
        if kept.of.len() >= SERVERS && !kept.of.contains_key(&server) {
            if kept.since.elapsed() < RENEWED_AFTER {
                return;
            }
            // Whoever is still probed gets another with the next handshake.
            *kept = Kept::default();
        }
        edit(kept.of.entry(server).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.edit(server, |session| session.group = Some(group));
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().of.get(server).and_then(|session| session.group)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.edit(server, |session| session.tls12 = Some(value));
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().of.get(server).and_then(|session| session.tls12.clone())
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        if let Some(session) = self.kept().of.get_mut(server) {
            session.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.edit(server, |session| {
            if session.tls13.len() >= TICKETS {
                session.tls13.pop_front();
            }
            session.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().of.get_mut(server).and_then(|session| session.tls13.pop_back())
    }
}
