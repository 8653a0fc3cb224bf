//! Secrets of services: found in no place but the target's.

use std::path::Path;

use healthmon_server::probers::Shared;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Answer, Server, Target, folder, until};

/// What must not be found.
const CANARY: &str = "canary-7c1d99";
/// `u:` and that, in base64.
const ENCODED: &str = "dTpjYW5hcnktN2MxZDk5";
const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "f0e0d0c0b0a090807060504030201000ffeeddccbbaa99887766554433221100";
const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

async fn with_key(database: &Path, key: Option<&str>) -> Server {
    let environment: Vec<_> = key.iter().map(|key| ("HEALTHMON_SECRET_KEY", *key)).collect();
    let server = Server::at([127, 0, 0, 1], database, &["serve", "--log", "trace"], &environment);
    server.ready().await;
    server
}

/// Whether the canary is in any file of this folder whose name begins so.
fn is_in_files(folder: &Path, prefix: &str) -> bool {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of_it = files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    of_it.filter(|file| file.extension().is_none_or(|extension| extension != "log")).any(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
    })
}

/// The address of a target that gives back all that it is sent, in every place it has, and fails.
async fn parrot() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut heard = vec![0; 4096];
                let length = stream.read(&mut heard).await.unwrap_or(0);
                let heard = String::from_utf8_lossy(&heard[..length]).replace(['\r', '\n'], " ");
                let length = heard.len();
                let answer =
                    format!("HTTP/1.1 503 {heard}\r\nx-heard: {heard}\r\ncontent-length: {length}\r\n\r\n{heard}");
                stream.write_all(answer.as_bytes()).await.ok();
            });
        }
    });
    address
}

/// Services with the canary in every field that holds a secret, whose targets are at `address`.
fn services(address: &str) -> Vec<Value> {
    let service = |name: &str, scheme: &str, path: &str, section: Value| {
        let mut service = json!({"name": name, "url": format!("{scheme}://{address}{path}"), "interval": "1s",
            "timeout": "1s", "policy": {"failure_threshold": 1}});
        service.as_object_mut().unwrap().extend(section.as_object().unwrap().clone());
        service
    };
    let http = |name: &str, section: Value| service(name, "http", "/", json!({"http": section}));
    let tls = json!({"certificate": PEM, "key": CANARY});
    let url = format!("http://{address}/");
    let basic = json!({"username": "u", "password": CANARY});
    let proxy = json!({"url": url, "username": "u", "password": CANARY});
    let client = json!({"token_url": url, "client_id": "u", "client_secret": CANARY});
    let steps = json!([{"send": "HELO\r\n"}, {"send": CANARY, "expect": {"prefix": "+"}}]);
    let headers = json!({"authorization": format!("Bearer {CANARY}"), "x-key": CANARY});
    vec![
        http("headers", json!({"headers": headers})),
        http("body", json!({"method": "POST", "body": CANARY})),
        http("basic", json!({"auth": {"basic": basic}})),
        http("bearer", json!({"auth": {"bearer": {"token": CANARY}}})),
        http("oauth2", json!({"auth": {"oauth2": client}})),
        http("proxy", json!({"proxy": proxy})),
        service("tunnel", "https", "/", json!({"http": {"proxy": proxy}})),
        service("https", "https", "/", json!({"http": {"tls": tls}})),
        service("metadata", "grpc", "/cart", json!({"grpc": {"metadata": {"authorization": CANARY, "x-key": CANARY}}})),
        service("grpcs", "grpcs", "/cart", json!({"grpc": {"tls": tls}})),
        service("tcp", "tcp", "", json!({"tcp": {"send": CANARY, "expect": {"prefix": "+"}}})),
        service("tcp steps", "tcp", "", json!({"tcp": {"steps": steps}})),
        service("starttls", "tcp", "", json!({"tcp": {"starttls": "smtp", "tls": tls}})),
        service("tls", "tls", "", json!({"tls": {"send": CANARY, "certificate": PEM, "key": CANARY}})),
        service("tls steps", "tls", "", json!({"tls": {"steps": steps}})),
        service("websocket", "ws", "/", json!({"websocket": {"headers": headers, "send": CANARY}})),
        service("wss", "wss", "/", json!({"websocket": {"tls": tls}})),
        service("dns", "dns", "/a.test", json!({"dns": {"protocol": "tls", "tls": tls}})),
    ]
}

