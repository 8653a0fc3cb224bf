//! What the processes of a deployment tell each other of themselves, and people.

pub mod show;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use healthmon_adapters::postgres::PostgresNodes;
use healthmon_core::{
    id::Region,
    runtime::{Handle, VitalSigns, clock::SystemClock},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::ServerRole;

/// How often a process reports, and corrects its clock.
const PERIOD: Duration = Duration::from_secs(3);

/// What a process says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    pub(crate) version: String,
    pub(crate) roles: Vec<String>,
    pub(crate) region: Region,
    pub(crate) address: SocketAddr,
    pub(crate) started_at: Timestamp,
    pub(crate) signs: VitalSigns,
}

impl NodeReport {
    pub(crate) fn new(roles: &BTreeSet<ServerRole>, region: &Region, address: SocketAddr, now: Timestamp) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: roles.iter().map(|role| role.as_str().to_owned()).collect(),
            region: region.clone(),
            address,
            started_at: now,
            signs: VitalSigns::default(),
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_else(|error| unreachable!("a report is plain data: {error}"))
    }
}

/// Reports again and again, and keeps the clock to the store's time, until closing.
pub(crate) async fn report(
    nodes: Arc<PostgresNodes>,
    mut report: NodeReport,
    handle: Handle,
    clock: Arc<SystemClock>,
    closing: CancellationToken,
) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        report.signs = handle.signs();
        let told = async {
            clock.follow(&**handle.store()).await?;
            nodes.report(&report.to_json()).await
        };
        tokio::select! {
            () = closing.cancelled() => return,
            told = told => if let Err(error) = told {
                tracing::warn!(%error, "cannot report to the other nodes");
            },
        }
    }
}
