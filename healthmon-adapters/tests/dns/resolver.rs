//! Name servers of one's own choice behind the dialer, as a prober of something else sees them.

use std::{
    future::Future,
    net::SocketAddr,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback, NameServers, NameServersConfig, NameServersError},
    servers::{PrivateUnbound, UnboundSetup},
};
use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use hickory_proto::op::ResponseCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::support::{
    GRACE, NameServer, PATIENCE, SHORT, Then, addresses, alias, answer_to, bytes, detail, name, policy_of_one,
    prefixed, read, refusal, see_within,
};

const DNS: Outcome = Outcome::Fail(FailReason::Dns);

/// A web server on `ip` and any port, and how many connections came.
struct Web {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Web {
    async fn on(ip: [u8; 4]) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).await.expect("a free port");
        Self::at(listener)
    }

    fn at(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                // The whole request comes in one piece.
                if stream.read(&mut [0; 4096]).await.is_ok() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
                }
            }
        });
        Self { address, accepted, _tasks: tasks }
    }

    /// One on 127.0.0.2 and one on 127.0.0.1, on the same port.
    async fn neighbours() -> [Self; 2] {
        loop {
            let listener = TcpListener::bind("127.0.0.2:0").await.expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            if let Ok(other) = TcpListener::bind(("127.0.0.1", port)).await {
                return [Self::at(listener), Self::at(other)];
            }
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// How long a name server is waited for that does not answer.
const BRIEF: Duration = Duration::from_millis(150);

/// A prober that asks `server` for addresses, once, for at most `timeout`.
fn prober(server: SocketAddr, timeout: Duration, policy: AddressPolicy) -> HttpProber {
    prober_by(policy, NameServersConfig { attempts: std::num::NonZeroUsize::MIN, ..patient(server, timeout) })
}

fn patient(server: SocketAddr, timeout: Duration) -> NameServersConfig {
    NameServersConfig { servers: vec![server], timeout, ..Default::default() }
}

fn prober_by(policy: AddressPolicy, config: NameServersConfig) -> HttpProber {
    let resolver = NameServers::new(config).expect("name servers");
    let dialer = Dialer::new(policy).with_resolver(Arc::new(resolver)).into();
    HttpProber::new(HttpProberConfig { dialer, ..Default::default() }).expect("a prober")
}

const fn everything() -> AddressPolicy {
    AddressPolicy::new(Loopback::Allowed)
}

#[tokio::test]
async fn a_real_servers_addresses_are_dialled() {
    let mut lines = r#"local-data: "web.test. 300 A 127.0.0.1""#.to_owned();
    lines.push_str("\n local-data: \"shop.test. 300 CNAME web.test.\"\n local-data: \"mail.test. 300 MX 1 web.test.\"");
    // More than a datagram holds, and of them all only one is allowed below.
    for low in 0..1000 {
        lines.push_str(&format!("\n local-data: \"many.test. 60 A 127.1.{}.{}\"", low / 250, low % 250 + 1));
    }
    let unbound = PrivateUnbound::start(UnboundSetup { server: &lines, ..Default::default() }).expect("unbound");
    let web = Web::on([127, 0, 0, 1]).await;
    let port = web.address.port();
    let prober = prober_by(everything(), NameServersConfig { servers: vec![unbound.address()], ..Default::default() });
    for (host, outcome, said) in [
        ("web.test", Outcome::Pass, ""),
        ("WEB.test.", Outcome::Pass, ""),
        ("shop.test", Outcome::Pass, ""),
        ("localhost", Outcome::Pass, ""),
        ("none.test", DNS, "none.test: the name does not exist"),
        ("mail.test", DNS, "mail.test: the name has no address"),
        ("web", DNS, "web: the name does not exist"),
    ] {
        let seen = see_within(&prober, &format!("http://{host}:{port}/"), PATIENCE, json!({})).await;
        assert_eq!((seen.outcome, detail(&seen)), (outcome, said), "{host}: {seen:?}");
        assert!(seen.phases.dns_us.is_some(), "{host}: {seen:?}");
    }
    let begun = Instant::now();
    let seen = see_within(&prober, &format!("http://many.test:{port}/"), PATIENCE, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect), "nobody listens there: {seen:?}");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

type Setup = Pin<Box<dyn Future<Output = NameServer>>>;

fn liars() -> Vec<(&'static str, Setup, Outcome)> {
    let mine = ["127.0.0.1", "::1"];
    let right = move |question: &[u8]| bytes(&addresses(&read(question), &mine));
    vec![
        ("hangs", Box::pin(NameServer::sending(|_| Vec::new())), DNS),
        (
            "another id",
            Box::pin(NameServer::sending(move |question| {
                let mut answer = right(question);
                answer[0] ^= 0xff;
                vec![answer]
            })),
            DNS,
        ),
        (
            "another question",
            Box::pin(NameServer::sending(move |question| {
                let mut message = read(question);
                message.queries[0].set_name(name("evil.test"));
                vec![bytes(&addresses(&message, &mine))]
            })),
            DNS,
        ),
        ("babble", Box::pin(NameServer::sending(|_| vec![b"hello".to_vec()])), DNS),
        (
            "aliases in a circle",
            Box::pin(NameServer::answering(|question| {
                let mut answer = answer_to(question);
                answer.add_answers([alias("web.test", "b.test"), alias("b.test", "web.test")]);
                answer
            })),
            DNS,
        ),
        (
            "aliases without end",
            Box::pin(NameServer::answering(|question| {
                let asked = question.queries[0].name().to_ascii();
                let mut answer = answer_to(question);
                answer.add_answer(alias(&asked, &format!("a.{}", &asked[..asked.len().min(60)])));
                answer
            })),
            DNS,
        ),
        ("refuses", Box::pin(NameServer::answering(|question| refusal(question, ResponseCode::Refused))), DNS),
        ("fails", Box::pin(NameServer::answering(|question| refusal(question, ResponseCode::ServFail))), DNS),
        (
            "a pointer to itself",
            Box::pin(NameServer::sending(|question| {
                let mut answer = bytes(&answer_to(&read(question)));
                let at = 0xc000 | u16::try_from(answer.len()).expect("short");
                answer[6..8].copy_from_slice(&1_u16.to_be_bytes());
                answer.extend(at.to_be_bytes());
                answer.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
                vec![answer]
            })),
            DNS,
        ),
        ("truncated, then hangs", Box::pin(NameServer::truncating(|_| (Vec::new(), Then::Hang))), DNS),
        (
            "truncated, then promises more than comes",
            Box::pin(NameServer::truncating(move |question| {
                ([&[0xff, 0xff], right(question).as_slice()].concat(), Then::Hang)
            })),
            DNS,
        ),
        (
            "truncated, then 64 KiB of zeros",
            Box::pin(NameServer::truncating(|question| {
                (prefixed(&[&question[..2], &[0x80], &vec![0; 65_532]].concat()), Then::Close)
            })),
            DNS,
        ),
        (
            "truncated, then right",
            Box::pin(NameServer::truncating(move |question| (prefixed(&right(question)), Then::Close))),
            Outcome::Pass,
        ),
        (
            "lies first, then the truth",
            Box::pin(NameServer::sending(move |question| {
                let mut lie = right(question);
                lie[0] ^= 0xff;
                vec![lie, right(question)]
            })),
            Outcome::Pass,
        ),
    ]
}

#[tokio::test]
async fn every_liar_is_a_trouble_of_dns_and_takes_no_longer_than_it_may() {
    let web = Web::on([127, 0, 0, 1]).await;
    for (what, server, outcome) in liars() {
        let server = server.await;
        let timeout = if outcome == Outcome::Pass { PATIENCE } else { BRIEF };
        let prober = prober(server.address, timeout, everything());
        let begun = Instant::now();
        let url = format!("http://web.test:{}/", web.address.port());
        let seen = see_within(&prober, &url, PATIENCE, json!({})).await;
        assert_eq!(seen.outcome, outcome, "{what}: {seen:?}");
        assert!(begun.elapsed() < GRACE, "{what}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_deadline_that_strikes_while_a_name_is_resolved_says_so() {
    let server = NameServer::sending(|_| Vec::new()).await;
    let prober = prober_by(everything(), patient(server.address, PATIENCE));
    let begun = Instant::now();
    let seen = see_within(&prober, "http://web.test/", SHORT, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
    assert_eq!(detail(&seen), "timed out after 400 ms while resolving the name");
    assert!(begun.elapsed() < SHORT + GRACE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn sec_a_name_server_that_flips_leads_to_allowed_addresses_only() {
    let [allowed, forbidden] = Web::neighbours().await;
    let port = allowed.address.port();
    let flip = AtomicUsize::new(0);
    let server = NameServer::answering(move |question| {
        let found = addresses(question, &["127.0.0.2"]);
        if found.answers.is_empty() {
            return found;
        }
        match flip.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => found,
            1 => addresses(question, &["127.0.0.1"]),
            _ => addresses(question, &["127.0.0.1", "127.0.0.2"]),
        }
    })
    .await;
    let prober = prober(server.address, PATIENCE, policy_of_one());
    let blocked = Outcome::Indeterminate(IndeterminateReason::Blocked);
    for outcome in [Outcome::Pass, blocked, Outcome::Pass, Outcome::Pass, blocked, Outcome::Pass] {
        let seen = see_within(&prober, &format!("http://web.test:{port}/"), PATIENCE, json!({})).await;
        assert_eq!(seen.outcome, outcome, "{seen:?}");
    }
    assert_eq!((allowed.accepted(), forbidden.accepted()), (4, 0));
}

#[tokio::test]
async fn nothing_is_held_unless_a_cache_is_asked_for() {
    let web = Web::on([127, 0, 0, 1]).await;
    for (cache, asked) in [(None, 6), (NonZeroU32::new(16), 2)] {
        let server = NameServer::answering(|question| addresses(question, &["127.0.0.1", "::1"])).await;
        let prober = prober_by(everything(), NameServersConfig { cache, ..patient(server.address, PATIENCE) });
        for _ in 0..3 {
            let url = format!("http://web.test:{}/", web.address.port());
            let seen = see_within(&prober, &url, PATIENCE, json!({})).await;
            assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
        }
        assert_eq!(server.asked(), asked, "one question for each family, {cache:?}");
    }
}

#[test]
fn a_number_of_name_servers_that_makes_no_sense_is_refused() {
    for count in [0, 9] {
        let servers = vec![SocketAddr::from(([192, 0, 2, 53], 53)); count];
        let refused = NameServers::new(NameServersConfig { servers, ..Default::default() });
        assert!(matches!(refused, Err(NameServersError::Count)), "{count}");
    }
}
