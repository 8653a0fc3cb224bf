//! Pings in networks that exist for one test only, for what this machine's own cannot show: the
//! test runs itself once more in a network namespace (`unshare`), with a router if need be. That
//! needs root, or user namespaces; a test that cannot have them fails and says so.

use healthmon_adapters::servers::run_alone;
use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use serde_json::json;

use super::support::{PATIENCE, SHORT, detail, fact, look, prober, see};

/// Everybody may ping.
const EVERYBODY: &str = "echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range";
/// Nobody may, as kernels have it by default.
const NOBODY: &str = "echo '1 0' > /proc/sys/net/ipv4/ping_group_range";
/// A router at 192.0.2.2 that says that 198.51.100.0/24 cannot be reached and 203.0.113.0/24 is
/// forbidden, each time it is asked; 192.0.2.3 is silent.
const ROUTER: &str = "mount -t tmpfs none /run && ip netns add router && ip link add v0 type veth peer name v1 netns router && \
    ip address add 192.0.2.1/24 dev v0 && ip link set v0 up && \
    ip -n router address add 192.0.2.2/24 dev v1 && ip -n router link set v1 up && \
    ip netns exec router sh -c 'cd /proc/sys/net/ipv4 && echo 1 > ip_forward && echo 0 > icmp_ratelimit' && \
    ip -n router route add unreachable 198.51.100.0/24 && ip -n router route add prohibit 203.0.113.0/24 && \
    ip route add default via 192.0.2.2 && \
    ip neighbour add 192.0.2.3 lladdr 02:00:00:00:00:03 dev v0 nud permanent";
/// Without the right to raw sockets from here on.
const UNPRIVILEGED: &str = "setpriv --bounding-set=-net_raw --inh-caps=-net_raw --ambient-caps=-net_raw";

/// Runs the ignored test `name` in a network of its own, set up by `setup`, by way of `prefix`.
fn alone(setup: &[&str], prefix: &str, name: &str) {
    run_alone(setup, prefix, &format!("alone::{name}")).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn unprivileged_pings_are_answered() {
    alone(&[EVERYBODY], UNPRIVILEGED, "inside_unprivileged");
}

#[tokio::test]
#[ignore = "runs in a network of its own"]
async fn inside_unprivileged() {
    for url in ["icmp://127.0.0.1", "icmp://[::1]"] {
        let options = json!({"icmp": {"count": 3, "interval": "10ms"}, "expect": {"loss": 0}});
        let inspected = look(&prober(), url, PATIENCE, options).await;
        assert_eq!(inspected.seen.outcome, Outcome::Pass, "{inspected:?}");
        assert_eq!(fact(&inspected, "socket"), Some("unprivileged"));
    }
    let prober = prober();
    let probes = (0..100).map(|n| {
        let host = format!("icmp://127.0.0.{}", n / 20 + 1);
        let prober = &prober;
        async move { see(prober, &host, PATIENCE, json!({"expect": {"loss": 0}})).await }
    });
    for seen in futures_util::future::join_all(probes).await {
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
}

#[test]
fn a_process_that_may_not_ping_says_how_to_allow_it() {
    alone(&[NOBODY], UNPRIVILEGED, "inside_without_permission");
}

#[tokio::test]
#[ignore = "runs in a network of its own"]
async fn inside_without_permission() {
    for url in ["icmp://127.0.0.1", "icmp://[::1]"] {
        let seen = see(&prober(), url, PATIENCE, json!({})).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Permission), "{seen:?}");
        assert!(detail(&seen).contains("net.ipv4.ping_group_range (\"0 2147483647\" lets in everybody)"), "{seen:?}");
        assert!(detail(&seen).contains("CAP_NET_RAW"), "{seen:?}");
    }
}

#[test]
fn unprivileged_pings_learn_why_they_do_not_arrive() {
    alone(&[EVERYBODY, ROUTER], UNPRIVILEGED, "inside_with_a_router");
}

#[test]
fn raw_pings_learn_why_they_do_not_arrive() {
    alone(&[NOBODY, ROUTER], "", "inside_with_a_router");
}

#[tokio::test]
#[ignore = "runs in a network of its own"]
async fn inside_with_a_router() {
    let (connect, once) = (Outcome::Fail(FailReason::Connect), || json!({"icmp": {"count": 1}}));
    let rows = [
        ("192.0.2.2", Outcome::Pass, ""),
        ("198.51.100.1", connect, "host unreachable (icmp type 3 code 1), says 192.0.2.2"),
        ("203.0.113.1", connect, "administratively prohibited (icmp type 3 code 13), says 192.0.2.2"),
        ("192.0.2.3", Outcome::Fail(FailReason::Timeout), "timed out after 400 ms while waiting for the answer"),
        ("[2001:db8::1]", connect, "ping 2001:db8::1: Network is unreachable (os error 101)"),
    ];
    // A router that is a Linux kernel says so five times in a row to one peer, and then once a second
    // (`error_burst` and `error_cost` of its routes, which are the whole machine's): four are asked for here.
    for (host, outcome, said) in rows {
        let timeout = if outcome == Outcome::Fail(FailReason::Timeout) { SHORT } else { PATIENCE };
        let seen = see(&prober(), &format!("icmp://{host}"), timeout, once()).await;
        assert_eq!((seen.outcome, detail(&seen)), (outcome, said), "{host}: {seen:?}");
    }
    // While others are under way that get errors and answers of their own.
    let prober = prober();
    let probes = (0..12).map(|n| {
        let (host, outcome, _) = rows[if n < 3 { n } else { 0 }];
        let prober = &prober;
        async move { (see(prober, &format!("icmp://{host}"), PATIENCE, once()).await, outcome) }
    });
    for (seen, outcome) in futures_util::future::join_all(probes).await {
        assert_eq!(seen.outcome, outcome, "{seen:?}");
    }
}
