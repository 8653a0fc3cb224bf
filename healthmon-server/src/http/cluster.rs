//! The deployment as a whole: `/cluster`.

use std::time::Duration;

use axum::extract::State;
use healthmon_core::{
    id::{ClaimEpoch, LogId, Seq},
    shard::Shard,
};
use serde::Serialize;

use super::{Api, Problem, services::Json};
use crate::cluster::NodeReport;

/// The deployment, as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct ClusterView {
    nodes: Vec<NodeView>,
    shards: Vec<ShardView>,
    /// None when it does not answer.
    queue: Option<QueueView>,
    log: LogView,
}

#[derive(Debug, Serialize)]
struct NodeView {
    /// Its number in the ids of services.
    number: u16,
    name: String,
    /// How long ago it was heard of.
    seen_ago_ms: u64,
    /// Whether it is the one that answers.
    answering: bool,
    #[serde(flatten)]
    report: NodeReport,
}

#[derive(Debug, Serialize)]
struct ShardView {
    shard: Shard,
    /// The scheduler that has it: the node's name, and what tells its process starts apart.
    owner: Option<String>,
    epoch: ClaimEpoch,
    /// For how long its lease still runs.
    lease_left_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct QueueView {
    waiting: usize,
    in_flight: usize,
    results: usize,
    /// How long the oldest waiting probe has waited beyond its slot.
    age_ms: u64,
    /// How long the oldest result has waited to be recorded.
    recorder_lag_ms: u64,
}

#[derive(Debug, Serialize)]
struct LogView {
    id: LogId,
    head: Seq,
}

/// How long the queue may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn read(State(api): State<Api>) -> Result<Json<ClusterView>, Problem> {
    let own = NodeReport { signs: api.handle.signs(), ..(*api.report).clone() };
    let (nodes, shards) = match &api.nodes {
        None => {
            let name = api.name.to_string();
            (vec![NodeView { number: 0, name, seen_ago_ms: 0, answering: true, report: own }], Vec::new())
        }
        Some(nodes) => {
            let number = nodes.number().await;
            let mut views = Vec::new();
            for row in nodes.nodes().await? {
                let answering = row.number == number;
                let read = if answering { Ok(own.clone()) } else { serde_json::from_value(row.report) };
                let report = match read {
                    Ok(report) => report,
                    // A newer build may say other things of itself.
                    Err(error) => {
                        tracing::warn!(node = %row.name, %error, "a node's report cannot be understood");
                        continue;
                    }
                };
                let seen_ago_ms = if answering { 0 } else { ms(row.seen_ago) };
                views.push(NodeView { number: row.number, name: row.name, seen_ago_ms, answering, report });
            }
            let shard = |row: healthmon_adapters::postgres::ShardRow| ShardView {
                shard: row.shard,
                owner: row.owner,
                epoch: row.epoch,
                lease_left_ms: row.lease_left.map(ms),
            };
            (views, nodes.shards().await?.into_iter().map(shard).collect())
        }
    };
    let depth = match tokio::time::timeout(PATIENCE, api.handle.queue().depth()).await {
        Ok(Ok(depth)) => Some(depth),
        // All the rest is of interest above all then.
        Ok(Err(error)) => {
            tracing::debug!(%error, "the queue does not say how full it is");
            None
        }
        Err(_) => None,
    };
    let head = api.handle.store().head().await?;
    Ok(Json(ClusterView {
        nodes,
        shards,
        queue: depth.map(|depth| QueueView {
            waiting: depth.waiting,
            in_flight: depth.in_flight,
            results: depth.results,
            age_ms: ms(depth.oldest),
            recorder_lag_ms: ms(depth.oldest_result),
        }),
        log: LogView { id: head.log, head: head.head },
    }))
}
