//! Silence is shown, and never counted as UP.

use std::{sync::Arc, time::Duration};

use healthmon_core::{
    ports::ResultStore,
    runtime::Role,
    status::{Edge, LogEvent, Overlay, Status},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{ALL, Up, World};

/// `stopped` roles run in a process of their own, which stops and comes back; the others go on.
async fn what_stops_shows_as_blind(others: &'static [Role], stopped: &'static [Role]) {
    let world = World::new();
    let scheduling = world.monitor(Arc::new(Up)).build().unwrap();
    let working = world.monitor(Arc::new(Up)).build().unwrap();
    let handle = scheduling.handle();
    let (all, workers) = (CancellationToken::new(), CancellationToken::new());
    let service = handle
        .register(serde_json::from_value(json!({"name": "shop", "url": "test://shop", "interval": "10s"})).unwrap())
        .await
        .unwrap();
    let (all_stop, workers_stop) = (all.clone(), workers.clone());
    let running = tokio::spawn(async move { scheduling.run_roles(others, all_stop.cancelled()).await });
    let worker = tokio::spawn(async move { working.run_roles(stopped, workers_stop.cancelled()).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let view = handle.service(service.id).await.unwrap().unwrap();
    assert_eq!((view.status, view.overlays.as_slice()), (Status::Up, [].as_slice()));

    workers.cancel();
    worker.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let view = handle.service(service.id).await.unwrap().unwrap();
    assert_eq!((view.status, view.overlays.as_slice()), (Status::Up, [Overlay::Blind].as_slice()));

    let workers = CancellationToken::new();
    let (stop, working) = (workers.clone(), world.monitor(Arc::new(Up)).build().unwrap());
    let worker = tokio::spawn(async move { working.run_roles(stopped, stop.cancelled()).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    let view = handle.service(service.id).await.unwrap().unwrap();
    assert_eq!((view.status, view.overlays.as_slice()), (Status::Up, [].as_slice()));
    let log = world.store.log(Default::default(), ALL).await.unwrap();
    let blind = |edge| LogEvent::Overlay { overlay: Overlay::Blind, edge };
    let events: Vec<_> = log.into_iter().skip(1).map(|entry| entry.event).collect();
    assert_eq!(events, [blind(Edge::Began), blind(Edge::Ended)]);
    workers.cancel();
    all.cancel();
    worker.await.unwrap().unwrap();
    running.await.unwrap().unwrap();
}

/// Probes expire in the queue, and come back saying nothing.
#[tokio::test(start_paused = true)]
async fn when_all_workers_stop_services_are_shown_as_blind_until_they_return() {
    what_stops_shows_as_blind(&[Role::Scheduler, Role::Recorder], &[Role::Worker]).await;
}

/// Nothing comes back at all, and the sweep notices.
#[tokio::test(start_paused = true)]
async fn when_scheduling_stops_as_well_the_sweep_shows_services_as_blind() {
    what_stops_shows_as_blind(&[Role::Recorder], &[Role::Scheduler, Role::Worker]).await;
}
