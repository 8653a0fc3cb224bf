//! Tokens that are kept until shortly before they expire.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use hyper::header::HeaderValue;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, timeout_at},
};
use url::Url;

use super::{Client, Place, fetch};
use crate::{
    http::route::{Connector, Route},
    net::{Progress, Stage, attempt::Fault, tls::TlsSettings},
    secrets::Secret,
};

/// How many clients' tokens are kept.
const TOKENS: usize = 1_024;
/// So long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a token server may take. Others may wait for the same token, and with one that hangs a probe
/// whose own time is long would let theirs run out.
const PATIENCE: Duration = Duration::from_secs(5);
/// So long before the deadline it is told how far it came; the deadline itself would drop that.
const LAST_WORD: Duration = Duration::from_millis(5);
/// How long a token is used whose server does not say how long it is good for.
pub(super) const UNSAID: Duration = Duration::from_mins(5);

/// Tokens of clients. Two services share one only if they are the same client in every respect, the
/// secret and the way to the token server included.
#[derive(Default)]
pub(in crate::http) struct Tokens(Mutex<HashMap<Arc<Asked>, Arc<Turn<Kept>>>>);

/// All that decides which token it is.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) url: Url,
    pub(super) id: Box<str>,
    pub(super) secret: Box<str>,
    pub(super) scope: Option<Box<str>>,
    pub(super) audience: Option<Box<str>>,
    pub(super) place: Place,
    /// How the token server is reached: one that was reached without verification is another one.
    pub(super) tls: TlsSettings,
    proxy: Option<Url>,
}

/// What is known of one client's token. Whoever holds it may fetch.
#[derive(Default)]
struct Kept {
    token: Option<Token>,
    /// When a fetch last failed, and how.
    failed: Option<(Instant, Outcome, String)>,
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

/// A token for one probe.
#[derive(Clone)]
pub(in crate::http) struct Grant {
    /// What to show.
    pub(in crate::http) header: HeaderValue,
    /// Where it came from.
    pub(in crate::http) source: Source,
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Source {
    /// From an earlier probe: it may have been withdrawn since.
    Kept,
    /// From the token server, just now.
    Fetched,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// A token for `client`, other than `refused` if that one was refused by the target.
    pub(in crate::http) async fn grant(
        &self,
        client: &Client,
        refused: Option<&Grant>,
        connector: &Connector,
        route: &Route,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Grant, Fault> {
        let begun = Instant::now();
        let stage = std::mem::replace(&mut progress.stage, Stage::Token);
        let secret = connector.secrets.reveal(&client.secret)?;
        let asked = Arc::new(Asked::by(client, &secret, route));
        let turn = self.of(&asked);
        let mut kept = turn.lock().await;
        let usable = kept.token.as_ref().filter(|token| {
            token.until > Instant::now() && refused.is_none_or(|refused| refused.header != token.header)
        });
        if let Some(token) = usable {
            progress.stage = stage;
            return Ok(Grant { header: token.header.clone(), source: Source::Kept });
        }
        // Those who waited while it failed shall not each wait for the same failure again.
        if let Some((_, outcome, detail)) = kept.failed.as_ref().filter(|(at, ..)| *at >= begun) {
            return Err(Fault { outcome: *outcome, detail: detail.clone() });
        }
        kept.token = None;
        // What this takes is no phase of the target's.
        let mut fetching = Progress::default();
        let until = (Instant::now() + PATIENCE).min(deadline.checked_sub(LAST_WORD).unwrap_or(deadline));
        let fetch = Box::pin(fetch::fetch(&asked, connector, route, until, &mut fetching));
        let fetched = timeout_at(until, fetch).await;
        progress.queued += fetching.queued;
        match fetched.unwrap_or_else(|_| Err(silent(fetching.stage))) {
            Ok((header, lifetime)) => {
                // A token that lives shorter than the margin is good for this probe alone.
                let until = Instant::now() + lifetime.saturating_sub(MARGIN.min(lifetime / 2));
                *kept = Kept { token: Some(Token { header: header.clone(), until }), failed: None };
                progress.stage = stage;
                Ok(Grant { header, source: Source::Fetched })
            }
            Err(fault) => {
                let outcome = match fault.outcome {
                    Outcome::Fail(_) => Outcome::Fail(FailReason::Authentication),
                    other => other,
                };
                let detail = format!("token: {}", fault.detail);
                // That this probe's own time was up says nothing to those that have more.
                if Instant::now() < deadline.checked_sub(LAST_WORD).unwrap_or(deadline) {
                    kept.failed = Some((Instant::now(), outcome, detail.clone()));
                }
                Err(Fault { outcome, detail })
            }
        }
    }

    fn of(&self, asked: &Arc<Asked>) -> Arc<Turn<Kept>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = all.get(asked) {
            return Arc::clone(turn);
        }
        if all.len() >= TOKENS {
            // First those that are of no use; if all are, any one, which costs its client a fetch.
            let now = Instant::now();
            all.retain(|_, turn| {
                turn.try_lock().map_or(true, |kept| kept.token.as_ref().is_some_and(|token| token.until > now))
            });
            if all.len() >= TOKENS
                && let Some(one) = all.keys().next().cloned()
            {
                all.remove(&one);
            }
        }
        Arc::clone(all.entry(Arc::clone(asked)).or_default())
    }
}

fn silent(stage: Stage) -> Fault {
    let detail = format!("it did not come in time, {}", stage.as_str());
    match stage {
        // The token server was not even asked.
        Stage::Preparing | Stage::LookupQueue => Fault::indeterminate(IndeterminateReason::Internal, detail),
        _ => Fault::fail(FailReason::Authentication, detail),
    }
}

impl Asked {
    fn by(client: &Client, secret: &Secret, route: &Route) -> Self {
        let Client { url, id, scope, audience, place, tls, .. } = client;
        Self {
            url: url.clone(),
            id: id.clone(),
            secret: secret.expose().into(),
            scope: scope.clone(),
            audience: audience.clone(),
            place: *place,
            tls: tls.clone(),
            proxy: route.proxy().map(|proxy| proxy.url().clone()),
        }
    }
}
