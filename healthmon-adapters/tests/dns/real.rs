//! A real name server, and what is made of its answers.

use healthmon_adapters::{
    dns::{DnsProber, DnsProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
    secrets::Secrets,
    servers::{PrivateUnbound, UnboundSetup},
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Held, IndeterminateReason, Outcome},
};
use serde_json::{Value, json};

use super::support::{PATIENCE, SHORT, detail, probe_of, prober, see, see_within, settings};

/// A zone that was signed once for a long time, and the digest of its key.
const SIGNED: &str = include_str!("signed.zone");
const ANCHOR: &str = "signed.test. DS 57801 13 2 f78ee5f44d79bcf0a37d01266758cf504b3e8c233e70a4fe5ae62e6a10d4d47b";

/// A zone with an alias, which is followed as a resolver follows it.
const ALIAS: &str = "\
alias.test. 60 SOA ns.alias.test. root.alias.test. 1 60 60 60 60
alias.test. 60 NS ns.alias.test.
ns.alias.test. 60 A 127.0.0.1
shop.alias.test. 60 CNAME www.alias.test.
www.alias.test. 60 A 192.0.2.1
www.alias.test. 60 A 192.0.2.2
";

fn local_data() -> String {
    let mut lines = [
        r#"local-data: "www.example.test. 300 A 192.0.2.1""#,
        r#"local-data: "www.example.test. 300 A 192.0.2.2""#,
        r#"local-data: "www.example.test. 300 AAAA 2001:db8::1""#,
        r#"local-data: "example.test. 3600 MX 10 Mail.Example.Test.""#,
        r#"local-data: "example.test. 3600 NS ns.example.test.""#,
        r#"local-data: "_sip._tcp.example.test. 60 SRV 1 2 5060 sip.example.test.""#,
        r#"local-data: 'example.test. 60 TXT "v=spf1 -all"'"#,
        r#"local-data: "odd.example.test. 60 TYPE65280 \# 3 010203""#,
        r#"local-zone: "refused.test." always_refuse"#,
        r#"local-zone: "signed.test." transparent"#,
        r#"local-zone: "alias.test." transparent"#,
    ]
    .join("\n ");
    for low in 0..1000 {
        lines.push_str(&format!("\n local-data: \"many.test. 60 A 10.0.{}.{}\"", low / 250, low % 250 + 1));
    }
    format!(" {lines}\n module-config: \"validator iterator\"\n trust-anchor: \"{ANCHOR}\"\n")
}

fn unbound(zone: &str, tls: Option<(&str, &str)>) -> PrivateUnbound {
    let clause = |name| {
        format!("auth-zone:\n name: {name}.test.\n zonefile: {name}.zone\n for-downstream: no\n for-upstream: yes\n")
    };
    let setup = UnboundSetup {
        server: &local_data(),
        clauses: &[clause("signed"), clause("alias")].concat(),
        files: &[("signed.zone", zone), ("alias.zone", ALIAS)],
        tls,
    };
    PrivateUnbound::start(setup).expect("unbound; install Debian's package of that name")
}

const fn failed(reason: FailReason) -> Outcome {
    Outcome::Fail(reason)
}

