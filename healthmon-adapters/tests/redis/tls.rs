//! Redis behind TLS, with certificates made for the test.

use std::{path::Path, time::Duration};

use healthmon_adapters::{
    redis::{RedisBroadcaster, RedisProbeQueue},
    servers::{PrivateRedis, free_port},
};
use healthmon_core::{
    memory::QueueLimits,
    ports::{Broadcaster, ProbeQueue, QueueError},
    shard::ShardCount,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::{at, clock, connect, ids, ids_of, now, probes, pull, region};

/// Writes an authority's certificate, and one for `name` that it signed.
fn certificates(folder: &Path, name: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let signed = params.signed_by(&own, &issuer).expect("a certificate").pem();
    for (file, text) in [("ca.pem", authority), ("cert.pem", signed), ("key.pem", own.serialize_pem())] {
        std::fs::write(folder.join(file), text).expect("written");
    }
}

/// A server with TLS on a port of its own, for `name`.
fn server(folder: &Path, name: &str) -> (PrivateRedis, u16) {
    certificates(folder, name);
    let port = free_port().expect("a port");
    let file = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
    let server = PrivateRedis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("cert.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    (server.expect("Redis starts with TLS"), port)
}

#[tokio::test]
async fn all_goes_over_tls_with_an_authority_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, port) = server(folder.path(), "localhost");
    let mut options = at(&format!("rediss://localhost:{port}/1"));
    options.ca_file = Some(folder.path().join("ca.pem"));
    let queue = connect(&options).await;
    let batch = probes(1..=100, now());
    let (taken, enqueued) =
        tokio::join!(queue.pull(crate::support::ALL, Duration::from_secs(10)), queue.enqueue(batch.clone()));
    assert_eq!(enqueued.unwrap().accepted, 100);
    let mut taken = taken.unwrap();
    taken.extend(pull(&queue).await);
    assert_eq!(ids(&taken), ids_of(&batch));
    let broadcaster = RedisBroadcaster::connect(options).await.unwrap();
    drop(broadcaster.subscribe());
}

async fn refused(options: healthmon_adapters::redis::RedisOptions) -> QueueError {
    let queue = RedisProbeQueue::connect(
        options,
        vec![region("local")],
        ShardCount::default(),
        QueueLimits::default(),
        clock(),
    );
    let queue = tokio::time::timeout(Duration::from_secs(30), queue).await.expect("it does not hang");
    queue.map(drop).expect_err("it must not connect")
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, port) = server(folder.path(), "localhost");
    let error = refused(at(&format!("rediss://localhost:{port}"))).await;
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, port) = server(folder.path(), "elsewhere.example");
    let mut options = at(&format!("rediss://localhost:{port}"));
    options.ca_file = Some(folder.path().join("ca.pem"));
    let error = refused(options).await;
    assert!(error.to_string().to_lowercase().contains("name"), "{error}");
}

#[tokio::test]
async fn a_socket_of_the_file_system_serves_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let _server = PrivateRedis::start_with(&["--unixsocket", socket.to_str().unwrap()]).unwrap();
    let queue = connect(&at(&format!("unix://{}", socket.display()))).await;
    assert_eq!(queue.enqueue(probes(1..=5, now())).await.unwrap().accepted, 5);
    assert_eq!(pull(&queue).await.len(), 5);
}
