//! The kinds of probes: what a service's settings say for each.

use std::sync::Arc;

use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Clock,
    probe::{Kind as ProbeKind, Probe},
    runtime::clock::SystemClock,
    service::Service,
    time::Slot,
};
use serde_json::{Value, json};

use crate::target::{HOSTS, Places, Ports};

/// A kind of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    HttpKept,
    /// With expectations of a status, a header, a body by pattern and of JSON.
    HttpJudged,
    /// By a name, which the system's resolver resolves.
    HttpNamed,
    Https,
    HttpsResumed,
    /// With a root of the service's own.
    HttpsOwnRoot,
    Grpc,
    GrpcKept,
    Grpcs,
    Tcp,
    TcpBanner,
    Tls,
    WebSocket,
    Wss,
    Dns,
    Icmp,
    /// What is looked up when it is due whether a service has reported in.
    Heartbeat,
}

impl Kind {
    pub(crate) const ALL: [Self; 18] = [
        Self::Http,
        Self::HttpKept,
        Self::HttpJudged,
        Self::HttpNamed,
        Self::Https,
        Self::HttpsResumed,
        Self::HttpsOwnRoot,
        Self::Grpc,
        Self::GrpcKept,
        Self::Grpcs,
        Self::Tcp,
        Self::TcpBanner,
        Self::Tls,
        Self::WebSocket,
        Self::Wss,
        Self::Dns,
        Self::Icmp,
        Self::Heartbeat,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::HttpKept => "http-keep-alive",
            Self::HttpJudged => "http-judged",
            Self::HttpNamed => "http-named",
            Self::Https => "https",
            Self::HttpsResumed => "https-resumed",
            Self::HttpsOwnRoot => "https-own-root",
            Self::Grpc => "grpc",
            Self::GrpcKept => "grpc-keep-alive",
            Self::Grpcs => "grpcs",
            Self::Tcp => "tcp",
            Self::TcpBanner => "tcp-banner",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::Wss => "wss",
            Self::Dns => "dns",
            Self::Icmp => "icmp",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// Whether there is a stage at which a silent target holds up one that is like no other kind's: a name
    /// has been resolved by then, and a session that was resumed is like any.
    pub(crate) const fn can_wait(self) -> bool {
        !matches!(self, Self::HttpNamed | Self::HttpsResumed | Self::Heartbeat)
    }

    /// Whether connections outlive their first question.
    pub(crate) const fn is_kept(self) -> bool {
        matches!(self, Self::HttpKept | Self::GrpcKept)
    }

    /// The host that the `n`th client asks. A datagram's answer must come from where it was asked.
    pub(crate) fn host(self, n: usize) -> String {
        match self {
            Self::HttpNamed => "localhost".to_owned(),
            Self::Dns => "127.0.0.1".to_owned(),
            _ => format!("127.0.0.{}", n % usize::from(HOSTS) + 1),
        }
    }

    /// What is written of a service of this kind beside its name and times.
    fn settings(self, host: &str, ports: &Ports, ca: &str) -> Value {
        let Ports { http, http_kept, json, https, tls, grpc, grpc_kept, grpcs, tcp, banner, websocket, wss, dns } =
            ports;
        match self {
            Self::Http | Self::HttpNamed => json!({"url": format!("http://{host}:{http}/")}),
            Self::HttpKept => {
                json!({"url": format!("http://{host}:{http_kept}/"), "http": {"connection": "keep_alive"}})
            }
            Self::HttpJudged => json!({
                "url": format!("http://{host}:{json}/"),
                "http": {"headers": {"accept": "application/json", "x-monitor": "healthmon"}},
                "expect": {
                    "status": ["2xx"],
                    "header": {"content-type": "application/json"},
                    "body": {"matches": "\"version\":\\s*\"v\\d+\\.\\d+\\.\\d+\""},
                    "json": {"$.status": "green", "$.nodes[*].load": {">=": 0}},
                    "latency": {"fail": "5s"}
                }
            }),
            Self::Https => json!({"url": format!("https://{host}:{https}/")}),
            Self::HttpsResumed => {
                json!({"url": format!("https://{host}:{https}/"), "http": {"tls": {"resumption": "enabled"}}})
            }
            Self::HttpsOwnRoot => json!({"url": format!("https://{host}:{https}/"), "http": {"tls": {"ca": ca}}}),
            Self::Grpc => json!({"url": format!("grpc://{host}:{grpc}/shop.v1.Cart")}),
            Self::GrpcKept => {
                json!({"url": format!("grpc://{host}:{grpc_kept}/shop.v1.Cart"), "grpc": {"connection": "keep_alive"}})
            }
            Self::Grpcs => json!({"url": format!("grpcs://{host}:{grpcs}/shop.v1.Cart")}),
            Self::Tcp => json!({"url": format!("tcp://{host}:{tcp}")}),
            Self::TcpBanner => {
                json!({"url": format!("tcp://{host}:{banner}"), "tcp": {"expect": {"prefix": "220 "}}})
            }
            Self::Tls => json!({"url": format!("tls://{host}:{tls}")}),
            Self::WebSocket => json!({"url": format!("ws://{host}:{websocket}/")}),
            Self::Wss => json!({"url": format!("wss://{host}:{wss}/")}),
            Self::Dns => json!({"url": format!("dns://{host}:{dns}/www.shop.example")}),
            Self::Icmp => json!({"url": format!("icmp://{host}"), "icmp": {"count": 1}}),
            Self::Heartbeat => json!({"url": "heartbeat://nightly-backup", "heartbeat": {"every": "24h"}}),
        }
    }

    /// A probe of the `n`th service of this kind, which is asked at `ports`.
    pub(crate) fn probe(self, n: usize, ports: &Ports, places: &Places) -> Probe {
        let mut settings = self.settings(&self.host(n), ports, &places.ca);
        let fields = settings.as_object_mut().expect("an object");
        fields.insert("name".to_owned(), json!(format!("{} {n}", self.name())));
        fields.insert("interval".to_owned(), json!("5m"));
        fields.insert("timeout".to_owned(), json!("2m"));
        let settings = serde_json::from_value(settings).expect("settings");
        let now = SystemClock::new().now();
        let id = ServiceId::new((n as u64 + 1) << 22).expect("an id");
        let service = Service::registered(id, settings, Revision(1), Epoch(1), now);
        Probe::new(Arc::new(service), Region::default(), Slot::at(now), ProbeKind::Scheduled)
    }
}
