//! Pings of this machine itself. They need the right to ping: as root, with `CAP_NET_RAW`, or with
//! the process's group in the sysctl `net.ipv4.ping_group_range`. Without it they fail and say so.

use std::{net::IpAddr, sync::Arc, time::Instant};

use async_trait::async_trait;
use healthmon_adapters::{
    icmp::IcmpProber,
    net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver},
};
use healthmon_core::probe::{FailReason, Held, IndeterminateReason, Outcome};
use serde_json::json;

use super::support::{PATIENCE, detail, fact, look, prober, see};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

#[tokio::test]
async fn this_machine_answers_pings_over_ipv4_and_ipv6() {
    for (url, address) in [("icmp://127.0.0.1", "127.0.0.1"), ("icmp://127.1/", "127.0.0.1"), ("icmp://[::1]", "::1")] {
        let options = json!({"icmp": {"count": 3, "interval": "10ms", "size": 1472}, "expect": {"loss": 0}});
        let inspected = look(&prober(), url, PATIENCE, options).await;
        let seen = &inspected.seen;
        assert_eq!((seen.outcome, detail(seen)), (Outcome::Pass, ""), "{url}: {inspected:?}");
        assert!(seen.phases.first_byte_us < Some(seen.latency_us), "{url}: {seen:?}");
        assert_eq!(fact(&inspected, "address"), Some(address));
        assert_eq!(fact(&inspected, "answered"), Some("3 of 3"));
        assert!(fact(&inspected, "round trip").is_some() && fact(&inspected, "socket").is_some());
    }
}

#[tokio::test]
async fn three_pings_take_two_intervals_and_no_longer_than_their_answers() {
    let options = json!({"icmp": {"count": 3, "interval": "100ms"}});
    let (prober, begun) = (prober(), Instant::now());
    let seen = see(&prober, "icmp://127.0.0.1", PATIENCE, options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let took = begun.elapsed().as_millis();
    assert!((200..5_000).contains(&took), "{took} ms: nothing is waited for once all are answered");
}

#[tokio::test]
async fn too_long_a_round_trip_degrades_or_fails() {
    for (expect, outcome, held) in [
        (json!({"round_trip": "1ns"}), Outcome::Fail(FailReason::Assertion), Held::Failed),
        (json!({"round_trip": {"degraded": "1ns"}}), Outcome::Slow, Held::Degraded),
        (json!({"round_trip": {"fail": "9s", "degraded": "8s"}}), Outcome::Pass, Held::Held),
        (json!({"latency": {"degraded": "1ns"}}), Outcome::Slow, Held::Degraded),
    ] {
        let options = json!({"icmp": {"count": 1}, "expect": expect});
        let inspected = look(&prober(), "icmp://127.0.0.1", PATIENCE, options).await;
        assert_eq!(inspected.seen.outcome, outcome, "{expect}: {inspected:?}");
        assert!(inspected.assertions.iter().any(|told| told.held == held), "{expect}: {inspected:?}");
    }
}

#[tokio::test]
async fn many_probes_at_once_do_not_mix_up_their_replies() {
    let prober = prober();
    let options = json!({"icmp": {"count": 5, "interval": "10ms"}, "expect": {"loss": 0}});
    let hosts = (0..200).map(|n| match n % 4 {
        0 => "icmp://[::1]".to_owned(),
        // All of them this machine, some of them the same address.
        _ => format!("icmp://127.0.0.{}", n / 8 + 1),
    });
    let probes = hosts.map(|host| {
        let (prober, options) = (&prober, options.clone());
        async move { see(prober, &host, PATIENCE, options).await }
    });
    for seen in futures_util::future::join_all(probes).await {
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
}

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_pinged() {
    let prober = IcmpProber::new(Dialer::new(AddressPolicy::new(Loopback::Refused)).into());
    let forms = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "169.254.169.254",
        "%31%36%39.254.169.254",
        "[::1]",
        "[::ffff:7f00:1]",
        "[fe80::1]",
        "[ff02::1]",
        "224.0.0.1",
        "255.255.255.255",
    ];
    for form in forms {
        let seen = see(&prober, &format!("icmp://{form}"), PATIENCE, json!({"icmp": {"count": 1}})).await;
        assert_eq!(seen.outcome, BLOCKED, "{form}: {seen:?}");
        assert!(detail(&seen).starts_with("the address policy refuses "), "{form}: {seen:?}");
    }
}

struct Names(Vec<IpAddr>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, _: &str, _: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn sec_of_a_names_addresses_only_allowed_ones_are_pinged_and_of_the_wanted_version() {
    let policy = || AddressPolicy::new(Loopback::Refused).allow("127.0.0.2/32".parse().expect("a network"));
    let rows = [
        (vec!["127.0.0.1", "127.0.0.2"], "either", Outcome::Pass, ""),
        (vec!["127.0.0.1", "::1"], "either", BLOCKED, "the address policy refuses 127.0.0.1: loopback"),
        (vec!["127.0.0.2"], "v4", Outcome::Pass, ""),
        (vec!["127.0.0.2"], "v6", Outcome::Fail(FailReason::Dns), "none of the host's 1 addresses is of IPv6"),
        (vec![], "either", Outcome::Fail(FailReason::Dns), "host.test: the name has no address"),
    ];
    for (addresses, ip, outcome, said) in rows {
        let names = Names(addresses.iter().map(|address| address.parse().expect("an address")).collect());
        let prober = IcmpProber::new(Dialer::new(policy()).with_resolver(Arc::new(names)).into());
        let inspected = look(&prober, "icmp://host.test", PATIENCE, json!({"icmp": {"count": 1, "ip": ip}})).await;
        assert_eq!((inspected.seen.outcome, detail(&inspected.seen)), (outcome, said), "{addresses:?} {ip}");
        if outcome == Outcome::Pass {
            assert_eq!(fact(&inspected, "address"), Some("127.0.0.2"));
            assert!(inspected.seen.phases.dns_us.is_some());
        }
    }
}
