//! What goes wrong, and what each of it may excuse.

use std::time::Duration;

use healthmon_adapters::servers::StopMode;
use healthmon_core::{ports::Clock, runtime::clock::SystemClock};

use crate::{
    checker::sums,
    numbers::Numbers,
    proxy::{Mode, Trap},
    stack::Stack,
    window::Window,
};

/// The roles, as often as they are to be hit.
const ROLES: [&str; 5] = ["scheduler", "worker", "recorder", "recorder", "api"];
/// Longer than a lease of 10 s.
const STOPPED: Duration = Duration::from_millis(13_000);
/// How long a fault may wait for the moment that it needs, a commit or a result on its way: a shard
/// of a recorder that was killed just now waits for its lease too.
const OPPORTUNITY: Duration = Duration::from_secs(25);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Terminate,
    Suspend,
    RedisRestart,
    RedisLoss,
    FlushAll,
    PostgresFast,
    PostgresImmediate,
    Cut,
    Stall,
    CommitLost,
    CommitUnanswered,
    CommitStalled,
    CommitKilled,
    Duplicates,
    ClockStep,
}

/// The faults, as often as they are to come.
const FAULTS: [Fault; 21] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Terminate,
    Fault::Terminate,
    Fault::Suspend,
    Fault::RedisRestart,
    Fault::RedisLoss,
    Fault::FlushAll,
    Fault::PostgresFast,
    Fault::PostgresImmediate,
    Fault::Cut,
    Fault::Cut,
    Fault::Stall,
    Fault::CommitLost,
    Fault::CommitUnanswered,
    Fault::CommitStalled,
    Fault::CommitKilled,
    Fault::Duplicates,
    Fault::ClockStep,
];

impl Fault {
    pub(crate) fn choose(numbers: &mut Numbers, only: Option<&str>) -> Self {
        let all: Vec<Self> =
            FAULTS.into_iter().filter(|fault| only.is_none_or(|only| format!("{fault:?}").contains(only))).collect();
        assert!(!all.is_empty(), "no fault has {only:?} in its name");
        *numbers.pick(&all)
    }

