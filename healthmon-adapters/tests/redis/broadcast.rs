//! Hints across nodes and outages.

use std::time::Duration;

use healthmon_adapters::{redis::RedisBroadcaster, servers::PrivateRedis};
use healthmon_core::{
    id::Revision,
    ports::{Broadcaster, Hint, Hints},
};

use crate::support::{at, say, until};

async fn hear(hints: &mut Hints) -> Option<Hint> {
    tokio::time::timeout(Duration::from_millis(100), hints.next()).await.ok().flatten()
}

/// Publishes until the other side hears the last word.
async fn reaches(from: &RedisBroadcaster, to: &mut Hints, number: u64) -> Vec<Hint> {
    let (mut heard, last) = (Vec::new(), Hint::Services(Revision(number)));
    until("the hint comes through", async || {
        from.publish(last.clone());
        while let Some(hint) = hear(to).await {
            heard.push(hint);
        }
        heard.contains(&last).then_some(())
    })
    .await;
    heard
}

#[tokio::test]
async fn after_an_outage_subscribers_are_told_that_hints_were_lost_and_hear_again() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let here = RedisBroadcaster::connect(options.clone()).await.unwrap();
    let there = RedisBroadcaster::connect(options).await.unwrap();
    let (mut near, mut far) = (here.subscribe(), there.subscribe());
    assert!(!reaches(&here, &mut far, 1).await.contains(&Hint::Lost), "nothing is lost to begin with");
    server.kill().unwrap();
    here.publish(Hint::Services(Revision(2)));
    until("one's own node hears at once", async || {
        hear(&mut near).await.filter(|hint| *hint == Hint::Services(Revision(2)))
    })
    .await;
    server.resume().unwrap();
    let heard = reaches(&here, &mut far, 3).await;
    assert!(heard.contains(&Hint::Lost), "{heard:?}");
    assert!(!heard.contains(&Hint::Services(Revision(2))), "hints are not kept: {heard:?}");
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_loss() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let channel = format!("{{{}}}:hints", options.prefix);
    let broadcaster = RedisBroadcaster::connect(options).await.unwrap();
    let mut hints = broadcaster.subscribe();
    let messages = [
        "garbage",
        r#"'{"node":"other","hints":[[1,{"of_a_newer_version":1}]]}'"#,
        // The second is missing; the third is said twice.
        r#"'{"node":"other","hints":[[3,{"services":9}]]}'"#,
        r#"'{"node":"other","hints":[[3,{"services":9}],[4,"lost"]]}'"#,
    ];
    for message in messages {
        assert_eq!(say(&server, &format!("PUBLISH {channel} {message}")), ":1\r\n");
    }
    let mut heard = Vec::new();
    until("all are heard", async || {
        heard.extend(hear(&mut hints).await);
        (heard.len() == 5).then_some(())
    })
    .await;
    let nine = Hint::Services(Revision(9));
    assert_eq!(heard, [Hint::Lost, Hint::Lost, Hint::Lost, nine, Hint::Lost]);
    assert_eq!(hear(&mut hints).await, None);
}

#[tokio::test]
async fn a_broadcaster_that_is_dropped_leaves_no_connection_behind() {
    let server = PrivateRedis::start().unwrap();
    let clients = || say(&server, "CLIENT LIST").matches("id=").count();
    let broadcaster = RedisBroadcaster::connect(at(&server.url(0))).await.unwrap();
    let queue = crate::support::connect(&at(&server.url(0))).await;
    assert!(clients() > 3);
    drop((broadcaster, queue));
    until("only ours is left", async || (clients() == 1).then_some(())).await;
}