/// Where the canary stands in these settings.
fn places(value: &Value, way: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(CANARY) => found.push(way.to_owned()),
        Value::Object(map) => map.iter().for_each(|(name, value)| places(value, &format!("{way}.{name}"), found)),
        Value::Array(items) => items.iter().for_each(|value| places(value, &format!("{way}.0"), found)),
        _ => {}
    }
}

/// Whether a prober's path, such as `.http.headers.*`, leads there.
fn leads(path: &str, place: &str) -> bool {
    path.split('.').count() == place.split('.').count()
        && path.split('.').zip(place.split('.')).all(|(step, name)| step == "*" || step == name)
}

#[test]
fn the_canary_is_in_every_secret_field_of_every_prober() {
    let probers = healthmon_server::probers::build(&Shared::default()).unwrap();
    let paths: Vec<String> =
        probers.iter().flat_map(|prober| prober.secrets()).map(|path| format!(".{path}")).collect();
    let mut found = Vec::new();
    services("127.0.0.1:1").iter().for_each(|service| places(service, "", &mut found));
    let without: Vec<_> = paths.iter().filter(|path| !found.iter().any(|place| leads(path, place))).collect();
    assert!(without.is_empty(), "the table above says nothing of {without:?}");
    let shown: Vec<_> = found.iter().filter(|place| !paths.iter().any(|path| leads(path, place))).collect();
    assert!(shown.is_empty(), "no prober says that these are secrets: {shown:?}");
}

