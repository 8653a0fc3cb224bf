//! Name servers that do what a test wants, and probes against them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_adapters::{
    dns::{DnsProber, DnsProberConfig},
    net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver},
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Prober,
    probe::{Kind, Observation, Probe},
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// Enough for a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The deadline of servers that hang.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// How late a probe may come back on a busy machine.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// A name server on loopback, for datagrams and for connections; it ends with the test.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// Sends the datagrams that `datagrams` makes of each question, and the bytes that `stream`
    /// makes of one that comes over a connection; then it keeps that open or closes it.
    pub(crate) async fn new(
        datagrams: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + 'static,
        stream: impl Fn(&[u8]) -> (Vec<u8>, Then) + Send + Sync + 'static,
    ) -> Self {
        let (listener, socket) = port_of_both().await;
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut question = vec![0; 4096];
            while let Ok((size, from)) = socket.recv_from(&mut question).await {
                count.fetch_add(1, Ordering::SeqCst);
                for answer in datagrams(&question[..size], from) {
                    // A prober that has seen enough may be gone by now.
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        let stream = Arc::new(stream);
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.spawn(serve(connection, Arc::clone(&stream)));
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    /// Answers each question, however it comes, with the message that `answer` makes of it.
    pub(crate) async fn answering(answer: impl Fn(&Message) -> Message + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        let same = Arc::clone(&answer);
        Self::new(
            move |question, _| vec![bytes(&answer(&read(question)))],
            move |question| (prefixed(&bytes(&same(&read(question)))), Then::Close),
        )
        .await
    }

    /// Answers datagrams only.
    pub(crate) async fn sending(datagrams: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::new(move |question, _| datagrams(question), |_| (Vec::new(), Then::Close)).await
    }

    /// Says over datagrams that the answer is too long for them, and over a connection what `stream` makes of it.
    pub(crate) async fn truncating(stream: impl Fn(&[u8]) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Self {
        let cut = |question: &[u8], _| {
            let mut message = answer_to(&read(question));
            message.metadata.truncation = true;
            vec![bytes(&message)]
        };
        Self::new(cut, stream).await
    }

    pub(crate) fn url(&self, rest: &str) -> String {
        format!("dns://{}/{rest}", self.address)
    }

    /// How many datagrams came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A port for connections and for datagrams: one that is free for the former need not be so for the latter.
async fn port_of_both() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        if let Ok(socket) = UdpSocket::bind(address).await {
            return (listener, socket);
        }
    }
}

/// What becomes of a connection when all is said.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    Close,
    Hang,
}

async fn serve(mut connection: TcpStream, answer: Arc<impl Fn(&[u8]) -> (Vec<u8>, Then)>) {
    let Ok(length) = connection.read_u16().await else { return };
    let mut question = vec![0; usize::from(length)];
    if connection.read_exact(&mut question).await.is_err() {
        return;
    }
    let (said, then) = answer(&question);
    connection.write_all(&said).await.ok();
    match then {
        Then::Close => drop(connection.shutdown().await),
        Then::Hang => drop(connection.read_to_end(&mut Vec::new()).await),
    }
}

pub(crate) fn read(question: &[u8]) -> Message {
    Message::from_vec(question).expect("a question")
}

pub(crate) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message")
}

/// A message as it goes over a connection.
pub(crate) fn prefixed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("at most 64 KiB");
    [&length.to_be_bytes(), message].concat()
}

/// An empty answer to `question`.
pub(crate) fn answer_to(question: &Message) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

pub(crate) fn refusal(question: &Message, code: ResponseCode) -> Message {
    let mut answer = answer_to(question);
    answer.metadata.response_code = code;
    answer
}

/// An answer to `question` of these addresses.
pub(crate) fn addresses(question: &Message, found: &[&str]) -> Message {
    let mut answer = answer_to(question);
    let asked = question.queries.first().expect("a question");
    for address in found {
        let data = match address.parse().expect("an address") {
            std::net::IpAddr::V4(v4) => RData::A(rdata::A(v4)),
            std::net::IpAddr::V6(v6) => RData::AAAA(rdata::AAAA(v6)),
        };
        if data.record_type() == asked.query_type() || asked.query_type() == RecordType::ANY {
            answer.add_answer(Record::from_rdata(asked.name().clone(), 300, data));
        }
    }
    answer
}

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

/// A record that says that `from` is another name for `to`.
pub(crate) fn alias(from: &str, to: &str) -> Record {
    Record::from_rdata(name(from), 300, RData::CNAME(rdata::CNAME(name(to))))
}

/// A resolver that knows what `names` says and nothing else.
pub(crate) struct Names(pub(crate) Answers);

/// The addresses that a name has, for a test.
type Answers = Box<dyn Fn(&str) -> Vec<std::net::IpAddr> + Send + Sync>;

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str, _: LookupPermit) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        match (self.0)(host) {
            none if none.is_empty() => Err(ResolveError::Failed("no such name".to_owned())),
            some => Ok(some),
        }
    }
}

pub(crate) fn prober_with(dialer: Dialer) -> DnsProber {
    DnsProber::new(DnsProberConfig { dialer: dialer.into(), ..Default::default() }).expect("a prober")
}

/// A prober that may probe this machine, and knows no name.
pub(crate) fn prober() -> DnsProber {
    let nobody = Names(Box::new(|_| Vec::new()));
    prober_with(Dialer::new(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::new(nobody)))
}

/// A policy for which of this machine only 127.0.0.2 exists.
pub(crate) fn policy_of_one() -> AddressPolicy {
    AddressPolicy::new(Loopback::Refused).allow("127.0.0.2/32".parse().expect("a network"))
}

pub(crate) fn settings(url: &str, timeout: Duration, options: &Value) -> ServiceSettings {
    let mut json =
        json!({"name": "target", "url": url, "interval": "1h", "timeout": format!("{}ms", timeout.as_millis())});
    let sections = options.as_object().expect("an object").clone();
    json.as_object_mut().expect("an object").extend(sections);
    serde_json::from_value(json).expect("settings")
}

pub(crate) fn probe_of(settings: ServiceSettings) -> Probe {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let id = ServiceId::new(1).expect("an id");
    let service = Service::registered(id, settings, Revision(1), Epoch(1), now);
    Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled)
}

/// Probes `url` with `options`, which must be right.
pub(crate) async fn see(prober: &dyn Prober, url: &str, options: Value) -> Observation {
    see_within(prober, url, PATIENCE, options).await
}

pub(crate) async fn see_within(prober: &dyn Prober, url: &str, timeout: Duration, options: Value) -> Observation {
    let settings = settings(url, timeout, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.probe(&probe_of(settings)).await
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}
