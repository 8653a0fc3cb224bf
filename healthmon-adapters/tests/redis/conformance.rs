//! The contracts, clause by clause.

use std::sync::Arc;

use healthmon_adapters::redis::{RedisBroadcaster, RedisProbeQueue};
use healthmon_core::{
    conformance::{
        TestTime,
        broadcaster::{BroadcasterFixture, BroadcasterSetup},
        queue::{QueueFixture, QueueSetup},
    },
    id::Region,
    memory::QueueLimits,
    ports::{Broadcaster, ProbeQueue},
    runtime::clock::SystemClock,
    shard::ShardCount,
};

use crate::support::options;

fn real_time() -> TestTime {
    TestTime::Real(Arc::new(SystemClock::new()))
}

/// A prefix of its own for each clause; two nodes are two connections.
async fn cut_into(shards: ShardCount, setup: QueueSetup) -> QueueFixture {
    let QueueSetup { capacity, lease_margin, drain_lease } = setup;
    let limits = QueueLimits { capacity, lease_margin, drain_lease };
    let (options, time) = (options(), real_time());
    let connect = async || {
        let regions = vec![Region::default(), Region::new("far-away").expect("a region")];
        let queue = RedisProbeQueue::connect(options.clone(), regions, shards, limits, time.clock());
        Arc::new(queue.await.expect("the queue connects")) as Arc<dyn ProbeQueue>
    };
    QueueFixture::new(connect().await, connect().await, time.clone(), ())
}

async fn usual(setup: QueueSetup) -> QueueFixture {
    cut_into(ShardCount::default(), setup).await
}

async fn in_one_piece(setup: QueueSetup) -> QueueFixture {
    cut_into(ShardCount::new(1).expect("a count"), setup).await
}

async fn broadcaster(_: BroadcasterSetup) -> BroadcasterFixture {
    let options = options();
    let connect = async || {
        Arc::new(RedisBroadcaster::connect(options.clone()).await.expect("the broadcaster connects"))
            as Arc<dyn Broadcaster>
    };
    BroadcasterFixture::new(connect().await, connect().await, real_time(), ())
}

healthmon_core::queue_conformance!(mod queue, usual);
healthmon_core::queue_conformance!(
    /// With one shard everything is in one stream, and in everybody's way.
    mod queue_of_one_shard, in_one_piece);
healthmon_core::broadcaster_conformance!(mod broadcaster_suite, broadcaster);
