//! Connecting: schema, shards, poolers, URLs.

use healthmon_adapters::postgres::{Postgres, PostgresOptions, PostgresResultStore};
use healthmon_core::{
    ports::{ResultStore, StoreError},
    shard::ShardCount,
};

use sqlx::{Connection, PgConnection};

use crate::support::{ALL, Database, PgBouncer, an_hour_ago, assert_holds, batch, execute, registered};

#[tokio::test]
async fn ten_that_start_together_bring_the_schema_up_to_date_once() {
    let database = Database::empty().await;
    let all = (0..10).map(|_| Postgres::connect(PostgresOptions::new(&database.url)));
    for connected in futures_util::future::join_all(all).await {
        assert_eq!(connected.expect("connected").shards(), ShardCount::default());
    }
}

#[tokio::test]
async fn ten_that_start_together_through_a_pooler_bring_the_schema_up_to_date_once() {
    let database = Database::empty().await;
    let bouncer = PgBouncer::before(&database.url);
    let all = (0..10).map(|_| Postgres::connect(PostgresOptions::new(bouncer.url(database.name()))));
    for connected in futures_util::future::join_all(all).await {
        connected.unwrap_or_else(|error| panic!("{error}\n{}", bouncer.log()));
    }
}

#[tokio::test]
async fn a_deployment_keeps_the_shards_that_it_began_with() {
    let database = Database::empty().await;
    let with = |count| PostgresOptions { shards: ShardCount::new(count).ok(), ..PostgresOptions::new(&database.url) };
    assert_eq!(Postgres::connect(with(16)).await.expect("connected").shards().get(), 16);
    let other = Postgres::connect(with(32)).await.expect_err("it has 16");
    assert!(matches!(other, StoreError::Permanent(_)), "{other:?}");
    assert!(other.to_string().contains("cut into 16 shards, and not into 32"), "{other}");
    let any = Postgres::connect(PostgresOptions::new(&database.url)).await.expect("connected");
    assert_eq!(any.shards().get(), 16);
}

#[tokio::test]
async fn a_role_that_owns_its_database_and_nothing_else_is_enough() {
    let database = Database::empty().await;
    let role = format!("{}_owner", database.name());
    execute(&database.url, &format!("CREATE ROLE {role} LOGIN")).await;
    execute(&database.url, &format!("ALTER DATABASE {} OWNER TO {role}", database.name())).await;
    let mut url: url::Url = database.url.parse().expect("a URL");
    url.set_username(&role).expect("a user");
    let store = PostgresResultStore::connect(PostgresOptions::new(url)).await.expect("connected");
    let service = registered(&store, 1).await;
    let results = batch(&service, an_hour_ago(&store).await, 0..20);
    store.record(results.clone()).await.expect("recorded");
    store.sweep(None, ALL).await.expect("swept");
    assert_holds(&store, &service, &results).await;
    let mut watch = PgConnection::connect(&database.url).await.expect("connected");
    let lineage: String =
        sqlx::query_scalar("SELECT lineage FROM head").fetch_one(&mut watch).await.expect("a lineage");
    assert!(lineage.contains('/'), "the server says which timeline it is on: {lineage:?}");
    store.close().await;
    let hand_back = format!(
        "ALTER DATABASE {} OWNER TO CURRENT_USER; REASSIGN OWNED BY {role} TO CURRENT_USER; \
         DROP ROLE {role}",
        database.name()
    );
    execute(&database.url, &hand_back).await;
}
