//! A program that monitors a service by itself and calls back when its status changes.
//!
//! `cargo run --example embed -- https://example.org/`

use std::{sync::Arc, time::Duration};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
};
use healthmon_core::{
    runtime::Monitor,
    service::{Interval, Label, ServiceSettings},
    status::{LogEvent, Transition},
};

#[expect(clippy::print_stdout, reason = "an example shows what happens")]
fn on_change(transition: Transition, why: &str) {
    println!("{} -> {} {why}", transition.from, transition.to);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "https://example.org/".to_owned());
    // Without this line targets on this machine are refused.
    let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() })?;
    let monitor = Monitor::builder().prober(Arc::new(prober)).build()?;
    let handle = monitor.handle();

    let interval = Interval::new(Duration::from_secs(2))?;
    handle.register(ServiceSettings::new(Label::new("the service")?, url.parse()?, interval)).await?;

    let mut log = handle.log(Default::default());
    let watching = async {
        while let Ok(entry) = log.next().await {
            if let LogEvent::Transition(transition) = entry.event {
                on_change(transition, entry.detail.as_deref().unwrap_or_default());
            }
        }
    };
    let shutdown = async {
        tokio::select! {
            () = watching => {}
            () = tokio::time::sleep(Duration::from_secs(15)) => {}
        }
    };
    monitor.run(shutdown).await?;
    Ok(())
}
