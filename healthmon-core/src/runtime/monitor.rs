use std::{future::Future, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    AmbiguousScheme, Canary, Handle, Probers, ServiceIds,
    clock::SystemClock,
    edges::{self, EdgeInbox, EdgeNews, Edges},
    handle::Shared,
    recorder::Recorder,
    sweeper::Sweeper,
    tick::Tick,
    watchers::{self, WatchInbox, WatchNews, Watchers},
    worker::Worker,
};
use crate::{
    memory::{LocalScheduler, MemoryBroadcaster, MemoryProbeQueue, MemoryResultStore, QueueLimits, StoreLimits},
    ports::{Broadcaster, Clock, ConsumerId, ProbeQueue, Prober, ResultStore, Scheduler},
    service::{FieldErrors, Regions},
};

/// A part of a monitor that a process can play by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Says what fell due and enqueues it.
    Scheduler,
    /// Performs probes.
    Worker,
    /// Records results, and sweeps.
    Recorder,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Scheduler, Self::Worker, Self::Recorder];
}

/// Numbers to turn; what is out of all proportion is cut (a million probes at once, an hour). The defaults serve from one service to a hundred thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Probes under way at once.
    pub concurrency: NonZeroUsize,
    /// Probes under way at once that wait on the same host and port; by default a quarter of the
    /// [`concurrency`](Self::concurrency), and 16 at least. As many more wait for their turn, for
    /// two seconds at most; what is beyond that becomes `Indeterminate(crowded)`.
    pub per_host: Option<NonZeroUsize>,
    /// Probes that the scheduler is asked for at a time.
    pub due_batch: NonZeroUsize,
    /// Results in one transaction, at most.
    pub record_batch: NonZeroUsize,
    /// How long a transaction of results that merely pass waits for company: fewer commits, but
    /// those results that much later. A failure, or a probe out of turn, does not wait.
    pub record_linger: Duration,
    /// How long the sweep rests between two passes.
    pub sweep_period: Duration,
    /// How long each stage of a shutdown may take: probes under way, then results on their way.
    pub drain: Duration,
}

impl Tuning {
    /// More probes at once than any machine has sockets for.
    const MOST_AT_ONCE: usize = 1_000_000;
    /// The least that a host is given by default.
    const LEAST_PER_HOST: usize = 16;
    /// The longest linger, sweep period or drain.
    const LONGEST: Duration = Duration::from_hours(1);

    /// These numbers, each within what the loops can work with.
    fn bounded(self) -> Self {
        let at_once = NonZeroUsize::new(Self::MOST_AT_ONCE).unwrap_or(NonZeroUsize::MIN);
        Self {
            concurrency: self.concurrency.min(at_once),
            record_linger: self.record_linger.min(Self::LONGEST),
            sweep_period: self.sweep_period.min(Self::LONGEST),
            drain: self.drain.min(Self::LONGEST),
            ..self
        }
    }
}

impl Tuning {
    /// How many probes under way may wait on the same host.
    fn places_per_host(self) -> NonZeroUsize {
        let quarter = NonZeroUsize::new((self.concurrency.get() / 4).max(Self::LEAST_PER_HOST));
        self.per_host.or(quarter).unwrap_or(NonZeroUsize::MIN).min(self.concurrency)
    }
}

impl Default for Tuning {
    fn default() -> Self {
        let count = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            concurrency: count(4_096),
            per_host: None,
            due_batch: count(5_000),
            record_batch: count(2_000),
            record_linger: Duration::from_millis(250),
            sweep_period: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why a monitor cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing was given that could perform a probe.
    #[error("a monitor needs at least one prober")]
    NoProber,
    /// Two probers take the same scheme.
    #[error(transparent)]
    AmbiguousScheme(#[from] AmbiguousScheme),
    /// A canary's target cannot be probed.
    #[error("the canary is wrong: {0}")]
    Canary(FieldErrors),
}

/// Why a monitor stopped without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A loop panicked: a bug in the monitor or in an adapter.
    #[error("a loop of the monitor panicked")]
    Panicked,
}

/// Puts a monitor together. What is not given is in memory.
#[derive(Default)]
pub struct MonitorBuilder {
    scheduler: Option<Arc<dyn Scheduler>>,
    store: Option<Arc<dyn ResultStore>>,
    queue: Option<Arc<dyn ProbeQueue>>,
    probers: Vec<Arc<dyn Prober>>,
    canary: Option<Canary>,
    broadcaster: Option<Arc<dyn Broadcaster>>,
    clock: Option<Arc<dyn Clock>>,
    regions: Regions,
    tuning: Tuning,
    node: u16,
    name: Option<Box<str>>,
}

impl MonitorBuilder {
    /// What says which probes fell due; by default every service of the store, from this process.
    #[must_use]
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// What keeps services, results and transitions; by default memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn ResultStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// What carries probes to workers and results back; by default memory.
    #[must_use]
    pub fn queue(mut self, queue: Arc<dyn ProbeQueue>) -> Self {
        self.queue = Some(queue);
        self
    }

