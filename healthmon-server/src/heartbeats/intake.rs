//! Gathers signs, and writes those that came together at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use healthmon_core::{
    heartbeat::{KeyDigest, Listening, Noted, Report, Run, Sign},
    id::ServiceId,
    ports::{Heartbeats, StoreError},
    runtime::Handle,
};
use metrics::{counter, describe_counter};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    HeartbeatToken,
    allowance::Allowances,
    nudges::{Asker, nudges},
    token::is_key,
};

/// Signs that wait to be written, at most. Some seconds' worth: who comes beyond that comes again.
const WAITING: usize = 8_192;
/// Signs in one transaction, at most.
const BATCH: usize = 1_000;
/// How long the first sign waits for company.
const LINGER: Duration = Duration::from_millis(5);
/// After how long who found no room may come again.
const FULL_FOR: Duration = Duration::from_secs(1);

/// Why a sign was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The token is nobody's.
    Unknown,
    /// The token was used too often; there is another try after this.
    TooOften(Duration),
    /// There is no room, or the store is away; it may be tried again after this.
    Away(Duration),
    /// The store failed for good.
    Failed,
}

impl Refusal {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::TooOften(_) => "too_often",
            Self::Away(_) => "away",
            Self::Failed => "failed",
        }
    }
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Transient { retry_after, .. } => Self::Away(*retry_after),
            _ => Self::Failed,
        }
    }
}

/// What is said with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) report: Report,
    pub(crate) run: Option<Run>,
    pub(crate) message: Option<String>,
}

/// A sign on its way, and who waits for it to be durable.
struct Brought {
    digest: KeyDigest,
    sign: Sign,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

impl Brought {
    fn settle(self, ended: Result<(), Refusal>) {
        if let Err(refusal) = ended {
            count(refusal.as_str());
        }
        // Whoever is gone will ask again.
        self.answer.send(ended).ok();
    }
}

fn count(outcome: &'static str) {
    counter!("healthmon_heartbeats_total", "outcome" => outcome).increment(1);
}

/// Takes signs in.
pub(crate) struct Intake {
    heartbeats: Arc<dyn Heartbeats>,
    handle: Handle,
    allowances: Allowances,
    brought: mpsc::Sender<Brought>,
}

impl Intake {
    /// An intake, and the loops that work for it until it is dropped.
    pub(crate) fn new(heartbeats: Arc<dyn Heartbeats>, handle: Handle) -> (Self, impl Future<Output = ()> + Send) {
        describe_counter!("healthmon_heartbeats_total", "Signs that services reported in with, by what came of them");
        let (sender, brought) = mpsc::channel(WAITING);
        let (asker, nudging) = nudges(handle.clone());
        let writer = Writer { heartbeats: Arc::clone(&heartbeats), brought, asker };
        let listening = listen(Arc::clone(&heartbeats), handle.clone());
        let work = async move {
            tokio::select! {
                _ = async move { tokio::join!(writer.run(), nudging) } => {}
                () = listening => {}
            }
        };
        (Self { heartbeats, handle, allowances: Allowances::default(), brought: sender }, work)
    }

    /// Gives a service a token, in place of the one that it had.
    pub(crate) async fn issue(&self, service: ServiceId) -> Result<HeartbeatToken, StoreError> {
        let token = HeartbeatToken::generate(service).map_err(|error| StoreError::Permanent(Box::new(error)))?;
        self.heartbeats.set_key(service, token.digest()).await?;
        tracing::info!(id = %service, "a token to report in with was issued");
        Ok(token)
    }

    /// Whether this token may be used now.
    pub(crate) fn admit(&self, token: &HeartbeatToken) -> Result<(), Refusal> {
        let taken = self.allowances.take(token.digest(), Instant::now());
        taken.map_err(|wait| {
            let refusal = Refusal::TooOften(wait);
            count(refusal.as_str());
            refusal
        })
    }

    /// Takes what is said with a token; returns once it is durable.
    pub(crate) async fn bring(&self, token: &HeartbeatToken, word: Word) -> Result<(), Refusal> {
        let mut sign = Sign::new(token.service(), self.handle.now(), word.report);
        sign.run = word.run;
        if let Some(message) = &word.message {
            sign = sign.with_message(message);
        }
        let (answer, answered) = oneshot::channel();
        if self.brought.try_send(Brought { digest: token.digest(), sign, answer }).is_err() {
            let refusal = Refusal::Away(FULL_FOR);
            count(refusal.as_str());
            return Err(refusal);
        }
        answered.await.unwrap_or(Err(Refusal::Away(FULL_FOR)))
    }
}

/// Says again and again that signs are taken, for as long as the store takes them. When nobody did is
/// known by that.
async fn listen(heartbeats: Arc<dyn Heartbeats>, handle: Handle) {
    let mut ticks = tokio::time::interval(Listening::PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = heartbeats.listening(handle.now()).await {
            tracing::warn!(%error, "signs cannot be taken for now");
        }
    }
}

/// Writes what the intake took.
struct Writer {
    heartbeats: Arc<dyn Heartbeats>,
    brought: mpsc::Receiver<Brought>,
    asker: Asker,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.brought.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                tokio::time::sleep(LINGER).await;
                while batch.len() < BATCH
                    && let Ok(more) = self.brought.try_recv()
                {
                    batch.push(more);
                }
            }
            self.settle(std::mem::take(&mut batch)).await;
        }
    }

    async fn settle(&self, batch: Vec<Brought>) {
        match self.keys(&batch).await {
            Ok(keys) => {
                let mut known = Vec::with_capacity(batch.len());
                for brought in batch {
                    let kept = keys.get(&brought.sign.service).copied();
                    if bool::from(is_key(brought.digest, kept)) {
                        known.push(brought);
                    } else {
                        brought.settle(Err(Refusal::Unknown));
                    }
                }
                self.note(known).await;
            }
            Err(error) => {
                tracing::warn!(%error, signs = batch.len(), "signs cannot be taken for now");
                batch.into_iter().for_each(|brought| brought.settle(Err(Refusal::from(&error))));
            }
        }
    }

    async fn keys(&self, batch: &[Brought]) -> Result<HashMap<ServiceId, KeyDigest>, StoreError> {
        let mut services: Vec<ServiceId> = batch.iter().map(|brought| brought.sign.service).collect();
        services.sort_unstable();
        services.dedup();
        Ok(self.heartbeats.keys(&services).await?.into_iter().collect())
    }

    /// Notes signs of services that are who they say. A batch that the store refuses is halved until
    /// the one that it refuses is found.
    async fn note(&self, batch: Vec<Brought>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.heartbeats.note(part.iter().map(|brought| brought.sign.clone()).collect()).await {
                Ok(noted) => part.into_iter().zip(noted).for_each(|(brought, noted)| self.tell(brought, noted)),
                Err(StoreError::Refused(_)) if part.len() > 1 => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
                Err(error) => {
                    tracing::warn!(%error, signs = part.len(), "signs cannot be noted");
                    part.into_iter().for_each(|brought| brought.settle(Err(Refusal::from(&error))));
                }
            }
        }
    }

    fn tell(&self, brought: Brought, noted: Noted) {
        let Sign { service, report, .. } = brought.sign;
        if noted.is_a_turn(report) {
            self.asker.ask(service);
        }
        let ended = match noted {
            Noted::Nobody => Err(Refusal::Unknown),
            Noted::Known => {
                count("known");
                Ok(())
            }
            Noted::News { .. } => {
                count(report.as_str());
                Ok(())
            }
        };
        tracing::debug!(id = %service, report = report.as_str(), ?noted, "a service reported in");
        brought.settle(ended);
    }
}
