//! Connecting: schema, shards, poolers, URLs.

use healthmon_adapters::postgres::{Postgres, PostgresOptions};
use healthmon_core::{ports::StoreError, shard::ShardCount};

use crate::support::{Database, PgBouncer};

#[tokio::test]
async fn ten_that_start_together_bring_the_schema_up_to_date_once() {
    let database = Database::new().await;
    let all = (0..10).map(|_| Postgres::connect(PostgresOptions::new(&database.url)));
    for connected in futures_util::future::join_all(all).await {
        assert_eq!(connected.expect("connected").shards(), ShardCount::default());
    }
}

#[tokio::test]
async fn ten_that_start_together_through_a_pooler_bring_the_schema_up_to_date_once() {
    let database = Database::new().await;
    let bouncer = PgBouncer::before(&database.url);
    let all = (0..10).map(|_| Postgres::connect(PostgresOptions::new(bouncer.url(database.name()))));
    for connected in futures_util::future::join_all(all).await {
        connected.unwrap_or_else(|error| panic!("{error}\n{}", bouncer.log()));
    }
}

#[tokio::test]
async fn a_deployment_keeps_the_shards_that_it_began_with() {
    let database = Database::new().await;
    let with = |count| PostgresOptions { shards: ShardCount::new(count).ok(), ..PostgresOptions::new(&database.url) };
    assert_eq!(Postgres::connect(with(16)).await.expect("connected").shards().get(), 16);
    let other = Postgres::connect(with(32)).await.expect_err("it has 16");
    assert!(matches!(other, StoreError::Permanent(_)), "{other:?}");
    assert!(other.to_string().contains("cut into 16 shards, and not into 32"), "{other}");
    let any = Postgres::connect(PostgresOptions::new(&database.url)).await.expect("connected");
    assert_eq!(any.shards().get(), 16);
}
