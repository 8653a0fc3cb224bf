//! What was promised, held against what was recorded, told and true.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroUsize,
    time::Duration,
};

use healthmon_core::{
    engine::{Control, Input, oracle::Ledger},
    id::{Applied, Seq, ServiceId},
    ports::{ResultQuery, ResultStore, StoredResult},
    probe::{Kind, Outcome},
    schedule::slot_at,
    service::Service,
    status::{LogEntry, LogEvent, Status, Transition},
    time::Timestamp,
};
use serde_json::Value;

use crate::{
    client::{Client, Heard},
    stack::{Node, Stack, request},
    target::Targets,
    window::{Excuses, PROBE},
};

const ALL: NonZeroUsize = NonZeroUsize::new(10_000_000).unwrap();
/// Failures in a row that mean DOWN in these runs.
const THRESHOLD: usize = 3;
/// How many breaches of one kind are told.
const TOLD: usize = 5;

/// What is to be checked.
pub(crate) struct Case<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) targets: &'a Targets,
    pub(crate) ids: &'a [String],
    pub(crate) heard: &'a Heard,
    pub(crate) excuses: &'a Excuses,
    pub(crate) started: Timestamp,
    pub(crate) ended: Timestamp,
}

/// Waits until what is told is what is true, every process is ready, and the client has heard all
/// of it; at most for `bound`.
pub(crate) async fn settle(
    stack: &Stack,
    targets: &Targets,
    ids: &[String],
    client: &Client,
    bound: Duration,
) -> Result<(), String> {
    let until = std::time::Instant::now() + bound;
    loop {
        let Err(wrong) = settled(stack, targets, ids, client).await else { return Ok(()) };
        if std::time::Instant::now() >= until {
            return Err(format!("{bound:?} after the last fault: {wrong}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether everything is told as it is; else the first thing that is not. What nobody answers is not
/// told.
async fn settled(stack: &Stack, targets: &Targets, ids: &[String], client: &Client) -> Result<(), String> {
    let answer = async |node: &Node, path: &str| match request(node.address, "GET", path, None).await {
        Ok((200, body)) => Ok(body),
        answer => Err(format!("{} does not answer to {path}: {answer:?}", node.name)),
    };
    for node in &stack.nodes {
        answer(node, "/readyz").await?;
    }
    let api = &stack.nodes[stack.of("api")[1]];
    let list = answer(api, "/api/v1/services?limit=1000").await?;
    let told: HashMap<&str, &str> = list["services"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|service| Some((service["id"].as_str()?, service["status"].as_str()?)))
        .collect();
    for (number, id) in ids.iter().enumerate() {
        let truth = if targets.is_down(number) { "DOWN" } else { "UP" };
        let status = told.get(id.as_str()).copied().unwrap_or("missing");
        if !status.eq_ignore_ascii_case(truth) {
            return Err(format!("service {number} is told to be {status} and is {truth}"));
        }
    }
    let cluster = answer(api, "/api/v1/cluster").await?;
    let head = cluster["log"]["head"].as_u64().ok_or_else(|| format!("no head in {cluster}"))?;
    if client.last() < head {
        return Err(format!("the client has heard up to {} of {head}", client.last()));
    }
    Ok(())
}

/// What must stand still when nothing is wrong: work that is done twice, or refused because another
/// does it.
const TWICE: [&str; 3] =
    ["healthmon_probes_repeated_total", "healthmon_probes_fenced_total", "healthmon_results_repeated_total"];
/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// In calm, every shard has one scheduler, and nothing is done twice.
pub(crate) async fn calm(stack: &Stack) -> Vec<String> {
    let before = sums(stack).await;
    tokio::time::sleep(WATCHED).await;
    let after = sums(stack).await;
    let mut broken = Vec::new();
    for name in TWICE {
        let of = |sums: &BTreeMap<String, f64>| sums.get(name).copied().unwrap_or(0.0);
        if of(&after) > of(&before) {
            broken.push(format!("{name} grows in calm: {} to {}", of(&before), of(&after)));
        }
    }
    let held = after.get("healthmon_shards_held").copied().unwrap_or(0.0);
    if (held - 64.0).abs() > 0.5 {
        broken.push(format!("schedulers hold {held} shards between them, of 64"));
    }
    broken
}

/// The processes' metrics without labels, summed over all of them.
pub(crate) async fn sums(stack: &Stack) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for node in &stack.nodes {
        let Ok((200, Value::String(text))) = request(node.address, "GET", "/metrics", None).await else { continue };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                *sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
    }
    sums
}

/// Everything that was not kept.
pub(crate) async fn check(case: &Case<'_>) -> Vec<String> {
    let store = case.stack.store().await;
    let log = store.log(Seq(0), ALL).await.expect("the log");
    let mut broken = Breaches::default();
    check_log(&log, case.heard, &mut broken);
    let mut expected = BTreeMap::new();
    let (mut recorded, mut silent, mut late, mut missing) = (0, 0, 0, 0);
    for (number, id) in case.ids.iter().enumerate() {
        let id: ServiceId = id.parse().expect("an id");
        let service = store.service(id).await.expect("read").expect("there").service;
        fold(&store, id, &mut expected, &mut broken).await;
        let results = store.results(id, &ResultQuery::default(), ALL).await.expect("results");
        recorded += results.len();
        let account = check_results(case, &service, &results, &mut broken);
        silent += account.silent;
        late += account.late;
        missing += account.missing;
        check_truth(case, number, id, &log, &results, &mut broken);
    }
    let transitions: BTreeMap<_, _> = log
        .iter()
        .filter_map(|entry| match &entry.event {
            LogEvent::Transition(transition) => Some(((entry.service.id, entry.applied), *transition)),
            LogEvent::Overlay { .. } => None,
        })
        .collect();
    for (place, transition) in &transitions {
        if expected.get(place) != Some(transition) {
            let should = expected.get(place);
            broken
                .add("a transition that the oracle does not make", format!("{place:?} {transition:?}, not {should:?}"));
        }
    }
    for (place, transition) in expected.iter().filter(|(place, _)| !transitions.contains_key(place)) {
        broken.add("a transition that is missing", format!("{place:?} {transition:?}"));
    }
    println!(
        "      {recorded} results ({silent} said nothing, {late} late), {missing} slots without one, {} transitions, \
         {} entries heard over {} connections, {} probes served",
        transitions.len(),
        case.heard.entries.len(),
        case.heard.connections,
        case.targets.served(),
    );
    broken.told()
}

#[derive(Default)]
struct Breaches(BTreeMap<&'static str, Vec<String>>);

impl Breaches {
    fn add(&mut self, kind: &'static str, what: String) {
        self.0.entry(kind).or_default().push(what);
    }

    fn told(self) -> Vec<String> {
        let tell = |(kind, all): (&str, Vec<String>)| {
            let (count, some) = (all.len(), all.into_iter().take(TOLD).collect::<Vec<_>>().join("\n      "));
            format!("{kind} ({count}):\n      {some}")
        };
        self.0.into_iter().map(tell).collect()
    }
}

/// The log is gapless, and the client heard all of it, in order, once.
fn check_log(log: &[LogEntry], heard: &Heard, broken: &mut Breaches) {
    for (entry, seq) in log.iter().zip(1..) {
        if entry.seq.0 != seq {
            broken.add("the log has a gap or a repeat", format!("place {seq} has {}", entry.seq.0));
            break;
        }
    }
    for reset in &heard.resets {
        broken.add("the client was reset", reset.to_string());
    }
    let seq = |entry: &Value| entry["seq"].as_u64().unwrap_or(0);
    for (entry, expected) in heard.entries.iter().zip(1..) {
        if seq(entry) != expected {
            broken.add("the client missed or repeats an entry", format!("{} came for {expected}", seq(entry)));
            break;
        }
    }
    for (heard, entry) in heard.entries.iter().zip(log) {
        let written = serde_json::to_value(entry).expect("plain data");
        let same = ["seq", "service", "from", "to", "at", "slot", "reason"];
        if let Some(field) = same.into_iter().find(|field| heard[*field] != written[*field]) {
            broken.add("the client heard other than is written", format!("{field}: {heard} {written}"));
        }
    }
    if heard.entries.len() != log.len() {
        broken.add("the client heard less than is written", format!("{} of {}", heard.entries.len(), log.len()));
    }
}

/// The naive oracle over a service's rows, in their order, each taken in once: there may be thousands.
async fn fold(
    store: &dyn ResultStore,
    id: ServiceId,
    expected: &mut BTreeMap<(ServiceId, Applied), Transition>,
    broken: &mut Breaches,
) {
    let inputs = store.inputs(id, Applied(0), ALL).await.expect("inputs");
    if let Some((input, at)) = inputs.iter().zip(1..).find(|(input, at)| input.applied.0 != *at) {
        broken.add("inputs have a gap or a repeat", format!("{id}: place {at} has {}", input.applied));
    }
    let mut watermarks = BTreeMap::new();
    let mut inputs = inputs.into_iter();
    let Some(Input::Control(Control::Configure { policy, regions, .. })) = inputs.next().map(|first| first.input)
    else {
        return broken.add("the first input is no registration", id.to_string());
    };
    let mut oracle = Ledger::registered(policy, &regions);
    for input in inputs {
        if let Input::Result(sighting) = &input.input {
            let before = watermarks.insert(sighting.region.clone(), sighting.slot);
            if before.is_some_and(|before| before >= sighting.slot) {
                broken.add("a result voted after a newer one", format!("{id}: {} after {before:?}", sighting.slot));
            }
        }
        if let Some(transition) = oracle.apply(&input.input).transition {
            expected.insert((id, input.applied), transition);
        }
    }
    let announced = store.state(id).await.expect("read").expect("a state").announced();
    if announced != oracle.status() {
        broken.add("a state is not what the oracle says", format!("{id}: {announced:?}, not {:?}", oracle.status()));
    }
}

struct Account {
    silent: usize,
    late: usize,
    missing: usize,
}

fn check_results(case: &Case<'_>, service: &Service, results: &[StoredResult], broken: &mut Breaches) -> Account {
    let mut account = Account { silent: 0, late: 0, missing: 0 };
    let mut seen = BTreeSet::new();
    let mut scheduled = BTreeSet::new();
    let edges: Vec<Timestamp> = results
        .iter()
        .filter(|stored| stored.result.id.kind == Kind::Edge)
        .map(|stored| stored.result.id.slot.time())
        .collect();
    // Two probes that are under way at once may end in either order.
    let beside_an_edge = |at: Timestamp| edges.iter().any(|edge| edge.since(at).max(at.since(*edge)) < PROBE);
    for stored in results {
        let id = &stored.result.id;
        if !seen.insert((id.slot, id.region.clone(), id.kind)) {
            broken.add("a slot was recorded twice", id.to_string());
        }
        if id.kind == Kind::Scheduled {
            scheduled.insert(id.slot);
        }
        let excused = || case.excuses.late(id.slot.time());
        if stored.applied.is_none() && id.kind != Kind::Manual {
            account.late += 1;
            if !excused() && !beside_an_edge(id.slot.time()) {
                broken.add(
                    "an avoidable late result",
                    format!("{id} started {} {:?}", stored.result.started.as_millis(), stored.outcome()),
                );
            }
        }
        if let Outcome::Indeterminate(reason) = stored.outcome() {
            account.silent += 1;
            if !excused() {
                broken.add("a probe that said nothing, unexplained", format!("{id}: {reason:?}"));
            }
        }
    }
    let interval = service.settings.interval;
    // The newest slots may still be on their way.
    let mut slot = slot_at(service.id, interval, case.ended.before(Duration::from_secs(2)));
    while slot.time() > case.started.after(Duration::from_secs(1)) {
        if !scheduled.contains(&slot) {
            account.missing += 1;
            if !case.excuses.gap(slot.time()) {
                broken.add(
                    "a gap without a fault",
                    format!("service {} has no result for {}", service.id, slot.as_millis()),
                );
            }
        }
        slot = healthmon_core::time::Slot::from_millis(slot.as_millis() - interval.as_millis());
    }
    account
}

/// What was told against what was true.
fn check_truth(
    case: &Case<'_>,
    number: usize,
    id: ServiceId,
    log: &[LogEntry],
    results: &[StoredResult],
    broken: &mut Breaches,
) {
    // Every probe saw what was there while it looked.
    for stored in results {
        let (from, to) = (stored.result.started, stored.result.started.after(PROBE));
        let seen = match stored.outcome() {
            Outcome::Pass | Outcome::Slow => case.targets.was_up_within(number, from, to),
            Outcome::Fail(_) | Outcome::Fatal(_) => case.targets.was_down_within(number, from, to),
            Outcome::Indeterminate(_) => true,
        };
        if !seen && !case.excuses.mistake(stored.outcome(), stored.result.started) {
            let detail = stored.result.seen.detail.as_deref().unwrap_or_default();
            broken.add("a result that was not so", format!("{}: {:?} {detail}", stored.result.id, stored.outcome()));
        }
    }
    let mut down_told: Vec<Timestamp> = Vec::new();
    for entry in log.iter().filter(|entry| entry.service.id == id) {
        let LogEvent::Transition(transition) = &entry.event else { continue };
        let Some(slot) = entry.slot else { continue };
        // Down is told after as many failures in a row, the last of them at this slot.
        let (from, to) = (slot.time().before(Duration::from_secs(2)), slot.time().after(Duration::from_secs(2)));
        if transition.to == Status::Down {
            down_told.push(slot.time());
            if !case.targets.was_down_within(number, from, to) {
                broken.add("an outage was told that was not", format!("service {number} at {slot}"));
            }
        } else if transition.from == Status::Down && !case.targets.was_up_within(number, from, to) {
            broken.add("a recovery was told that was not", format!("service {number} at {slot}"));
        }
    }
    // Every outage during which it was probed as often as the threshold asks is told.
    let turns = case.targets.turns(number);
    for (at, turn) in turns.iter().enumerate().filter(|(_, turn)| turn.down) {
        let end = turns.get(at + 1).map_or(case.ended, |next| next.at);
        let probed = results.iter().filter(|stored| {
            stored.applied.is_some()
                && matches!(stored.outcome(), Outcome::Fail(_))
                && stored.result.started >= turn.at
                && stored.result.started.after(PROBE) <= end
        });
        let window = |slot: &&Timestamp| {
            **slot >= turn.at.before(Duration::from_secs(1)) && **slot <= end.after(Duration::from_secs(1))
        };
        let was_down_before = at > 0 && told_down_at(log, id, turn.at);
        if probed.count() >= THRESHOLD && !was_down_before && !down_told.iter().any(|slot| window(&slot)) {
            broken.add("an outage was not told", format!("service {number} from {} to {end}", turn.at));
        }
        // Without a fault in the way it is told, whatever was probed.
        if case.excuses.calm(turn.at, end)
            && end.since(turn.at) > Duration::from_secs(5)
            && !was_down_before
            && !down_told.iter().any(|slot| window(&slot))
        {
            broken.add("an outage in calm time was not told", format!("service {number} from {} to {end}", turn.at));
        }
    }
}

/// Whether a service was told to be down by an earlier slot.
fn told_down_at(log: &[LogEntry], id: ServiceId, at: Timestamp) -> bool {
    let own = log.iter().filter(|entry| entry.service.id == id && entry.slot.is_some_and(|slot| slot.time() < at));
    let told = |entry: &LogEntry| match &entry.event {
        LogEvent::Transition(transition) => Some(transition.to),
        LogEvent::Overlay { .. } => None,
    };
    own.filter_map(told).fold(None, |_, to| Some(to)) == Some(Status::Down)
}