#[tokio::test]
async fn what_a_real_server_answers_is_judged() {
    let server = unbound(SIGNED, None);
    let rows: Vec<(&str, Value, Outcome, u16, &str)> = vec![
        ("www.example.test", json!({}), Outcome::Pass, 0, ""),
        ("WWW.Example.TEST.?type=AAAA", json!({"expect": {"answers": ["2001:DB8:0::1"]}}), Outcome::Pass, 0, ""),
        ("www.example.test", json!({"expect": {"answers": ["192.0.2.2", "192.0.2.1"]}}), Outcome::Pass, 0, ""),
        (
            "www.example.test",
            json!({"expect": {"answers": ["192.0.2.1"]}}),
            failed(FailReason::Assertion),
            0,
            "answers: expected exactly 192.0.2.1, got 192.0.2.",
        ),
        ("www.example.test", json!({"expect": {"answers": {"contains": ["192.0.2.1"]}}}), Outcome::Pass, 0, ""),
        (
            "www.example.test",
            json!({"expect": {"answers": {"contains": ["192.0.2.3"], "count": 1, "matches": "^10\\."}}}),
            failed(FailReason::Assertion),
            0,
            "answers: expected 1, got 192.0.2.",
        ),
        ("www.example.test", json!({"expect": {"answers": {"matches": "^192\\.0\\.2\\."}}}), Outcome::Pass, 0, ""),
        ("shop.alias.test", json!({"expect": {"answers": {"count": {"min": 2}}}}), Outcome::Pass, 0, ""),
        ("example.test?type=MX", json!({"expect": {"answers": ["10 mail.example.test."]}}), Outcome::Pass, 0, ""),
        ("example.test?type=NS", json!({"expect": {"answers": ["ns.example.test"]}}), Outcome::Pass, 0, ""),
        ("example.test?type=TXT", json!({"expect": {"answers": ["v=spf1 -all"]}}), Outcome::Pass, 0, ""),
        (
            "_sip._tcp.example.test?type=SRV",
            json!({"expect": {"answers": ["1 2 5060 sip.example.test"], "ttl": {"max": "1m"}}}),
            Outcome::Pass,
            0,
            "",
        ),
        (
            "www.example.test",
            json!({"expect": {"ttl": {"min": "10m"}}}),
            failed(FailReason::Assertion),
            0,
            "ttl: expected at least 10m, got 5m",
        ),
        ("odd.example.test?type=TYPE65280", json!({"expect": {"answers": ["AQID"]}}), Outcome::Pass, 0, ""),
        (
            "www.example.test?type=MX",
            json!({}),
            failed(FailReason::Assertion),
            0,
            "answers: expected at least 1, got none",
        ),
        ("www.example.test?type=MX", json!({"expect": {"answers": {"count": 0}}}), Outcome::Pass, 0, ""),
        (
            "none.example.test",
            json!({}),
            failed(FailReason::Status),
            3,
            "response code: expected NOERROR, got NXDOMAIN",
        ),
        ("none.example.test", json!({"expect": {"rcode": "NXDOMAIN"}}), Outcome::Pass, 3, ""),
        (
            "www.example.test",
            json!({"expect": {"rcode": ["NXDOMAIN", 5]}}),
            failed(FailReason::Status),
            0,
            "response code: expected NXDOMAIN or REFUSED, got NOERROR",
        ),
        ("a.refused.test", json!({}), failed(FailReason::Status), 5, "response code: expected NOERROR, got REFUSED"),
        ("many.test", json!({"expect": {"answers": {"count": 1000}}}), Outcome::Pass, 0, ""),
        ("www.example.test", json!({"expect": {"latency": {"degraded": "1ns"}}}), Outcome::Slow, 0, "latency: "),
    ];
    for (question, options, outcome, code, said) in rows {
        for protocol in ["udp", "tcp"] {
            let mut options = options.clone();
            options["dns"] = json!({"protocol": protocol});
            let seen = see(&prober(), &format!("dns://{}/{question}", server.address()), options.clone()).await;
            assert_eq!((seen.outcome, seen.code), (outcome, Some(code)), "{question} {options}: {seen:?}");
            assert!(detail(&seen).starts_with(said), "{question} {options}: {seen:?}");
            assert!(seen.phases.first_byte_us.is_some() && seen.phases.dns_us.is_none(), "{seen:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_validates_is_asked_whether_it_vouches_for_the_answer() {
    let signed = unbound(SIGNED, None);
    let url = |server: &PrivateUnbound, name: &str| format!("dns://{}/{name}", server.address());
    for (name, wanted, outcome) in [
        ("www.signed.test", true, Outcome::Pass),
        ("www.signed.test", false, failed(FailReason::Assertion)),
        ("www.example.test", true, failed(FailReason::Assertion)),
        ("www.example.test", false, Outcome::Pass),
    ] {
        let options = json!({"expect": {"authenticated": wanted}});
        let seen = see(&prober(), &url(&signed, name), options).await;
        assert_eq!(seen.outcome, outcome, "{name} {wanted}: {seen:?}");
    }
    let forged = unbound(&SIGNED.replace("192.0.2.7", "192.0.2.8"), None);
    let seen = see(&prober(), &url(&forged, "www.signed.test"), json!({})).await;
    assert_eq!((seen.outcome, seen.code), (failed(FailReason::Status), Some(2)), "{seen:?}");
}

#[tokio::test]
async fn signatures_come_when_they_are_asked_for() {
    let server = unbound(SIGNED, None);
    for (dnssec, answers) in [(false, 1), (true, 2)] {
        let options = json!({"dns": {"dnssec": dnssec}});
        let settings = settings(&format!("dns://{}/www.signed.test", server.address()), PATIENCE, &options);
        let inspected = prober().inspect(&probe_of(settings)).await;
        let found = inspected.facts.iter().filter(|fact| &*fact.what == "answer").count();
        assert_eq!(found, answers, "{inspected:?}");
    }
}

#[tokio::test]
async fn dns_over_tls_is_asked_with_its_certificate_checked() {
    let issued = rcgen::generate_simple_self_signed(vec!["dns.example.test".to_owned()]).expect("a certificate");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let server = unbound(SIGNED, Some((&certificate, &key)));
    let prober = DnsProber::new(DnsProberConfig {
        dialer: Dialer::new(AddressPolicy::new(Loopback::Allowed)).into(),
        extra_roots: certificate.into_bytes(),
        ..Default::default()
    })
    .expect("a prober");
    let url = format!("dns://127.0.0.1:{}/www.example.test", server.tls_port().expect("a port for tls"));
    let named = json!({"dns": {"protocol": "tls", "tls": {"server_name": "dns.example.test"}}});
    let seen = see(&prober, &url, named).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert!(seen.phases.tls_us.is_some() && seen.certificate_expires.is_some(), "{seen:?}");
    let seen = see(&prober, &url, json!({"dns": {"protocol": "tls"}})).await;
    assert_eq!(seen.outcome, failed(FailReason::Certificate), "{seen:?}");
    let plain = format!("dns://{}/www.example.test", server.address());
    let seen = see_within(&prober, &plain, SHORT, json!({"dns": {"protocol": "tls"}})).await;
    assert_eq!(seen.outcome, failed(FailReason::Timeout), "it waits for the rest of what it takes for a length");
    assert!(detail(&seen).ends_with("while in the tls handshake"), "{seen:?}");
}

#[tokio::test]
async fn the_key_of_a_clients_certificate_is_found_where_the_settings_say() {
    let issued = rcgen::generate_simple_self_signed(vec!["dns.example.test".to_owned()]).expect("a certificate");
    let (certificate, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let server = unbound(SIGNED, Some((&certificate, &key)));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("dns.key"), key).expect("written");
    let prober = DnsProber::new(DnsProberConfig {
        dialer: Dialer::new(AddressPolicy::new(Loopback::Allowed)).into(),
        secrets: Secrets::of_environment(Some(folder.path().to_owned())),
        ..Default::default()
    })
    .expect("a prober");
    let url = format!("dns://127.0.0.1:{}/www.example.test", server.tls_port().expect("a port for tls"));
    for (file, outcome) in
        [("dns.key", Outcome::Pass), ("another.key", Outcome::Indeterminate(IndeterminateReason::Secret))]
    {
        let tls = json!({"verify": "none", "certificate": certificate, "key": {"file": file}});
        let seen = see(&prober, &url, json!({"dns": {"protocol": "tls", "tls": tls}})).await;
        assert_eq!(seen.outcome, outcome, "{file}: {seen:?}");
    }
}

#[tokio::test]
async fn a_closer_look_tells_what_was_answered() {
    let server = unbound(SIGNED, None);
    let options = json!({"expect": {"answers": {"count": 1, "contains": ["192.0.2.1"]}}});
    let settings = settings(&format!("dns://{}/shop.alias.test", server.address()), PATIENCE, &options);
    let inspected = prober().inspect(&probe_of(settings)).await;
    assert_eq!(inspected.seen.outcome, failed(FailReason::Assertion));
    let fact = |what: &str| inspected.facts.iter().find(|fact| &*fact.what == what).map(|fact| &*fact.value);
    assert_eq!(fact("question"), Some("shop.alias.test. IN A"));
    assert_eq!(fact("address"), Some(server.address().to_string().as_str()));
    assert_eq!(fact("response code"), Some("NOERROR"));
    assert_eq!(fact("answer"), Some("shop.alias.test. 60 CNAME www.alias.test"));
    let told: Vec<_> = inspected.assertions.iter().map(|told| (&*told.what, told.held)).collect();
    assert_eq!(told, [("response code", Held::Held), ("answers", Held::Failed), ("answers", Held::Held)]);
}
