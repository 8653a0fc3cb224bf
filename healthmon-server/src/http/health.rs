//! Our own process's condition.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use clap::ValueEnum;
use healthmon_core::{ports::QueueDepth, runtime::Handle};
use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{Api, Problem};
use crate::config::ServerRole;

/// How long store and queue may take to answer before they count as away.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer of theirs holds: whoever asks how we are makes no work for them.
const FRESH: Duration = Duration::from_secs(1);
/// A result that has waited so long to be recorded shows that recording does not go on.
const RECORDED_WITHIN: Duration = Duration::from_secs(15);
/// A scheduler that has not said for so long what is due cannot.
const SCHEDULED_WITHIN: Duration = Duration::from_secs(5);

/// What store and queue last answered: to the monitor, and by its connections.
pub(crate) struct Condition {
    handle: Handle,
    store: Answer<()>,
    queue: Answer<QueueDepth>,
}

impl Condition {
    pub(crate) fn of(handle: Handle) -> Self {
        Self { handle, store: Answer::default(), queue: Answer::default() }
    }
}

/// An answer, and when it came; or why there was none.
#[derive(Debug)]
struct Answer<T>(Mutex<Option<(Instant, Result<T, String>)>>);

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Answer<T> {
    /// The last answer if it is fresh, else a new one. Who asks meanwhile waits for the same.
    async fn get<E: std::fmt::Display>(
        &self,
        whose: &str,
        ask: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let answer = match tokio::time::timeout(PATIENCE, ask).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the {whose} does not answer")),
        };
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// The process answers.
pub(super) async fn live() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n")
}

/// The process can do its work, each of its roles: what it needs answers, and the work goes on.
///
/// Who needs only some of its roles names them, `?role=api`: a balancer has no use for hearing that
/// the queue is away as long as the API answers.
pub(super) async fn ready(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let asked = asked(query.as_deref())?;
    let all = asked.is_empty();
    let asks = |role| asked.contains(&role) || (all && api.roles.contains(&role));
    let (scheduler, worker, recorder, interface) =
        (asks(ServerRole::Scheduler), asks(ServerRole::Worker), asks(ServerRole::Recorder), asks(ServerRole::Api));
    let condition = &*api.condition;
    let store = async {
        let head = async { condition.handle.store().head().await.map(|_| ()) };
        if scheduler || recorder || interface { Some(condition.store.get("store", head).await) } else { None }
    };
    let queue = async {
        let depth = condition.handle.queue().depth();
        // The API wants it for probes that people ask for, but does without.
        if all || scheduler || worker || recorder { Some(condition.queue.get("queue", depth).await) } else { None }
    };
    let (store, queue) = tokio::join!(store, queue);
    let mut checks = Map::new();
    let mut check = |name: &str, found: Result<(), String>| {
        checks.insert(name.to_owned(), Value::from(found.err().unwrap_or_else(|| "ok".to_owned())));
    };
    for role in asked.iter().filter(|role| !api.roles.contains(role)) {
        check(role.as_str(), Err("this process does not play this role".to_owned()));
    }
    if let Some(store) = store {
        check("store", store);
    }
    if scheduler && api.roles.contains(&ServerRole::Scheduler) {
        check("scheduler", scheduling(&api));
    }
    if let Some(queue) = queue {
        if recorder && api.roles.contains(&ServerRole::Recorder) {
            check("recorder", queue.as_ref().map_err(Clone::clone).and_then(recording));
        }
        check("queue", queue.map(|_| ()));
    }
    let ready = checks.values().all(|check| check == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "checks": checks});
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "application/json")];
    Ok((status, headers, body.to_string()).into_response())
}

/// The roles that are asked for; none: all that the process plays.
fn asked(query: Option<&str>) -> Result<BTreeSet<ServerRole>, Problem> {
    let mut roles = BTreeSet::new();
    for (key, value) in url::form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
        if key != "role" {
            return Err(Problem::field(&key, "is not a known parameter; must be role"));
        }
        for name in value.split(',') {
            let wrong = |_| Problem::field("role", "must be of scheduler, worker, recorder, api");
            roles.insert(ServerRole::from_str(name, false).map_err(wrong)?);
        }
    }
    Ok(roles)
}

fn scheduling(api: &Api) -> Result<(), String> {
    match api.handle.signs().scheduled_at.map(|at| api.handle.now().since(at)) {
        Some(ago) if ago <= SCHEDULED_WITHIN => Ok(()),
        Some(ago) => Err(format!("nothing was scheduled for {} s", ago.as_secs())),
        None => Err("nothing was scheduled yet".to_owned()),
    }
}

fn recording(depth: &QueueDepth) -> Result<(), String> {
    if depth.oldest_result <= RECORDED_WITHIN {
        return Ok(());
    }
    Err(format!("{} results wait to be recorded, the oldest for {} s", depth.results, depth.oldest_result.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn store_and_queue_are_asked_once_a_second_however_many_ask_how_we_are() {
        let (answer, asked) = (Answer::default(), std::sync::atomic::AtomicUsize::new(0));
        let ask = || {
            answer.get("store", async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, Infallible>(asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
            })
        };
        assert_eq!(futures_util::future::join_all((0..1_000).map(|_| ask())).await, vec![Ok(0); 1_000]);
        tokio::time::advance(FRESH).await;
        assert_eq!(futures_util::future::join_all((0..1_000).map(|_| ask())).await, vec![Ok(1); 1_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_answer_is_away_and_nobody_waits_for_it_again_for_a_second() {
        let answer: Answer<()> = Answer::default();
        let begun = Instant::now();
        for _ in 0..100 {
            let said = answer.get("store", std::future::pending::<Result<(), Infallible>>()).await;
            assert_eq!(said, Err("the store does not answer".to_owned()));
        }
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