    /// What performs probes of its schemes. May be called for several.
    #[must_use]
    pub fn prober(mut self, prober: Arc<dyn Prober>) -> Self {
        self.probers.push(prober);
        self
    }

    /// By what workers know that their own network is there, see [`Canary`]; by default every failure
    /// counts as the target's.
    #[must_use]
    pub fn canary(mut self, canary: Canary) -> Self {
        self.canary = Some(canary);
        self
    }

    /// What tells other loops and nodes of news; by default memory.
    #[must_use]
    pub fn broadcaster(mut self, broadcaster: Arc<dyn Broadcaster>) -> Self {
        self.broadcaster = Some(broadcaster);
        self
    }

    /// What tells the time; by default the machine's clock. Give the store the same.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The regions that services may be probed from; by default `local` alone.
    #[must_use]
    pub fn regions(mut self, regions: Regions) -> Self {
        self.regions = regions;
        self
    }

    /// Numbers to turn.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// This node's number, 0 to 1023, which no other node of the deployment has: part of the ids
    /// of services registered here.
    #[must_use]
    pub fn node(mut self, node: u16) -> Self {
        self.node = node;
        self
    }

    /// What this process is called where several drain one queue's results.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Puts it together.
    ///
    /// # Errors
    /// When there is no prober, or two for one scheme, or a canary that none of them can probe.
    pub fn build(self) -> Result<Monitor, BuildError> {
        let mut probers = Probers::default();
        for prober in self.probers {
            probers.add(prober)?;
        }
        if probers.is_empty() {
            return Err(BuildError::NoProber);
        }
        if let Some(canary) = &self.canary {
            canary.check(&probers).map_err(BuildError::Canary)?;
        }
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::new()));
        let store =
            self.store.unwrap_or_else(|| Arc::new(MemoryResultStore::new(Arc::clone(&clock), StoreLimits::default())));
        let queue =
            self.queue.unwrap_or_else(|| Arc::new(MemoryProbeQueue::new(Arc::clone(&clock), QueueLimits::default())));
        let scheduler = self.scheduler.unwrap_or_else(|| Arc::new(LocalScheduler::new(Arc::clone(&store))));
        let broadcaster = self.broadcaster.unwrap_or_else(|| Arc::new(MemoryBroadcaster::default()));
        let ids = ServiceIds::new(Arc::clone(&clock), self.node);
        let vitals = Arc::default();
        let shared = Shared { store, queue, broadcaster, clock, vitals, probers, regions: self.regions, ids };
        let name = self.name.unwrap_or_else(|| "monitor".into());
        let (handle, tuning, canary) = (Handle::new(Arc::new(shared)), self.tuning.bounded(), self.canary);
        Ok(Monitor { scheduler, handle, canary, tuning, name })
    }
}

/// An assembled monitor: its loops run while [`run`](Self::run) is awaited.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use healthmon_core::{ports::Prober, probe::*, service::*, runtime::Monitor};
/// # struct AlwaysUp;
/// # #[async_trait::async_trait]
/// # impl Prober for AlwaysUp {
/// #     fn schemes(&self) -> &[&'static str] { &["test"] }
/// #     fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> { Ok(()) }
/// #     async fn probe(&self, _: &Probe) -> Observation { Observation::new(Outcome::Pass, Duration::ZERO) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let monitor = Monitor::builder().prober(Arc::new(AlwaysUp)).build()?;
/// let handle = monitor.handle();
/// let mut log = handle.log(Default::default());
/// let service = handle.register(serde_json::from_value(
///     serde_json::json!({"name": "shop", "url": "test://shop", "interval": "1s"}),
/// )?).await?;
/// let first = async { log.next().await };
/// let entry = tokio::select! {
///     entry = first => entry?,
///     ended = monitor.run(std::future::pending()) => return Ok(ended?),
/// };
/// assert_eq!(entry.service.id, service.id);
/// # Ok(())
/// # }
/// ```
pub struct Monitor {
    scheduler: Arc<dyn Scheduler>,
    handle: Handle,
    canary: Option<Canary>,
    tuning: Tuning,
    name: Box<str>,
}

impl Monitor {
    /// Begins to put a monitor together.
    pub fn builder() -> MonitorBuilder {
        MonitorBuilder::default()
    }

