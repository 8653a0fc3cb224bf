use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    conformance::prober::{ProberFixture, ProberSetup},
    ports::Prober,
    probe::{FailReason, Observation, Outcome, Probe},
    service::{FieldErrors, ServiceSettings},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::prober::{WordProber, settings, word_prober};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Overruns,
    GoesOnWhenDropped,
    Panics,
    RepeatsTheBody,
    TakesAnySection,
}

/// The prober of words, with one fault.
struct Faulty(Fault);

async fn with(fault: Fault, _: ProberSetup) -> ProberFixture {
    ProberFixture { prober: Arc::new(Faulty(fault)), settings: Box::new(settings) }
}

async fn body(probe: &Probe) -> String {
    let (host, port) = WordProber::address(probe);
    let mut body = Vec::new();
    if let Ok(mut stream) = TcpStream::connect((host, port)).await {
        stream.read_to_end(&mut body).await.ok();
    }
    String::from_utf8_lossy(&body).into_owned()
}

#[async_trait]
impl Prober for Faulty {
    fn schemes(&self) -> &[&'static str] {
        WordProber.schemes()
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        if self.0 == Fault::TakesAnySection { Ok(()) } else { WordProber.check(settings) }
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        match self.0 {
            Fault::Overruns => {
                let seen = WordProber.probe(probe).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                seen
            }
            Fault::GoesOnWhenDropped => {
                let (probe, timeout) = (probe.clone(), probe.service.settings.timeout.get());
                let task = tokio::spawn(async move { body(&probe).await });
                // It returns in time; what it has begun goes on.
                tokio::time::timeout(timeout, task).await.ok();
                Observation::new(Outcome::Fail(FailReason::Protocol), Duration::ZERO)
            }
            Fault::Panics => match WordProber.probe(probe).await {
                seen if seen.outcome == Outcome::Fail(FailReason::Connect) => panic!("connection refused"),
                seen => seen,
            },
            Fault::RepeatsTheBody => {
                let body = body(probe).await;
                Observation::new(Outcome::Fail(FailReason::Assertion), Duration::ZERO).with_detail(&body)
            }
            Fault::TakesAnySection => WordProber.probe(probe).await,
        }
    }
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { prober {
    a_prober_that_overruns: "prober that returns behind its deadline" =>
        a_target_that_hangs_is_a_failure_by_the_deadline, faulty!(Overruns), word_prober;
    a_prober_that_goes_on_when_dropped: "prober whose sockets stay open when it is dropped" =>
        a_dropped_probe_closes_its_sockets, faulty!(GoesOnWhenDropped), word_prober;
    a_prober_that_panics: "prober that panics when a connection is refused" =>
        a_refused_connection_is_a_failure, faulty!(Panics), word_prober;
    a_prober_that_repeats_the_body: "prober that puts the target's answer into the detail" =>
        garbage_is_a_failure_and_is_not_repeated_in_the_detail, faulty!(RepeatsTheBody), word_prober;
    a_prober_that_takes_any_section: "prober that takes sections it does not know" =>
        it_takes_its_own_settings_and_refuses_sections_it_does_not_know, faulty!(TakesAnySection), word_prober;
} }