    /// Does it, and undoes what must be undone. What is excused is stated here, per fault, and is
    /// as little as the promises allow: PostgreSQL's absence, for one, excuses no gap at all.
    ///
    /// # Errors
    /// When it did not come about: a fault that was none must not be counted.
    pub(crate) async fn strike(
        self,
        stack: &mut Stack,
        numbers: &mut Numbers,
        clock: &SystemClock,
    ) -> Result<Window, String> {
        let from = clock.now();
        let seconds = Duration::from_secs;
        let (what, gap, late) = match self {
            Self::Kill => {
                let at = any(stack, numbers);
                stack.nodes[at].kill();
                tokio::time::sleep(numbers.millis(0, 3_000)).await;
                stack.nodes[at].start();
                let role = stack.nodes[at].role;
                // A killed scheduler's shards are claimed when its lease has run out.
                (format!("kill -9 {}", stack.nodes[at].name), gap_of(role, seconds(13)), late_of(role))
            }
            Self::Terminate => {
                let at = any(stack, numbers);
                let name = stack.nodes[at].name.clone();
                let ended = stack.nodes[at].terminate().await;
                assert!(ended.is_some_and(|status| status.success()), "{name} ended with {ended:?} after SIGTERM");
                tokio::time::sleep(numbers.millis(0, 3_000)).await;
                stack.nodes[at].start();
                (format!("SIGTERM {name}"), gap_of(stack.nodes[at].role, seconds(2)), seconds(3))
            }
            Self::Suspend => {
                let at = any(stack, numbers);
                stack.nodes[at].signal("STOP");
                tokio::time::sleep(STOPPED).await;
                stack.nodes[at].signal("CONT");
                let role = stack.nodes[at].role;
                (format!("SIGSTOP {}", stack.nodes[at].name), gap_of(role, seconds(3)), late_of(role))
            }
            Self::RedisRestart => {
                stack.redis.kill().expect("killed");
                tokio::time::sleep(numbers.millis(0, 5_000)).await;
                stack.redis.resume().expect("started");
                ("Redis killed and restarted".to_owned(), seconds(6), seconds(12))
            }
            Self::RedisLoss => {
                stack.redis.kill().expect("killed");
                stack.redis.lose_data().expect("lost");
                tokio::time::sleep(numbers.millis(0, 5_000)).await;
                stack.redis.resume().expect("started");
                ("Redis killed, its data lost".to_owned(), seconds(6), seconds(12))
            }
            Self::FlushAll => {
                stack.redis.say("FLUSHALL").expect("flushed");
                ("FLUSHALL".to_owned(), seconds(3), seconds(8))
            }
            Self::PostgresFast | Self::PostgresImmediate => {
                let mode = if self == Self::PostgresFast { StopMode::Fast } else { StopMode::Immediate };
                stack.postgres.stop(mode).expect("stopped");
                tokio::time::sleep(numbers.millis(500, 6_000)).await;
                stack.postgres.resume().expect("started");
                (format!("PostgreSQL stopped ({mode:?}) and restarted"), Duration::ZERO, seconds(3))
            }
            Self::Cut => {
                let at = numbers.below(stack.nodes.len());
                stack.nodes[at].postgres.cut();
                stack.nodes[at].redis.cut();
                (
                    format!("connections of {} cut", stack.nodes[at].name),
                    gap_of(stack.nodes[at].role, seconds(2)),
                    late_of(stack.nodes[at].role),
                )
            }
            Self::Stall => {
                let at = numbers.below(stack.nodes.len());
                let node = &stack.nodes[at];
                let redis = numbers.below(2) == 0;
                let proxy = if redis { &node.redis } else { &node.postgres };
                proxy.set(Mode::Stall);
                tokio::time::sleep(numbers.millis(1_000, 8_000)).await;
                proxy.set(Mode::Pass);
                let to = if redis { "Redis" } else { "PostgreSQL" };
                let gap = if redis { gap_of(node.role, seconds(6)) } else { Duration::ZERO };
                (format!("{} stalled on its way to {to}", node.name), gap, late_of(node.role))
            }
            Self::CommitLost | Self::CommitUnanswered | Self::CommitStalled => {
                let at = *numbers.pick(&stack.of("recorder"));
                let trap = match self {
                    Self::CommitLost => Trap::CutBefore,
                    Self::CommitUnanswered => Trap::CutAfter,
                    _ => Trap::StallAfter(numbers.millis(1_000, 8_000)),
                };
                let proxy = &stack.nodes[at].postgres;
                proxy.trap(trap);
                let sprung = within(OPPORTUNITY, async || proxy.sprung().then_some(())).await;
                sprung.ok_or_else(|| format!("{} recorded no transition", stack.nodes[at].name))?;
                if self == Self::CommitStalled {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    // The connection that holds its breath is not needed for ever.
                    stack.nodes[at].postgres.cut();
                }
                (format!("a commit of {}: {trap:?}", stack.nodes[at].name), Duration::ZERO, seconds(6))
            }
            Self::CommitKilled => {
                let at = *numbers.pick(&stack.of("recorder"));
                stack.nodes[at].postgres.trap(Trap::Hold);
                let sprung = within(OPPORTUNITY, async || stack.nodes[at].postgres.sprung().then_some(())).await;
                stack.nodes[at].kill();
                stack.nodes[at].postgres.trap(Trap::None);
                stack.nodes[at].postgres.cut();
                stack.nodes[at].start();
                sprung.ok_or_else(|| format!("{} recorded no transition", stack.nodes[at].name))?;
                (format!("kill -9 {} at a commit", stack.nodes[at].name), Duration::ZERO, late_of("recorder"))
            }
            Self::Duplicates => {
                let before = repeated(stack).await;
                let copied = within(OPPORTUNITY, async || Some(duplicate(stack)).filter(|copied| *copied > 0)).await;
                let copied = copied.ok_or("no result was on its way, so none was delivered twice")?;
                let counted =
                    within(OPPORTUNITY, async || Some(repeated(stack).await - before).filter(|more| *more > 0.5)).await;
                let counted = counted.ok_or_else(|| format!("{copied} copies of results were not found repeated"))?;
                (format!("{copied} results delivered twice, {counted} found to be"), Duration::ZERO, Duration::ZERO)
            }
            Self::ClockStep => {
                let at = numbers.below(stack.nodes.len());
                let step = *numbers.pick(&[-3_600, -30, -2, 2, 30, 3_600]);
                stack.nodes[at].set_clock(step);
                tokio::time::sleep(numbers.millis(2_000, 5_000)).await;
                stack.nodes[at].set_clock(0);
                (
                    format!("the clock of {} stepped by {step} s and back", stack.nodes[at].name),
                    Duration::ZERO,
                    Duration::ZERO,
                )
            }
        };
        let over = clock.now();
        let until = |span: Duration| if span.is_zero() { from } else { over.after(span) };
        Ok(Window { what, from, gaps_until: until(gap), late_until: until(gap.max(late)) })
    }
}

/// Looks until there is something, for so long.
async fn within<T>(span: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let until = tokio::time::Instant::now() + span;
    loop {
        let found = look().await;
        if found.is_some() || tokio::time::Instant::now() >= until {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many results recorders found to be recorded already.
async fn repeated(stack: &Stack) -> f64 {
    sums(stack).await.get("healthmon_results_repeated_total").copied().unwrap_or(0.0)
}

/// A process of some role.
fn any(stack: &Stack, numbers: &mut Numbers) -> usize {
    let role = *numbers.pick(&ROLES);
    *numbers.pick(&stack.of(role))
}

/// Only what schedules can leave slots out.
fn gap_of(role: &str, span: Duration) -> Duration {
    if role == "scheduler" { span } else { Duration::ZERO }
}

/// A probe whose worker is gone comes back after its lease; a shard of results whose recorder is
/// gone, after that one's.
fn late_of(role: &str) -> Duration {
    match role {
        "worker" => Duration::from_secs(9),
        "recorder" => Duration::from_secs(14),
        "scheduler" => Duration::from_secs(14),
        _ => Duration::ZERO,
    }
}

/// Puts copies of results that wait on their streams again, behind all others, as `complete.lua` does.
/// Returns how many there were.
fn duplicate(stack: &Stack) -> usize {
    let script = "local n = 0 \
        for _, key in ipairs(redis.call('KEYS', '*:r:*')) do \
          local base, shard = string.match(key, '^(.*):r:([0-9]+)$') \
          if base then \
            local entries = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 20) \
            for _, entry in ipairs(entries) do \
              redis.call('XADD', key, '*', unpack(entry[2])) n = n + 1 \
            end \
            if #entries > 0 then \
              redis.call('HINCRBY', base .. ':count', 'results', #entries) \
              redis.call('SADD', base .. ':news', shard) \
            end \
          end \
        end return n";
    let answer = stack.redis.say(&format!("EVAL \"{script}\" 0")).expect("Redis answers");
    answer.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("Redis says {answer}"))
}
