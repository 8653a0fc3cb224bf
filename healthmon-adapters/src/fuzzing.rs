//! What the fuzzers feed: each target takes bytes that somebody hostile could have sent, and asserts
//! what must hold whatever they are. `.ci/fuzz` runs them; the tests below replay what was kept.
//!
//! Clocks stand still but when nothing else is to do, so that whoever waits for a deadline does not
//! keep a fuzzer waiting. Nothing is dialled but this machine's own `127.83.17.5`.

mod grpc;
mod http;
mod peer;
mod policy;
mod probers;
mod settings;
mod url;
mod websocket;

use std::{
    fs,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    probe::{DETAIL_LIMIT, Inspection, Kind, Outcome, Probe},
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

use crate::net::{AddressPolicy, Dialer, LookupPermit, Loopback, Progress, ResolveError, Resolver};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its corpus too.
pub const TARGETS: [(&str, Target); 11] = [
    ("url", url),
    ("policy", policy),
    ("settings", settings),
    ("http", http),
    ("expect", expect),
    ("tcp", tcp),
    ("datagrams", datagrams),
    ("certificate", certificate),
    ("websocket", websocket),
    ("grpc", grpc),
    ("queue", queue),
];

/// From a URL to what is dialled: see [`url`](self::url).
pub fn url(data: &[u8]) {
    bounded(|| url::target(data));
}

/// The address policy against a naive one.
pub fn policy(data: &[u8]) {
    bounded(|| policy::target(data));
}

/// Settings as people write them, durations and names.
pub fn settings(data: &[u8]) {
    bounded(|| settings::target(data));
}

/// Answers of HTTP servers, redirects and coded bodies among them.
pub fn http(data: &[u8]) {
    bounded(|| http::target(data));
}

/// What is expected of an HTTP answer, and an answer.
pub fn expect(data: &[u8]) {
    bounded(|| crate::http::fuzz::target(data));
}

/// Peers that are asked for STARTTLS, and dialogues.
pub fn tcp(data: &[u8]) {
    bounded(|| crate::tcp::fuzz::target(data));
}

/// Answers of name servers, and what comes of pings.
pub fn datagrams(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => bounded(|| crate::icmp::fuzz::target(rest)),
        Some((_, rest)) => bounded(|| crate::dns::fuzz::target(rest)),
        None => {}
    }
}

/// Certificates, in DER.
pub fn certificate(data: &[u8]) {
    bounded(|| crate::net::tls::fuzz::target(data));
}

/// Answers to an upgrade, and frames.
pub fn websocket(data: &[u8]) {
    bounded(|| websocket::target(data));
}

/// Answers of gRPC servers, down to the frames.
pub fn grpc(data: &[u8]) {
    bounded(|| grpc::target(data));
}

/// Probes and results as they lie in Redis.
pub fn queue(data: &[u8]) {
    bounded(|| crate::redis::fuzz::target(data));
}

/// What stands between the parts of an input: ASCII's record separator.
pub(crate) const BETWEEN: u8 = 0x1e;

/// The parts of an input.
pub(crate) fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == BETWEEN)
}

/// The only address that may be dialled: this machine's, though hardly anybody listens there.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(127, 83, 17, 5);
/// What no answer may show when it stands in a body.
pub(crate) const IN_A_BODY: &str = "BODYMARK";
/// The longest that one input may keep a processor busy, unoptimised and instrumented as it may be.
const BUSY: Duration = Duration::from_secs(4);

/// Runs a target and asserts that it took no longer than it may: of the processor's time, for the
/// machine may be busy with something else and the fuzzer be stopped meanwhile.
fn bounded(target: impl FnOnce()) {
    let begun = processor_time();
    target();
    if let (Some(begun), Some(ended)) = (begun, processor_time()) {
        let took = ended.saturating_sub(begun);
        assert!(took < BUSY, "took {took:?} of the processor's time");
    }
}

fn processor_time() -> Option<Duration> {
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
}

/// Runs a future whose clock stands still, a second after that of the one before. It must not spawn:
/// the clock knows of nothing but it.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            tokio::time::advance(Duration::from_secs(1)).await;
            future.await
        })
    })
}

/// Finds this machine for every name, unless told what to answer, and remembers who was asked for.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) answer: Mutex<Option<Result<Vec<IpAddr>, ResolveError>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// Who was asked for since this was asked last.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str, _: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answer.unwrap_or_else(|| Ok(vec![IpAddr::V4(HERE)]))
    }
}

/// The policy that allows [`HERE`] and nothing else.
pub(crate) fn here_only() -> AddressPolicy {
    let net = |text: &str| text.parse().unwrap_or_else(|_| unreachable!("a network"));
    AddressPolicy::new(Loopback::Refused).deny(net("0.0.0.0/0")).deny(net("::/0")).allow(net("127.83.17.5/32"))
}

