//! What a prober must withstand: each test turns red when its guard is removed.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use healthmon_adapters::net::{AddressPolicy, Dialer, Loopback};
use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use serde_json::json;
use tokio::net::UdpSocket;

use super::support::{
    NameServer, Names, SHORT, Then, addresses, bytes, detail, policy_of_one, prober, prober_with, read, see, see_within,
};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_asked() {
    let prober = prober_with(Dialer::new(AddressPolicy::new(Loopback::Refused)));
    let forms = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "0xa9fea9fe",
        "%31%36%39.254.169.254",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[ff02::fb]",
        "224.0.0.251",
        "255.255.255.255",
    ];
    for protocol in ["udp", "tcp", "tls"] {
        for form in forms {
            let options = json!({"dns": {"protocol": protocol}});
            let seen = see(&prober, &format!("dns://{form}:1/a.test"), options).await;
            assert_eq!(seen.outcome, BLOCKED, "{form} {protocol}: {seen:?}");
            assert!(detail(&seen).starts_with("the address policy refuses "), "{form} {protocol}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn sec_a_name_that_flips_between_addresses_leads_to_allowed_ones_only() {
    let forbidden = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let port = forbidden.local_addr().expect("bound").port();
    let flip = AtomicUsize::new(0);
    let names = Names(Box::new(move |_| {
        let bad: IpAddr = [127, 0, 0, 1].into();
        let good: IpAddr = [127, 0, 0, 2].into();
        match flip.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => vec![good],
            1 => vec![bad],
            _ => vec![bad, good],
        }
    }));
    let prober = prober_with(Dialer::new(policy_of_one()).with_resolver(Arc::new(names)));
    for outcome in [Outcome::Fail(FailReason::Connect), BLOCKED, Outcome::Fail(FailReason::Connect)] {
        let seen = see(&prober, &format!("dns://ns.test:{port}/a.test"), json!({})).await;
        assert_eq!(seen.outcome, outcome, "{seen:?}");
    }
    let came = forbidden.try_recv(&mut [0; 512]).map_err(|error| error.kind());
    assert_eq!(came, Err(std::io::ErrorKind::WouldBlock), "nothing came to the forbidden address");
}

#[tokio::test]
async fn sec_an_answer_from_another_address_is_not_believed() {
    let spoofer = Arc::new(std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port"));
    let server = NameServer::new(
        move |question, asker: SocketAddr| {
            let answer = bytes(&addresses(&read(question), &["192.0.2.66"]));
            spoofer.send_to(&answer, asker).expect("sent");
            Vec::new()
        },
        |_| (Vec::new(), Then::Close),
    )
    .await;
    let seen = see_within(&prober(), &server.url("a.test"), SHORT, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
}

#[tokio::test]
async fn sec_each_question_has_an_id_and_a_port_of_its_own() {
    const PROBES: usize = 64;
    let seen = Arc::<Mutex<Vec<(u16, u16)>>>::default();
    let noted = Arc::clone(&seen);
    let server = NameServer::new(
        move |question, asker: SocketAddr| {
            let message = read(question);
            noted.lock().expect("not poisoned").push((message.metadata.id, asker.port()));
            vec![bytes(&addresses(&message, &["192.0.2.1"]))]
        },
        |_| (Vec::new(), Then::Close),
    )
    .await;
    let prober = prober();
    for _ in 0..PROBES {
        assert_eq!(see(&prober, &server.url("a.test"), json!({})).await.outcome, Outcome::Pass);
    }
    let seen = seen.lock().expect("not poisoned");
    let ids: HashSet<u16> = seen.iter().map(|(id, _)| *id).collect();
    let ports: HashSet<u16> = seen.iter().map(|(_, port)| *port).collect();
    // Of 64 random ones of some ten thousand hardly any are alike; counted up they would be near.
    assert!(ids.len() > PROBES - 8 && ports.len() > PROBES / 2, "{} ids, {} ports", ids.len(), ports.len());
    let spread = ids.iter().max().zip(ids.iter().min()).map(|(most, least)| most - least);
    assert!(spread > Some(10_000), "{ids:?}");
}

#[tokio::test]
async fn sec_a_truncated_answer_is_asked_again_of_the_same_address() {
    let server = NameServer::truncating(|question| {
        (super::support::prefixed(&bytes(&addresses(&read(question), &["192.0.2.1"]))), Then::Close)
    })
    .await;
    let port = server.address.port();
    // The name would lead elsewhere the second time.
    let asked = AtomicUsize::new(0);
    let names = Names(Box::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => vec![[127, 0, 0, 1].into()],
        _ => vec![[127, 0, 0, 3].into()],
    }));
    let prober = prober_with(Dialer::new(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::new(names)));
    let seen = see(&prober, &format!("dns://ns.test:{port}/a.test"), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
}

#[tokio::test]
async fn a_server_whose_name_has_no_address_is_told_so() {
    let seen = see(&prober(), "dns://ns.test/a.test", json!({})).await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Dns), "ns.test: no such name"));
}
