//! `kill -9` at random moments under load: nothing lost, nothing repeated, the log goes on.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::sqlite::{SqliteOptions, SqliteResultStore};
use healthmon_core::{
    engine::{Control, Input, oracle::Oracle},
    id::{Applied, Seq, ServiceId},
    ports::{ResultQuery, ResultStore},
    runtime::clock::SystemClock,
    status::{LogEvent, Transition},
};
use serde_json::{Value, json};

use crate::support::{Server, Target, folder, pause};

const KILLS: u64 = 50;
const SERVICES: usize = 40;
const ALL: NonZeroUsize = NonZeroUsize::new(1_000_000).unwrap();

/// A walk that looks random and is the same every time for a seed.
struct Walk(u64);

impl Walk {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A WebSocket client that reconnects with its last `seq` wherever the server is, for ever.
async fn follow(address: Arc<Mutex<Option<std::net::SocketAddr>>>, seen: Arc<Mutex<Vec<Value>>>) {
    loop {
        let Some(address) = *address.lock().unwrap() else {
            pause().await;
            continue;
        };
        let last = seen.lock().unwrap().last().map_or(0, |event| event["seq"].as_u64().unwrap());
        let url = format!("ws://{address}/api/v1/events?after={last}");
        let Ok((mut socket, _)) = tokio_tungstenite::connect_async(url).await else {
            pause().await;
            continue;
        };
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut socket).await {
            let Ok(text) = message.to_text() else { continue };
            let Ok(event) = serde_json::from_str::<Value>(text) else { continue };
            assert_ne!(event["type"], "reset", "{event}");
            if event["type"] == "transition" {
                seen.lock().unwrap().push(event);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_under_load_lose_and_repeat_nothing() {
    let (folder, seed) = (folder(), u64::from(std::process::id()));
    println!("seed {seed}");
    let mut walk = Walk(seed);
    let database = folder.path().join("db");
    let mut targets = Vec::new();
    for _ in 0..SERVICES {
        targets.push(Target::start().await);
    }
    let (address, seen) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(Vec::new())));
    let client = tokio::spawn(follow(Arc::clone(&address), Arc::clone(&seen)));
    let mut known: HashSet<(String, String)> = HashSet::new();
    let restarts = AtomicU64::new(0);
    for round in 0..=KILLS {
        let mut server = Server::start(&database);
        server.ready().await;
        *address.lock().unwrap() = Some(server.address);
        restarts.fetch_add(1, Ordering::Relaxed);
        if round == 0 {
            for (n, target) in targets.iter().enumerate() {
                server
                    .register(json!({"name": format!("service {n}"), "url": target.url, "interval": "1s",
                    "policy": {"failure_threshold": 1, "success_threshold": 1}}))
                    .await;
            }
        }
        // What a client was shown before a kill is there after it.
        let shown = results(&server).await;
        assert!(known.is_subset(&shown), "lost: {:?}", known.difference(&shown).take(3).collect::<Vec<_>>());
        for _ in 0..SERVICES / 4 {
            let target = &targets[walk.below(SERVICES as u64) as usize];
            target.answer(if walk.below(2) == 0 { 200 } else { 500 });
        }
        tokio::time::sleep(Duration::from_millis(walk.below(900))).await;
        known = results(&server).await;
        *address.lock().unwrap() = None;
        if round < KILLS {
            server.kill();
        } else {
            // The last one ends by itself, and its clients have all there is.
            assert!(server.terminate().await.success());
        }
    }
    client.abort();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    verify(&database, &seen).await;
    assert_eq!(restarts.load(Ordering::Relaxed), KILLS + 1);
}

/// Every (service, slot) that the API shows, on the first page of each service.
async fn results(server: &Server) -> HashSet<(String, String)> {
    let list = server.get("/api/v1/services?limit=1000").await;
    let mut shown = HashSet::new();
    for service in list.json["services"].as_array().unwrap() {
        let id = service["id"].as_str().unwrap();
        let page = server.get(&format!("/api/v1/services/{id}/results?limit=1000")).await;
        for result in page.json["results"].as_array().unwrap() {
            shown.insert((id.to_owned(), format!("{}/{}", result["slot"], result["kind"])));
        }
    }
    shown
}

/// The database alone is the witness: the naive oracle over its rows makes its log and its states,
/// and the WebSocket client saw exactly that log.
async fn verify(database: &Path, seen: &[Value]) {
    let store = SqliteResultStore::open(SqliteOptions::new(database), Arc::new(SystemClock::new())).await.unwrap();
    let log = store.log(Seq(0), ALL).await.unwrap();
    let seqs: Vec<u64> = log.iter().map(|entry| entry.seq.0).collect();
    assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>(), "the log has gaps or repeats");
    let mut expected: BTreeMap<(ServiceId, Applied), Transition> = BTreeMap::new();
    let mut recorded = 0;
    for view in store.services(&Default::default(), None, ALL).await.unwrap() {
        let id = view.service.id;
        let inputs = store.inputs(id, Applied(0), ALL).await.unwrap();
        let numbers: Vec<u64> = inputs.iter().map(|input| input.applied.0).collect();
        assert_eq!(numbers, (1..=inputs.len() as u64).collect::<Vec<_>>(), "inputs of {id} have gaps or repeats");
        let mut inputs = inputs.into_iter();
        let Some(Input::Control(Control::Configure { policy, regions, .. })) = inputs.next().map(|first| first.input)
        else {
            panic!("the first input of {id} is no registration");
        };
        let mut oracle = Oracle::registered(policy, &regions);
        for input in inputs {
            if let Some(transition) = oracle.apply(&input.input).transition {
                expected.insert((id, input.applied), transition);
            }
        }
        assert_eq!(view.status, store.state(id).await.unwrap().unwrap().announced());
        let results = store.results(id, &ResultQuery::default(), ALL).await.unwrap();
        recorded += results.len();
        let slots: HashSet<_> = results.iter().map(|stored| stored.result.id.clone()).collect();
        assert_eq!(slots.len(), results.len());
    }
    let transitions: BTreeMap<_, _> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            LogEvent::Transition(transition) => Some(((entry.service.id, entry.applied), *transition)),
            LogEvent::Overlay { .. } => None,
        })
        .collect();
    assert_eq!(transitions, expected);
    let told: Vec<u64> = seen.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    let there: Vec<u64> =
        log.iter().filter(|entry| matches!(entry.event, LogEvent::Transition(_))).map(|entry| entry.seq.0).collect();
    // Those of the last drain may have come after the client was let go.
    assert!(there.starts_with(&told), "the client saw {told:?}, the log has {there:?}");
    println!(
        "{KILLS} kills: {recorded} results, {} transitions, {} of them seen by the client",
        there.len(),
        told.len()
    );
    assert!(told.len() > SERVICES && recorded > SERVICES * 5);
}