/// A dialer that reaches [`HERE`] by every name, and nothing else.
pub(crate) fn dialer() -> Arc<Dialer> {
    Arc::new(Dialer::new(here_only()).with_resolver(Arc::new(Names::default())))
}

/// A probe of a service with these settings.
pub(crate) fn probe_of(settings: ServiceSettings) -> Probe {
    let id = ServiceId::new(7).unwrap_or_else(|_| unreachable!("not zero"));
    let service = Service::registered(id, settings, Revision(1), Epoch(1), Timestamp::from_millis(0));
    Probe::new(Arc::new(service), Region::default(), Slot::from_millis(0), Kind::Scheduled)
}

/// A probe of `url` with these sections; none if the target is none.
pub(crate) fn probe(url: &str, sections: &Value) -> Option<Probe> {
    let mut map = Map::new();
    for (name, value) in [("name", "a"), ("url", url), ("interval", "30s"), ("timeout", "5s")] {
        map.insert(name.to_owned(), value.into());
    }
    map.extend(sections.as_object().cloned().unwrap_or_default());
    ServiceSettings::from_json(map).ok().map(probe_of)
}

/// Whether a terminal or a reader's eye would obey a character: all that Unicode calls controls, of
/// the direction of writing too, and what ends a line or a paragraph.
fn is_obeyed(c: char) -> bool {
    let directs = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || directs || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Asserts that a text may be shown and stored.
pub(crate) fn assert_printable(text: &str) {
    assert!(!text.chars().any(is_obeyed), "{text:?} holds what would be obeyed");
    let length = text.chars().count();
    assert!(length <= DETAIL_LIMIT, "{length} characters");
}

/// Asserts what holds of whatever a probe saw.
pub(crate) fn assert_harmless(look: &Inspection) {
    let Inspection { seen, facts, assertions } = look;
    let of_facts = facts.iter().flat_map(|fact| [&fact.what, &fact.value]);
    let of_assertions = assertions.iter().flat_map(|one| [&one.what, &one.expected, &one.seen]);
    seen.detail.iter().chain(of_facts).chain(of_assertions).for_each(|text| assert_printable(text));
    assert!(facts.len() <= 64 && assertions.len() <= 1024, "{} facts, {}", facts.len(), assertions.len());
    assert!(seen.latency_us <= 5_000_000, "took {} us with a timeout of 5 s", seen.latency_us);
    let coded = Outcome::from_code(i64::from(seen.outcome.code()), seen.outcome.reason());
    assert_eq!(coded, Some(seen.outcome));
    if !matches!(seen.outcome, Outcome::Pass) {
        assert!(seen.detail.as_ref().is_some_and(|detail| !detail.is_empty()), "{:?} for no reason", seen.outcome);
    }
}

/// The same of an attempt that was judged by hand.
pub(crate) fn assert_progress_harmless(progress: Progress) -> Inspection {
    let fault = progress.assertions.verdict();
    let outcome = fault.as_ref().map_or(Outcome::Pass, |fault| fault.outcome);
    let mut seen = healthmon_core::probe::Observation::new(outcome, Duration::ZERO);
    if let Some(fault) = fault {
        seen = seen.with_detail(&fault.detail);
    }
    let look = Inspection { seen, facts: progress.facts.unwrap_or_default(), assertions: progress.assertions.all() };
    assert_harmless(&look);
    look
}

/// Asserts that nothing of an inspection shows `secret`.
pub(crate) fn assert_hidden(look: &Inspection, secret: &str) {
    let shown = format!("{look:?}");
    assert!(!shown.contains(secret), "{secret} is shown: {shown}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The corpus is what fuzzers found worth keeping, and what was written for them to begin with.
    #[test]
    fn what_fuzzers_kept_holds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut broken = Vec::new();
        for (name, target) in TARGETS {
            let mut inputs = 0;
            for folder in ["seeds", "corpus"] {
                let Ok(files) = fs::read_dir(fuzz.join(folder).join(name)) else { continue };
                for file in files {
                    let path = file.expect("a file").path();
                    let data = fs::read(&path).expect("readable");
                    assert!(data.len() <= 8 * 1024, "{} is not small", path.display());
                    if std::panic::catch_unwind(|| target(&data)).is_err() {
                        broken.push(path);
                    }
                    inputs += 1;
                }
            }
            assert!((1..=200).contains(&inputs), "{inputs} inputs for {name}");
        }
        assert!(broken.is_empty(), "broken by {broken:?}");
    }
}
