//! `grpc.health.v1.Health/Watch`: a held stream that tells of a change at once.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use healthmon_core::service::Service;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Exchange, GrpcProber, link::Held, settings::Asking};
use crate::{net::Progress, prepared::Prepare};

/// The first pause before a stream is opened again, doubled each time up to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(2));
/// A stream that held for so long was a good one.
const GOOD: Duration = Duration::from_mins(1);
/// Between two messages nothing is read for so long: a server that sends without end is slowed
/// down by its own full buffers.
const REST: Duration = Duration::from_millis(100);

/// A stream that has been silent for so long, or half of it, is opened anew: a connection that
/// leads nowhere any more is silent too. Pings would be cheaper, but servers that follow gRPC's
/// default take more than one in five minutes for an attack, and a server that answers them may
/// have forgotten the stream.
const SILENCE: Duration = Duration::from_mins(5);
/// A server without `Watch` may be one that has it by then.
const UNOFFERED: Duration = Duration::from_hours(1);

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// There can be none: the settings cannot be read.
    Unreadable,
    /// The server does not offer it.
    Unoffered,
    /// There was one, or could be another time.
    Broken,
    /// Nobody said that it has, but nobody has said anything for long.
    Silent,
}

/// What was noticed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noticed {
    Nothing,
    Status(i32),
    Break,
}

/// Calls `changed` for all that is noticed after the first, and for that unless it is that all is well.
struct Notice<'a> {
    last: Noticed,
    changed: &'a (dyn Fn() + Send + Sync),
}

impl Notice<'_> {
    fn take(&mut self, noticed: Noticed) {
        // That no stream could be opened is not news; that one broke is.
        if self.last == Noticed::Nothing && noticed == Noticed::Break {
            return;
        }
        let is_news = match std::mem::replace(&mut self.last, noticed) {
            // Nobody knows what it was when it was probed; that all is well is taken for no change.
            Noticed::Nothing => noticed != Noticed::Status(ServingStatus::Serving as i32),
            before => before != noticed,
        };
        if is_news {
            (self.changed)();
        }
    }
}

/// Watches a service until it is dropped, or its settings say nothing that could be watched.
pub(super) async fn watch(prober: &GrpcProber, service: &Service, changed: &(dyn Fn() + Send + Sync)) {
    let mut notice = Notice { last: Noticed::Nothing, changed };
    let mut pause = PAUSES.0;
    loop {
        let begun = Instant::now();
        match hold(prober, service, &mut notice).await {
            Ended::Unreadable => return,
            // If it had ended, the next cannot be opened, or begins with another status.
            Ended::Silent => continue,
            Ended::Unoffered => {
                notice.take(Noticed::Break);
                sleep(jittered(UNOFFERED)).await;
                continue;
            }
            Ended::Broken => notice.take(Noticed::Break),
        }
        if begun.elapsed() >= GOOD {
            pause = PAUSES.0;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Half of `pause` to all of it, so that those whose server restarts do not come back as one.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1_000;
    pause / 2 + pause.mul_f64(random as f64 / 2_000.0)
}

/// Holds one stream as long as it lasts.
async fn hold(prober: &GrpcProber, service: &Service, notice: &mut Notice<'_>) -> Ended {
    let Ok(asking) = Asking::prepare(&service.settings) else { return Ended::Unreadable };
    let deadline = Instant::now() + service.settings.timeout.get();
    let exchange = Exchange { prober, service: service.id, asking: &asking, deadline };
    match timeout_at(deadline, Box::pin(open(&exchange))).await {
        Ok(Ok((held, first))) => follow(held, first, notice).await,
        Ok(Err(ended)) => ended,
        Err(_) => Ended::Broken,
    }
}

/// Opens a stream and waits for its first message.
async fn open(exchange: &Exchange<'_>) -> Result<(Held, i32), Ended> {
    let question = exchange.question().map_err(|_| Ended::Broken)?;
    let link = exchange.connect(&mut Progress::default()).await.map_err(|_| Ended::Broken)?;
    let mut held = link.watch(exchange.asking.origin.clone(), exchange.request(&question)).await.map_err(ended)?;
    let first = held.next().await.map_err(ended)?;
    Ok((held, first))
}

fn ended(status: Option<Code>) -> Ended {
    if status == Some(Code::Unimplemented) { Ended::Unoffered } else { Ended::Broken }
}

async fn follow(mut held: Held, first: i32, notice: &mut Notice<'_>) -> Ended {
    notice.take(Noticed::Status(first));
    loop {
        sleep(REST).await;
        match timeout(jittered(SILENCE), held.next()).await {
            Ok(Ok(status)) => notice.take(Noticed::Status(status)),
            Ok(Err(status)) => return ended(status),
            Err(_) => return Ended::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_differs_from_before_is_news_and_a_stream_that_never_was_is_not() {
        let told = AtomicUsize::new(0);
        let changed = || {
            told.fetch_add(1, Ordering::SeqCst);
        };
        let mut notice = Notice { last: Noticed::Nothing, changed: &changed };
        for (noticed, news) in [
            (Noticed::Break, 0),
            (Noticed::Status(1), 0),
            (Noticed::Status(1), 0),
            (Noticed::Status(2), 1),
            (Noticed::Break, 2),
            (Noticed::Break, 2),
            (Noticed::Status(2), 3),
        ] {
            notice.take(noticed);
            assert_eq!(told.load(Ordering::SeqCst), news, "{noticed:?}");
        }
        Notice { last: Noticed::Nothing, changed: &changed }.take(Noticed::Status(2));
        assert_eq!(told.load(Ordering::SeqCst), 4, "it may have changed since it was probed");
    }

    #[test]
    fn a_pause_is_half_of_itself_to_all_of_it() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSES.0)).collect();
        assert!(pauses.iter().all(|pause| (PAUSES.0 / 2..=PAUSES.0).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
