//! Some pings of one host, and what became of them.

use std::time::Duration;

use healthmon_core::probe::{FailReason, IndeterminateReason};
use tokio::time::{Instant, timeout_at};

use super::{
    packet::{Version, request},
    settings::Expected,
    socket::{EchoSocket, Heard},
};
use crate::net::{Progress, attempt::Fault, progress::add};

/// Random bytes that make a ping recognisable.
pub(super) const TOKEN: usize = 16;
/// How long later pings are waited for at least when an earlier one was answered; or twice as long
/// as the slowest took, if that is more.
const LINGER: Duration = Duration::from_secs(1);

/// Pings, of which some may be under way. It outlives the attempt, so that what came before the
/// deadline is not lost.
#[derive(Debug)]
pub(super) struct Pings {
    payload: Box<[u8]>,
    fates: Vec<Fate>,
}

/// What became of one ping.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Unsent,
    Sent(Instant),
    Answered(Duration),
    Undelivered(String),
}

impl Pings {
    pub(super) fn new(count: u16, size: usize) -> Self {
        let token: [u8; TOKEN] = rand::random();
        let payload: Box<[u8]> = token.iter().copied().cycle().take(size.max(TOKEN)).collect();
        Self { payload, fates: vec![Fate::Unsent; usize::from(count)] }
    }

    /// The ping with this number, which goes out now.
    pub(super) fn packet(&mut self, number: u16, socket: &EchoSocket) -> Vec<u8> {
        if let Some(fate) = self.fates.get_mut(usize::from(number)) {
            *fate = Fate::Sent(Instant::now());
        }
        request(Version::of(&socket.address()), socket.ident(), number, &self.payload)
    }

    /// Sends all but the first, which is on its way, and waits until the fate of all is known, or
    /// nothing more is to be expected. The caller enforces the deadline.
    pub(super) async fn exchange(&mut self, socket: &EchoSocket, interval: Duration) -> Result<(), Fault> {
        let begun = Instant::now();
        let count = u16::try_from(self.fates.len()).unwrap_or(u16::MAX);
        for number in 1..count {
            self.listen_until(socket, begun + interval * u32::from(number)).await?;
            let packet = self.packet(number, socket);
            if let Err(error) = socket.send(&packet).await {
                self.fates[usize::from(number)] = Fate::Undelivered(error.to_string());
            }
        }
        let sent = Instant::now();
        // All that is left is to wait, for as long as an answer may take.
        while self.is_open() {
            let Some(slowest) = self.slowest() else {
                // Silence so far, which lasts for as long as the caller lets it.
                self.hear(socket).await?;
                continue;
            };
            match timeout_at(sent + LINGER.max(slowest * 2), self.hear(socket)).await {
                Ok(heard) => heard?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    async fn listen_until(&mut self, socket: &EchoSocket, until: Instant) -> Result<(), Fault> {
        loop {
            match timeout_at(until, self.hear(socket)).await {
                Ok(heard) => heard?,
                Err(_) => return Ok(()),
            }
        }
    }

    async fn hear(&mut self, socket: &EchoSocket) -> Result<(), Fault> {
        let heard = socket.listen().await;
        let heard = heard.map_err(|error| Fault::indeterminate(IndeterminateReason::Internal, error.to_string()))?;
        let now = Instant::now();
        match heard {
            Heard::Reply { sequence, payload } => {
                if let Some(fate) = self.fates.get_mut(usize::from(sequence))
                    && let Fate::Sent(sent) = *fate
                    && payload == self.payload
                {
                    *fate = Fate::Answered(now.duration_since(sent));
                }
            }
            Heard::Undelivered { sequence, told } => {
                if let Some(fate @ Fate::Sent(_)) = self.fates.get_mut(usize::from(sequence)) {
                    *fate = Fate::Undelivered(told);
                }
            }
            Heard::Nothing => {}
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Sent(_)))
    }

    fn answered(&self) -> impl Iterator<Item = Duration> {
        self.fates.iter().filter_map(|fate| match fate {
            Fate::Answered(round_trip) => Some(*round_trip),
            _ => None,
        })
    }

    fn slowest(&self) -> Option<Duration> {
        self.answered().max()
    }

    /// What it all comes to; `None` for silence, when all that is known is that time has passed.
    pub(super) fn conclude(&self, expected: &Expected, progress: &mut Progress) -> Option<Result<(), Fault>> {
        let answered = u32::try_from(self.answered().count()).unwrap_or(u32::MAX);
        let Some((first, slowest)) = self.answered().next().zip(self.slowest()) else {
            return self.fates.iter().find_map(|fate| match fate {
                Fate::Undelivered(told) => Some(Err(Fault::fail(FailReason::Connect, told.clone()))),
                _ => None,
            });
        };
        // One that we did not get round to says nothing of the target, nor does one that went out so late
        // that as slow an answer as others had could not have come.
        let now = Instant::now();
        let told = |fate: &&Fate| match **fate {
            Fate::Unsent => false,
            Fate::Sent(at) => now.duration_since(at) >= slowest,
            Fate::Answered(_) | Fate::Undelivered(_) => true,
        };
        let sent = self.fates.iter().filter(told).count();
        let unsent = self.fates.len() - sent;
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        let mean = self.answered().sum::<Duration>() / answered;
        add(&mut progress.phases.first_byte_us, first);
        progress.learn("answered", format_args!("{answered} of {sent}"));
        if unsent > 0 {
            progress.learn("not sent in time to be answered", unsent);
        }
        let fastest = self.answered().min().unwrap_or(first);
        progress.learn(
            "round trip",
            format_args!("{:.3} / {:.3} / {:.3} ms (fastest, mean, slowest)", ms(fastest), ms(mean), ms(slowest)),
        );
        expected.judge((sent - answered) * 100, sent, mean, progress);
        Some(Ok(()))
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::icmp::settings::Settings;

    #[test]
    fn a_ping_that_was_not_sent_is_not_lost() {
        let answered = || Fate::Answered(Duration::from_millis(1));
        // Longer ago than the others took.
        let sent = || Fate::Sent(Instant::now().checked_sub(Duration::from_micros(1_500)).expect("the machine runs"));
        let too_late = || Fate::Sent(Instant::now() + Duration::from_mins(1));
        for (fates, told) in [
            (vec![answered(), Fate::Unsent, Fate::Unsent], None),
            (vec![answered(), answered(), Fate::Unsent], None),
            (vec![answered(), sent(), Fate::Unsent], Some("loss: expected at most 0 %, got 50 % of 2 pings")),
            (vec![answered(), answered(), too_late()], None),
            (vec![answered(), sent(), too_late()], Some("loss: expected at most 0 %, got 50 % of 2 pings")),
            (vec![answered(), sent(), sent()], Some("loss: expected at most 0 %, got 66 % of 3 pings")),
        ] {
            let service = json!({"name": "a", "url": "icmp://a.test", "interval": "30s", "expect": {"loss": 0}});
            let settings = Settings::read(&serde_json::from_value(service).expect("settings")).expect("right");
            let pings = Pings { fates: fates.clone(), ..Pings::new(3, TOKEN) };
            let mut progress = Progress::default();
            assert!(matches!(pings.conclude(&settings.expected, &mut progress), Some(Ok(()))), "{fates:?}");
            let verdict = progress.assertions.verdict().map(|fault| fault.detail);
            assert_eq!(verdict.as_deref(), told, "{fates:?}");
        }
    }
}