/// Whether the canary is in this text, as it is or as HTTP shows a password.
fn tells(text: &str) -> bool {
    text.contains(CANARY) || text.contains(ENCODED)
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_canary_in_every_secret_field_is_found_nowhere() {
    let (folder, address) = (folder(), parrot().await);
    let mut server = with_key(&folder.path().join("db"), Some(OLD)).await;
    let mut events = server.events("").await.unwrap();
    let mut answers: Vec<Answer> = Vec::new();
    let (mut failing, mut paths) = (0, Vec::new());
    for settings in services(&address) {
        let created = server.send("POST", "/api/v1/services", Some(settings.clone())).await;
        assert_eq!(created.status, 201, "{settings}: {}", created.json);
        let path = created.header("location").to_owned();
        answers.push(created);
        let wrong = json!({"http": {"headers": {"bad name": CANARY}, "nonsense": CANARY}, "interval": CANARY});
        for (method, path, body) in [
            ("GET", path.clone(), None),
            ("PATCH", path.clone(), Some(json!({"tags": {"a": "b"}}))),
            ("PATCH", path.clone(), Some(wrong)),
            ("POST", format!("{path}/probe"), None),
            ("POST", format!("{path}/pause"), None),
            ("POST", format!("{path}/resume"), None),
            ("GET", format!("{path}/uptime"), None),
        ] {
            let answer = server.send(method, &path, body).await;
            if path.ends_with("/probe") {
                assert_ne!(answer.json["outcome"], "pass", "{settings}: {}", answer.json);
                failing += usize::from(answer.json["outcome"] == "fail");
            }
            answers.push(answer);
        }
        paths.push(path);
    }
    assert!(failing > 6, "of {} services only {failing} fail for what their targets say", paths.len());
    for _ in 0..failing {
        let event = events.transition().await;
        assert!(!tells(&event.to_string()), "{event}");
    }
    for path in paths {
        for what in ["", "/results", "/transitions"] {
            answers.push(server.get(&format!("{path}{what}")).await);
        }
    }
    for path in ["/api/v1/services", "/api/v1/transitions", "/api/v1/cluster", "/api/v1/reasons", "/metrics"] {
        answers.push(server.get(path).await);
    }
    for answer in &answers {
        assert!(!tells(&String::from_utf8_lossy(&answer.bytes)), "{}", answer.json);
        assert!(!tells(&format!("{:?}", answer.headers)), "{:?}", answer.headers);
    }
    server.terminate().await;
    let log = server.log();
    assert!(!tells(&log), "a secret is in the log: {:?}", log.lines().find(|line| tells(line)));
    assert!(!is_in_files(folder.path(), "db"), "a secret is in the database");
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_secrets_are_sealed_where_there_is_a_key_and_told_of_where_there_is_none() {
    let (folder, target) = (folder(), Target::start().await);
    let database = folder.path().join("db");
    let bearer = format!("Bearer {CANARY}");
    let sent = async |server: &Server, path: &str| {
        let probed = server.send("POST", &format!("{path}/probe"), None).await;
        (probed.json["reason"].clone(), target.authorization())
    };
    // Without a key the secret is in the file, and the next start says so.
    let mut server = with_key(&database, None).await;
    let settings =
        json!({"name": "a", "url": target.url, "interval": "1h", "http": {"headers": {"authorization": bearer}}});
    let path = format!("/api/v1/services/{}", server.register(settings).await);
    server.terminate().await;
    assert!(is_in_files(folder.path(), "db"), "the control: it is found where it is");
    let mut server = with_key(&database, None).await;
    until("the warning", async || server.log().contains("set HEALTHMON_SECRET_KEY").then_some(())).await;
    assert_eq!(sent(&server, &path).await, (Value::Null, Some(bearer.clone())));
    server.terminate().await;
    // With one, any change seals; whoever has the key opens.
    let mut server = with_key(&database, Some(OLD)).await;
    until("the warning", async || server.log().contains("PATCH them with {}").then_some(())).await;
    assert_eq!(server.send("PATCH", &path, Some(json!({}))).await.status, 200);
    assert_eq!(sent(&server, &path).await, (Value::Null, Some(bearer.clone())));
    server.terminate().await;
    // A new key before the old one: both open, and a change seals anew.
    let both = format!("{NEW},{OLD}");
    let mut server = with_key(&database, Some(&both)).await;
    until("the warning", async || server.log().contains("by_an_older_key=1").then_some(())).await;
    assert_eq!(sent(&server, &path).await, (Value::Null, Some(bearer.clone())));
    assert_eq!(server.send("PATCH", &path, Some(json!({}))).await.status, 200);
    server.terminate().await;
    let mut server = with_key(&database, Some(NEW)).await;
    assert_eq!(sent(&server, &path).await, (Value::Null, Some(bearer.clone())));
    server.terminate().await;
    // And without the key nothing is learnt of the target, and nothing is sent.
    let served = target.served();
    let mut server = with_key(&database, None).await;
    assert_eq!(sent(&server, &path).await.0, "secret");
    assert_eq!(target.served(), served);
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_sealed_text_is_taken_from_nobody() {
    let folder = folder();
    let server = with_key(&folder.path().join("db"), Some(OLD)).await;
    let sealed = json!({"sealed": "v1.c3RvbGVuIGZyb20gYSBiYWNrdXA"});
    let tls = |key: &Value| json!({"tls": {"certificate": PEM, "key": key}});
    let service = |key: &Value| json!({"name": "a", "url": "https://127.0.0.1:1/", "interval": "1h", "http": tls(key)});
    let refused = server.send("POST", "/api/v1/services", Some(service(&sealed))).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["http.tls.key"]), "{}", refused.json);
    let path = format!("/api/v1/services/{}", server.register(service(&json!("a key"))).await);
    let refused = server.send("PATCH", &path, Some(json!({"http": tls(&sealed)}))).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["http.tls.key"]), "{}", refused.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_stays_when_it_is_sent_back_and_references_are_shown_and_replaced_whole() {
    let folder = folder();
    let server = with_key(&folder.path().join("db"), Some(OLD)).await;
    let tls = |key: Value| json!({"http": {"tls": {"certificate": PEM, "key": key}}});
    let service =
        json!({"name": "a", "url": "https://127.0.0.1:1/", "interval": "1h", "http": tls(json!(CANARY))["http"]});
    let path = format!("/api/v1/services/{}", server.register(service).await);
    let key = |answer: &Answer| answer.json["http"]["tls"]["key"].clone();
    let shown = server.get(&path).await;
    assert_eq!(key(&shown), "(hidden)");
    let back = server.send("PATCH", &path, Some(tls(json!("(hidden)")))).await;
    assert_eq!((back.status, back.header("etag")), (200, shown.header("etag")), "nothing changed");
    for reference in [json!({"env": "HEALTHMON_SECRET_TLS"}), json!({"file": "tls.key"})] {
        let referred = server.send("PATCH", &path, Some(tls(reference.clone()))).await;
        assert_eq!((referred.status, key(&referred)), (200, reference), "{}", referred.json);
    }
    let plain = server.send("PATCH", &path, Some(tls(json!("another")))).await;
    assert_eq!((plain.status, key(&plain)), (200, json!("(hidden)")));
    let own = server.send("PATCH", &path, Some(tls(json!({"env": "HEALTHMON_SECRET_KEY"})))).await;
    assert_eq!(own.status, 422, "the key that seals is no service's secret: {}", own.json);
    assert!(own.fields().iter().all(|field| *field == "http.tls.key"), "{}", own.json);
}

/// A certificate in PEM that signs others.
fn ca_of(name: &str) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate").pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_secret_does_not_follow_a_target_that_moves() {
    let folder = folder();
    let server = with_key(&folder.path().join("db"), None).await;
    let service = json!({"name": "a", "url": "http://127.0.0.1:1/", "interval": "1h",
        "http": {"method": "POST", "body": CANARY, "headers": {"authorization": CANARY, "accept": "*/*"}}});
    let path = format!("/api/v1/services/{}", server.register(service).await);
    let moved = |http: Value| json!({"url": "http://127.0.0.2:1/", "http": http});
    let all = ["http.headers.authorization", "http.headers.accept", "http.body"];
    let mut all = all.map(str::to_owned).to_vec();
    all.sort_unstable();
    for (http, left) in [
        (json!({}), all.clone()),
        (json!({"headers": {}}), all.clone()),
        (json!({"headers": {"authorization": "(hidden)"}}), all),
        (json!({"headers": {"authorization": "new", "accept": null}}), vec!["http.body".to_owned()]),
    ] {
        let refused = server.send("PATCH", &path, Some(moved(http.clone()))).await;
        assert_eq!(refused.status, 422, "{http}");
        let mut fields = refused.fields();
        fields.sort_unstable();
        assert_eq!(fields, left, "{http}");
    }
    let with = |http: Value| json!({"http": http});
    for unchecked in [json!({"tls": {"verify": "none"}}), json!({"tls": {"ca": ca_of("anybody")}})] {
        let refused = server.send("PATCH", &path, Some(with(unchecked))).await;
        assert_eq!((refused.status, refused.fields().len()), (422, 3), "{}", refused.json);
    }
    let as_another = server.send("PATCH", &path, Some(with(json!({"host": "thief.example"})))).await;
    assert_eq!((as_another.status, as_another.fields().len()), (422, 3), "{}", as_another.json);
    let by_a_header = server.send("PATCH", &path, Some(with(json!({"headers": {"host": "thief.example"}})))).await;
    assert_eq!((by_a_header.status, by_a_header.fields()), (422, vec!["http.headers.host"]), "{}", by_a_header.json);
    let given = json!({"headers": {"authorization": CANARY, "accept": null}, "body": null, "method": "GET"});
    assert_eq!(server.send("PATCH", &path, Some(moved(given))).await.status, 200, "what is given again may go");
    let same_place = json!({"url": "http://127.0.0.2:1/another/path"});
    assert_eq!(server.send("PATCH", &path, Some(same_place)).await.status, 200, "only the path is another");
}
