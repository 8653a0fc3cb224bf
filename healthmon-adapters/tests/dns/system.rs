//! The system's own resolver, `getaddrinfo`, with a name server that hangs: in a network and with
//! an `/etc/resolv.conf` that exist for one test only. The test runs itself once more there
//! (`unshare`), which needs root, or user namespaces; without them it fails and says so.

use std::{
    net::UdpSocket,
    num::NonZeroUsize,
    thread,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
    servers::run_alone,
};
use healthmon_core::probe::{FailReason, Outcome};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::support::{PATIENCE, SHORT, addresses, bytes, detail, read, refusal, see_within};

/// How late a probe may come back on a busy machine, and still before the system gives up.
const GRACE: Duration = Duration::from_secs(3);
/// Of one name server, which is asked once for four seconds; and nothing but it knows names.
const SETUP: &str = "mount -t tmpfs none /mnt && \
    printf 'nameserver 127.0.0.1\noptions timeout:4 attempts:1\n' > /mnt/resolv.conf && \
    printf 'hosts: dns\n' > /mnt/nsswitch.conf && \
    mount --bind /mnt/resolv.conf /etc/resolv.conf && mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf";

#[test]
fn a_name_server_that_hangs_holds_up_nothing_but_the_names_it_knows() {
    let ran = run_alone(&[SETUP], "", "system::inside_with_a_name_server_that_hangs");
    ran.unwrap_or_else(|error| panic!("{error}"));
}

/// Knows `good.test`, is silent of names that begin with `hung`, and knows no other.
fn serve_names() {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("the only one here");
    thread::spawn(move || {
        let mut datagram = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let question = read(&datagram[..length]);
            let name = question.queries[0].name().to_string();
            let answer = match name.as_str() {
                name if name.starts_with("hung") => continue,
                "good.test." => addresses(&question, &["127.0.0.1"]),
                _ => refusal(&question, hickory_proto::op::ResponseCode::NXDomain),
            };
            socket.send_to(&bytes(&answer), from).expect("sent");
        }
    });
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

#[tokio::test]
#[ignore = "runs in a network of its own"]
async fn inside_with_a_name_server_that_hangs() {
    const HUNG: usize = 8;
    serve_names();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let good = format!("http://good.test:{}/", listener.local_addr().expect("bound").port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if stream.read(&mut [0; 4096]).await.is_ok() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
            }
        }
    });
    let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed));
    let dialer = dialer.with_lookups(NonZeroUsize::new(HUNG + 1).expect("not zero")).into();
    let prober = &HttpProber::new(HttpProberConfig { dialer, ..Default::default() }).expect("a prober");
    let before = threads();
    let begun = Instant::now();
    // Each name four times at once and again and again, which is more than there may be lookups.
    while begun.elapsed() < PATIENCE / 2 {
        let hung = join_all((0..4 * HUNG).map(|n| async move {
            let begun = Instant::now();
            let seen = see_within(prober, &format!("http://hung.n{}.test/", n % HUNG), SHORT, json!({})).await;
            (begun.elapsed(), seen)
        }));
        let (hung, other) = tokio::join!(hung, see_within(prober, &good, SHORT + GRACE, json!({})));
        assert_eq!(other.outcome, Outcome::Pass, "{other:?}");
        for (took, seen) in hung {
            assert!(took < SHORT + GRACE, "{took:?} {seen:?}");
            // Of one whose call has just come to its end it is said what the system says.
            let late =
                seen.outcome == Outcome::Fail(FailReason::Timeout) && detail(&seen).contains("resolving the name");
            let told = seen.outcome == Outcome::Fail(FailReason::Dns);
            assert!(late || told, "{seen:?}");
        }
        assert!(threads() <= before + HUNG + 1, "{} threads, {before} before", threads());
    }
    let patient = see_within(prober, "http://hung-as-well.test/", PATIENCE, json!({})).await;
    assert_eq!(patient.outcome, Outcome::Fail(FailReason::Dns), "the system gives up first: {patient:?}");
    let none = see_within(prober, "http://none.test/", PATIENCE, json!({})).await;
    assert_eq!(none.outcome, Outcome::Fail(FailReason::Dns), "{none:?}");
}
