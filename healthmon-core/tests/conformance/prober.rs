//! A prober as small as can be, which shows that the prober's suite can be passed: it connects,
//! says a word, and passes when the answer begins with `ok`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    conformance::prober::{ProberFixture, ProberSetup},
    ports::Prober,
    probe::{FailReason, Observation, Outcome, Probe},
    service::{FieldErrors, Interval, Label, ServiceSettings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

pub(crate) struct WordProber;

impl WordProber {
    pub(crate) fn address(probe: &Probe) -> (String, u16) {
        let url = probe.service.settings.url.url();
        (url.host_str().unwrap_or_default().to_owned(), url.port().unwrap_or_default())
    }

    async fn ask(probe: &Probe) -> Result<(), FailReason> {
        let (host, port) = Self::address(probe);
        let mut stream = TcpStream::connect((host.as_str(), port)).await.map_err(|_| FailReason::Connect)?;
        stream.write_all(b"are you well?\n").await.map_err(|_| FailReason::Protocol)?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.map_err(|_| FailReason::Protocol)?;
        if &answer == b"ok" { Ok(()) } else { Err(FailReason::Assertion) }
    }
}

#[async_trait]
impl Prober for WordProber {
    fn schemes(&self) -> &[&'static str] {
        &["word"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        match settings.options.to_map().keys().next() {
            None => Ok(()),
            Some(section) => Err(FieldErrors::one(section, "is not a known section")),
        }
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let (begun, timeout) = (Instant::now(), probe.service.settings.timeout.get());
        let outcome = match tokio::time::timeout(timeout, Self::ask(probe)).await {
            Ok(Ok(())) => Outcome::Pass,
            Ok(Err(reason)) => Outcome::Fail(reason),
            Err(_) => Outcome::Fail(FailReason::Timeout),
        };
        Observation::new(outcome, begun.elapsed().min(timeout)).with_detail("asked for a word")
    }
}

pub(crate) fn settings(address: SocketAddr) -> ServiceSettings {
    let url = format!("word://{address}").parse().expect("a target");
    let interval = Interval::new(Duration::from_secs(60)).expect("an interval");
    ServiceSettings::new(Label::new("word").expect("a name"), url, interval)
}

pub(crate) async fn word_prober(_: ProberSetup) -> ProberFixture {
    ProberFixture { prober: Arc::new(WordProber), settings: Box::new(settings) }
}

healthmon_core::prober_conformance!(mod suite, word_prober);