    /// What registers, pauses, lists and queries while the monitor runs, and before.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs every role until `shutdown` resolves, then drains.
    ///
    /// # Errors
    /// [`RunError::Panicked`] when a loop panicked; the others were drained then too.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        self.run_roles(&Role::ALL, shutdown).await
    }

    /// Runs some roles until `shutdown` resolves, then drains: first nothing new is scheduled, then
    /// the probes under way come to their end, then their results are recorded.
    ///
    /// # Errors
    /// [`RunError::Panicked`] when a loop panicked; the others were drained then too.
    pub async fn run_roles(self, roles: &[Role], shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let mut stages = [Stage::default(), Stage::default(), Stage::default()];
        let [scheduling, working, recording] = &mut stages;
        if roles.contains(&Role::Scheduler) {
            scheduling.spawn(|stop| self.tick().run(stop));
        }
        if roles.contains(&Role::Worker) {
            let (news, inbox) = watchers::channel();
            working.spawn(|stop| self.worker(news).run(stop));
            working.spawn(|stop| self.watchers(inbox).run(stop));
        }
        if roles.contains(&Role::Recorder) {
            let (news, inbox) = edges::channel();
            recording.spawn(|stop| self.recorder(news).run(stop));
            scheduling.spawn(|stop| self.edges(inbox).run(stop));
            scheduling.spawn(|stop| self.sweeper().run(stop));
        }
        let [scheduling, working, recording] = &mut stages;
        let told = tokio::select! {
            () = shutdown => Ok(()),
            () = scheduling.broken() => Err(RunError::Panicked),
            () = working.broken() => Err(RunError::Panicked),
            () = recording.broken() => Err(RunError::Panicked),
        };
        let mut ended = told;
        for stage in &mut stages {
            if stage.end().await.is_err() {
                ended = Err(RunError::Panicked);
            }
        }
        ended
    }

    fn tick(&self) -> Tick {
        let shared = &self.handle.shared;
        Tick {
            scheduler: Arc::clone(&self.scheduler),
            queue: Arc::clone(&shared.queue),
            broadcaster: Arc::clone(&shared.broadcaster),
            clock: Arc::clone(&shared.clock),
            vitals: Arc::clone(&shared.vitals),
            batch: self.tuning.due_batch,
        }
    }

    fn watchers(&self, inbox: WatchInbox) -> Watchers {
        let shared = &self.handle.shared;
        Watchers {
            probers: shared.probers.clone(),
            queue: Arc::clone(&shared.queue),
            store: Arc::clone(&shared.store),
            clock: Arc::clone(&shared.clock),
            inbox,
        }
    }

    fn worker(&self, watchers: WatchNews) -> Worker {
        let shared = &self.handle.shared;
        Worker {
            queue: Arc::clone(&shared.queue),
            probers: shared.probers.clone().telling(watchers),
            clock: Arc::clone(&shared.clock),
            vitals: Arc::clone(&shared.vitals),
            canary: self.canary.clone(),
            concurrency: self.tuning.concurrency,
            per_host: self.tuning.places_per_host(),
            wait: Duration::from_secs(1),
            drain: self.tuning.drain,
        }
    }

    fn edges(&self, inbox: EdgeInbox) -> Edges {
        let shared = &self.handle.shared;
        Edges {
            store: Arc::clone(&shared.store),
            queue: Arc::clone(&shared.queue),
            clock: Arc::clone(&shared.clock),
            vitals: Arc::clone(&shared.vitals),
            inbox,
        }
    }

    fn recorder(&self, edges: EdgeNews) -> Recorder {
        let shared = &self.handle.shared;
        Recorder {
            queue: Arc::clone(&shared.queue),
            store: Arc::clone(&shared.store),
            broadcaster: Arc::clone(&shared.broadcaster),
            clock: Arc::clone(&shared.clock),
            vitals: Arc::clone(&shared.vitals),
            edges: Some(edges),
            consumer: ConsumerId(
                format!("{}-{}-{}", self.name, std::process::id(), shared.clock.now().as_micros()).into(),
            ),
            batch: self.tuning.record_batch,
            linger: self.tuning.record_linger,
            wait: Duration::from_secs(1),
            drain: self.tuning.drain,
        }
    }

    fn sweeper(&self) -> Sweeper {
        let shared = &self.handle.shared;
        Sweeper {
            store: Arc::clone(&shared.store),
            queue: Arc::clone(&shared.queue),
            broadcaster: Arc::clone(&shared.broadcaster),
            vitals: Arc::clone(&shared.vitals),
            period: self.tuning.sweep_period,
            batch: self.tuning.record_batch,
        }
    }
}

/// Loops that are stopped together.
#[derive(Default)]
struct Stage {
    stop: CancellationToken,
    loops: JoinSet<()>,
}

impl Stage {
    fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, run: impl FnOnce(CancellationToken) -> F) {
        self.loops.spawn(run(self.stop.clone()));
    }

    /// Waits until a loop ends, which without being stopped it does only by a panic.
    async fn broken(&mut self) {
        if self.loops.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    async fn end(&mut self) -> Result<(), RunError> {
        self.stop.cancel();
        let mut ended = Ok(());
        while let Some(joined) = self.loops.join_next().await {
            if joined.is_err() {
                ended = Err(RunError::Panicked);
            }
        }
        ended
    }
}
