//! Pings.
//!
//! Each probe has a socket of its own, connected to an address that the policy allowed: one for
//! datagrams where the system gives those to anybody, else a raw one. What comes must be about
//! what was sent: its number, and sixteen random bytes that were sent along, so that probes under
//! way at once, and other programs, do not see each other's replies.
//!
//! The sockets are set up here rather than by a library for pings: only so does the kernel tell
//! an unprivileged socket of hosts that cannot be reached (`IP_RECVERR`).

#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod packet;
mod pings;
mod settings;
mod socket;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};

use crate::{
    net::{
        Dialer, Progress, Stage,
        attempt::{Attempt, Fault},
        host::borrowed,
    },
    prepared::Prepared,
};
use pings::Pings;
use settings::{Family, Settings};
use socket::EchoSocket;

/// Pings hosts.
///
/// A probe passes when at least one ping is answered and the expectations are met. Its latency is
/// that of the whole probe; the phase `first_byte` is the first answer's round trip.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # let settings = serde_json::json!({ "name": "router", "url": "icmp://192.0.2.1", "interval": "30s",
/// "icmp": {
///   "count": 5,             // 3; how many pings: 1 to 10
///   "interval": "100ms",    // 200ms; from one to the next: 10ms to 10s
///   "size": 1000,           // 56; bytes sent along: 16 to 1472
///   "ip": "v6"              // either; v4, v6
/// },
/// "expect": {
///   "loss": {"fail": 40, "degraded": 0},               // percent that may be lost; 40 is short for {"fail": 40}
///   "round_trip": {"fail": "1s", "degraded": "100ms"}  // of the mean; "1s" is short for {"fail": "1s"}
/// }
/// # });
/// # use healthmon_core::ports::Prober;
/// # let prober = healthmon_adapters::icmp::IcmpProber::new(Default::default());
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Silence is `timeout`; a router or host that says that there is no way is `connect`, with what
/// it said and its code; too much loss is `assertion`.
///
/// # Permission
///
/// Linux gives sockets for pings to processes whose group is in the range of the sysctl
/// `net.ipv4.ping_group_range` (`0 2147483647` is everybody; it counts for IPv6 too), and raw ones
/// to those with `CAP_NET_RAW`. A process that gets neither reports `permission`, which says
/// nothing about the target.
#[derive(Debug)]
pub struct IcmpProber {
    dialer: Arc<Dialer>,
    prepared: Prepared<Settings>,
}

impl IcmpProber {
    /// A prober of addresses that `dialer`'s policy allows, found by its resolver.
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Self { dialer, prepared: Prepared::default() }
    }

    async fn perform(&self, probe: &Probe, mut progress: Progress) -> Inspection {
        let attempt = Attempt::begin(probe);
        let settings = match self.prepared.of(&probe.service) {
            Ok(settings) => settings,
            Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
        };
        let attempt = attempt.measured_from_now();
        let mut pings = Pings::new(settings.count, settings.size);
        let mut ended = attempt.limit(self.run(&settings, &mut pings, &mut progress)).await;
        // What came before the deadline is judged, whatever did not.
        if ended.is_err()
            && let Some(judged) = pings.conclude(&settings.expected, &mut progress)
        {
            ended = Ok(judged);
        }
        attempt.inspected(ended, progress, &settings.expectations)
    }

    async fn run(&self, settings: &Settings, pings: &mut Pings, progress: &mut Progress) -> Result<(), Fault> {
        let addresses = self.dialer.addresses(borrowed(&settings.host), 0, progress).await?;
        let found = addresses.len();
        let addresses: Vec<SocketAddr> =
            addresses.into_iter().filter(|address| settings.family.holds(address)).collect();
        let Some((&last, earlier)) = addresses.split_last() else {
            let detail = format!("none of the host's {found} addresses is of {}", settings.family.as_str());
            return Err(Fault::fail(FailReason::Dns, detail));
        };
        progress.stage = Stage::Answer;
        for &address in earlier {
            // One that we have no way to leaves it to the next.
            if let Ok(socket) = EchoSocket::open(address)
                && socket.send(&pings.packet(0, &socket)).await.is_ok()
            {
                return self.ping(&socket, settings, pings, progress).await;
            }
        }
        let socket = EchoSocket::open(last)?;
        socket.send(&pings.packet(0, &socket)).await.map_err(|error| socket.no_way(error))?;
        self.ping(&socket, settings, pings, progress).await
    }

    /// The first ping is on its way.
    async fn ping(
        &self,
        socket: &EchoSocket,
        settings: &Settings,
        pings: &mut Pings,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        progress.learn("address", socket.address().ip());
        progress.learn("socket", socket.kind());
        pings.exchange(socket, settings.interval).await?;
        // The fate of all of them is known by now. Were it not, that would be no reason to pass.
        let silence = || Err(Fault::fail(FailReason::Timeout, "no ping was answered"));
        pings.conclude(&settings.expected, progress).unwrap_or_else(silence)
    }
}

#[async_trait]
impl Prober for IcmpProber {
    fn schemes(&self) -> &[&'static str] {
        &["icmp"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::read(settings).map(drop)
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}

impl Family {
    const fn holds(self, address: &SocketAddr) -> bool {
        match self {
            Self::Either => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}
