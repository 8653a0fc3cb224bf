//! A real nginx, plain and over TLS: right, and broken in the ways it can be.

use std::{fmt::Write as _, fs, io, net::IpAddr, path::Path, process::Command, sync::Arc, time::Duration};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
    servers::PrivateProgram,
};
use healthmon_core::probe::{FailReason, Outcome};
use serde_json::{Value, json};

use super::{
    support::{Names, PATIENCE, detail, see_within},
    tls::{Authority, Identity, expired, params, self_signed, until_2024},
};

const ASSERTION: Outcome = Outcome::Fail(FailReason::Assertion);
const CERTIFICATE: Outcome = Outcome::Fail(FailReason::Certificate);
const PROTOCOL: Outcome = Outcome::Fail(FailReason::Protocol);
const STATUS: Outcome = Outcome::Fail(FailReason::Status);
const TIMEOUT: Outcome = Outcome::Fail(FailReason::Timeout);
const TLS: Outcome = Outcome::Fail(FailReason::Tls);

/// What is provoked, and how it is to be told: a part of the message, "" for none at all. `PORT` stands
/// for the server's port.
struct Row {
    url: String,
    options: Value,
    timeout: Duration,
    outcome: Outcome,
    says: &'static str,
}

fn row(url: &str, options: Value, outcome: Outcome, says: &'static str) -> Row {
    Row { url: url.to_owned(), options, timeout: PATIENCE, outcome, says }
}

fn within(timeout: Duration, row: Row) -> Row {
    Row { timeout, ..row }
}

/// All ports are the same; who listens where is told apart by the address: 127.0.0.1 TLS with HTTP/2,
/// 127.0.0.2 plain, 127.0.0.3 TLS 1.1, 127.0.0.4 TLS without HTTP/2. Nobody listens on 127.0.0.5.
struct Nginx {
    server: PrivateProgram,
    authority: Authority,
}

/// The locations of the plain server, which those over TLS have too.
fn locations(folder: &Path) -> String {
    let many: String = (0..120).fold(String::new(), |mut all, n| {
        write!(all, "add_header X-{n} v; ").expect("a string");
        all
    });
    // A word of nginx's settings is 4 KiB at most, so that what is to be larger is put together.
    let thousand = "x".repeat(1_000);
    format!(
        "root {folder};\nabsolute_redirect off;\n\
         location = / {{ add_header X-Cache HIT; default_type text/plain; return 200 \"all is green\"; }}\n\
         location = /empty {{ return 204; }}\n\
         location = /json {{ default_type application/json; return 200 '{{\"status\":\"green\",\"load\":0.5}}'; }}\n\
         location = /500 {{ return 500; }}\nlocation = /503 {{ return 503; }}\nlocation = /403 {{ deny all; }}\n\
         location = /502 {{ proxy_pass http://127.0.0.5:$server_port; }}\n\
         location = /moved {{ return 301 /; }}\nlocation = /nowhere {{ return 302 ftp://shop.test/; }}\n\
         location = /circle {{ return 302 /circle; }}\nlocation /hops/ {{ return 302 /hops$request_uri; }}\n\
         location = /other {{ return 302 https://expired.test:$server_port/; }}\n\
         location = /secure {{ return 302 https://shop.test:$server_port/; }}\n\
         location = /closed {{ return 444; }}\n\
         location = /large {{ set $a \"{thousand}\"; set $b \"$a$a$a$a$a$a$a$a\"; add_header X-Large \"$b$b$b$b$b$b$b$b$b$b$b$b$b$b$b\"; \
         return 204; }}\n\
         location = /many {{ {many} return 204; }}\n\
         location = /basic {{ auth_basic shop; auth_basic_user_file {folder}/users; try_files /small.txt =404; }}\n\
         location = /zipped.txt {{ gzip on; gzip_min_length 1; gzip_types *; }}\n\
         location = /slow.txt {{ limit_rate 1000; }}\nlocation = /slower.txt {{ limit_rate 1000; }}\n\
         location = /queued {{ limit_req zone=queue burst=9; try_files /small.txt =404; }}\n",
        folder = folder.display(),
    )
}

fn write(folder: &Path, name: &str, identity: &Identity) -> io::Result<String> {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    fs::write(&certificate, &identity.pem)?;
    fs::write(&key, identity.key.serialize_pem())?;
    Ok(format!("ssl_certificate {};\nssl_certificate_key {};\n", certificate.display(), key.display()))
}

impl Nginx {
    fn start() -> Self {
        let authority = Authority::new();
        let server = PrivateProgram::start("nginx", |folder, port| {
            for (name, body) in [
                ("small.txt", "small\n".to_owned()),
                ("zipped.txt", "green ".repeat(100)),
                ("slow.txt", "x".repeat(2_500)),
                ("slower.txt", "x".repeat(60_000)),
                ("users", "monitor:{PLAIN}canary\n".to_owned()),
            ] {
                fs::write(folder.join(name), body)?;
            }
            fs::write(folder.join("authority.pem"), &authority.pem)?;
            let locations = locations(folder);
            let mut servers = format!("server {{\nlisten 127.0.0.2:{port};\n{locations}}}\n");
            for (name, identity) in [
                ("shop.test", authority.sign(&params("shop.test"))),
                ("expired.test", authority.sign(&expired("expired.test"))),
                ("soon.test", authority.sign(&until_2024("soon.test"))),
                ("wrong.test", authority.sign(&params("shop.test"))),
                ("self.test", self_signed("self.test")),
                ("stranger.test", Authority::new().sign(&params("stranger.test"))),
                ("client.test", authority.sign(&params("client.test"))),
            ] {
                let tls = write(folder, name, &identity)?;
                let client = match name {
                    "client.test" => {
                        format!("ssl_client_certificate {}/authority.pem;\nssl_verify_client on;\n", folder.display())
                    }
                    _ => String::new(),
                };
                write!(
                    servers,
                    "server {{\nlisten 127.0.0.1:{port} ssl http2;\nserver_name {name};\n{tls}{client}{locations}}}\n"
                )
                .expect("a string");
            }
            let tls = write(folder, "old.test", &authority.sign(&params("old.test")))?;
            write!(
                servers,
                "server {{\nlisten 127.0.0.3:{port} ssl;\n{tls}ssl_protocols TLSv1.1;\nssl_ciphers ALL:@SECLEVEL=0;\n}}\n"
            )
            .expect("a string");
            let tls = write(folder, "one.test", &authority.sign(&params("one.test")))?;
            write!(servers, "server {{\nlisten 127.0.0.4:{port} ssl;\n{tls}{locations}}}\n").expect("a string");
            let at = folder.display();
            let text = format!(
                "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
                 access_log off;\nclient_body_temp_path {at}/a;\nproxy_temp_path {at}/b;\nfastcgi_temp_path {at}/c;\n\
                 uwsgi_temp_path {at}/d;\nscgi_temp_path {at}/e;\nlimit_req_zone $uri zone=queue:1m rate=1r/m;\n\
                 {servers}}}\n"
            );
            let path = folder.join("nginx.conf");
            fs::write(&path, text)?;
            let mut command = Command::new("nginx");
            // Debian keeps servers out of an ordinary user's path.
            command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
            command.args(["-e", "stderr", "-c"]).arg(path);
            Ok(command)
        });
        Self { server: server.expect("nginx starts"), authority }
    }

    fn prober(&self) -> HttpProber {
        let names = Names(Box::new(|name| {
            let address: IpAddr = match name {
                "plain.test" => [127, 0, 0, 2],
                "old.test" => [127, 0, 0, 3],
                "one.test" => [127, 0, 0, 4],
                "nobody.test" => [127, 0, 0, 5],
                "unknown.test" => return Vec::new(),
                _ => [127, 0, 0, 1],
            }
            .into();
            vec![address]
        }));
        let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::new(names));
        let extra_roots = self.authority.pem.clone().into_bytes();
        HttpProber::new(HttpProberConfig { dialer: dialer.into(), extra_roots, ..Default::default() })
            .expect("a prober")
    }

    /// Probes as each row says, and tells of all that came out otherwise.
    async fn show(&self, rows: Vec<Row>) {
        let (prober, port) = (self.prober(), self.server.port().to_string());
        let mut wrong = String::new();
        for Row { url, options, timeout, outcome, says } in rows {
            let url = url.replace("PORT", &port);
            let seen = see_within(&prober, &url, timeout, options.clone()).await;
            let says = says.replace("PORT", &port);
            let told = if says.is_empty() { detail(&seen).is_empty() } else { detail(&seen).contains(&says) };
            if seen.outcome != outcome || !told {
                let (saw, detail) = (seen.outcome, detail(&seen));
                writeln!(wrong, "{url} {options}: expected {outcome:?} {says:?}, got {saw:?} {detail:?}")
                    .expect("a string");
            }
            assert!(!detail(&seen).contains("canary"), "{url}: {seen:?}");
        }
        assert!(wrong.is_empty(), "\n{wrong}{}", self.server.log().unwrap_or_default());
    }
}

fn plain(path: &str, options: Value, outcome: Outcome, says: &'static str) -> Row {
    row(&format!("http://plain.test:PORT{path}"), options, outcome, says)
}

fn tls(name: &str, options: Value, outcome: Outcome, says: &'static str) -> Row {
    row(&format!("https://{name}:PORT/"), options, outcome, says)
}

fn basic(password: &str) -> Value {
    json!({"http": {"auth": {"basic": {"username": "monitor", "password": password}}}})
}

#[tokio::test]
async fn nginx_in_the_clear() {
    let expect = |expect: Value| json!({"expect": expect});
    let redirects = |most: u8| json!({"http": {"redirects": most}});
    let nginx = Nginx::start();
    nginx
        .show(vec![
            plain("/", json!({}), Outcome::Pass, ""),
            plain("/", expect(json!({"header": {"x-cache": "HIT"}, "body": "green", "size": 12})), Outcome::Pass, ""),
            plain("/empty", expect(json!({"status": 204, "version": "1.1"})), Outcome::Pass, ""),
            plain("/json", expect(json!({"json": {"$.status": "green", "$.load": {"<": 1}}})), Outcome::Pass, ""),
            plain("/zipped.txt", expect(json!({"body": {"matches": "^(green ){100}$"}})), Outcome::Pass, ""),
            plain("/", json!({"http": {"method": "HEAD"}}), Outcome::Pass, ""),
            // Statuses.
            plain("/none", json!({}), STATUS, "status: expected 200-299, got 404"),
            plain("/none", expect(json!({"status": "404"})), Outcome::Pass, ""),
            plain("/403", json!({}), STATUS, "got 403"),
            plain("/500", json!({}), STATUS, "got 500"),
            plain("/502", json!({}), STATUS, "got 502"),
            plain("/503", expect(json!({"status": ["2xx", 500]})), STATUS, "got 503"),
            plain("/", json!({"http": {"method": "DELETE"}}), Outcome::Pass, ""),
            plain("/small.txt", json!({"http": {"method": "POST", "body": "x"}}), STATUS, "got 405"),
            // What is expected of an answer.
            plain(
                "/",
                expect(json!({"body": "red"})),
                ASSERTION,
                "body: expected to contain \"red\", got a body of 12",
            ),
            plain(
                "/",
                expect(json!({"header": {"x-none": {"exists": true}}})),
                ASSERTION,
                "header x-none: expected to be",
            ),
            plain("/", expect(json!({"header": {"x-cache": "MISS"}})), ASSERTION, "expected \"MISS\", got \"HIT\""),
            plain(
                "/json",
                expect(json!({"json": {"$.load": {">": 0.9}}})),
                ASSERTION,
                "json $.load: expected > 0.9, got 0.5",
            ),
            plain("/", expect(json!({"json": {"$.load": 1}})), ASSERTION, "json: expected a JSON document"),
            plain("/", expect(json!({"size": {"max": 5}})), ASSERTION, "size: expected at most 5 bytes, got 12"),
            plain("/", expect(json!({"version": "2"})), ASSERTION, "http version: expected 2, got 1.1"),
            // Redirects.
            plain("/moved", expect(json!({"url": {"matches": "/$"}})), Outcome::Pass, ""),
            plain("/moved", expect(json!({"status": 301})), Outcome::Pass, ""),
            plain("/moved", redirects(0), STATUS, "got 301"),
            plain("/secure", json!({}), Outcome::Pass, ""),
            plain("/other", json!({}), CERTIFICATE, "redirected to https://expired.test:PORT: certificate"),
            plain("/hops/", redirects(3), Outcome::Fail(FailReason::Redirect), "more than 3 redirects"),
            plain("/circle", json!({}), Outcome::Fail(FailReason::Redirect), "redirects go in circles"),
            plain("/nowhere", json!({}), Outcome::Fail(FailReason::Redirect), "redirect to a \"ftp\" url"),
            // Answers that are none.
            plain("/closed", json!({}), PROTOCOL, "connection closed before message completed"),
            plain("/large", json!({}), PROTOCOL, "message head is too large"),
            plain("/many", json!({}), PROTOCOL, "message head is too large"),
            plain("/", json!({"http": {"version": "2"}}), PROTOCOL, "http2 error"),
            row("https://plain.test:PORT/", json!({}), TLS, "InvalidContentType"),
            row("http://shop.test:PORT/", json!({}), STATUS, "got 400"),
            row(
                "http://nobody.test:PORT/",
                json!({}),
                Outcome::Fail(FailReason::Connect),
                "connect to 127.0.0.5:PORT: ",
            ),
            row("http://unknown.test:PORT/", json!({}), Outcome::Fail(FailReason::Dns), "unknown.test"),
            // Who we are.
            plain("/basic", basic("canary"), Outcome::Pass, ""),
            plain("/basic", basic("canary2"), Outcome::Fail(FailReason::Authentication), "got 401"),
            plain("/basic", json!({}), STATUS, "got 401"),
        ])
        .await;
}

#[tokio::test]
async fn nginx_that_is_slow() {
    let latency = |bounds: Value| json!({"expect": {"latency": bounds}});
    let moment = Duration::from_millis(300);
    let nginx = Nginx::start();
    nginx
        .show(vec![
            // The rest of its body comes a second and more after the first 1,000 bytes.
            plain(
                "/slow.txt",
                latency(json!({"degraded": "700ms"})),
                Outcome::Slow,
                "latency: expected at most 700ms, got ",
            ),
            plain("/slow.txt", latency(json!({"fail": "700ms"})), ASSERTION, "latency: expected at most 700ms, got "),
            plain("/slow.txt", latency(json!({"fail": "9s", "degraded": "8s"})), Outcome::Pass, ""),
            within(moment, plain("/slower.txt", json!({}), TIMEOUT, "timed out after 300 ms while")),
            // The first is answered at once, and the next one has to wait its turn for a minute.
            plain("/queued", json!({}), Outcome::Pass, ""),
            within(moment, plain("/queued", json!({}), TIMEOUT, "timed out after 300 ms while")),
        ])
        .await;
}

#[tokio::test]
async fn nginx_over_tls() {
    let nginx = Nginx::start();
    let shown = |identity: &Identity| json!({"http": {"tls": {"certificate": identity.pem, "key": identity.key.serialize_pem()}}});
    let known = shown(&nginx.authority.sign(&params("monitor.test")));
    let stranger = shown(&Authority::new().sign(&params("monitor.test")));
    let unverified = json!({"http": {"tls": {"verify": "none"}}});
    let two = json!({"http": {"version": "any"}, "expect": {"version": "2"}});
    // The probes' slot is in November 2023, 48 whole days before soon.test's certificate expires.
    let days = |bounds: Value| json!({"expect": {"certificate": bounds}, "http": {"tls": {"verify": "none"}}});
    nginx
        .show(vec![
            tls("shop.test", json!({}), Outcome::Pass, ""),
            tls("shop.test", json!({"expect": {"version": "1.1", "body": "green"}}), Outcome::Pass, ""),
            tls("shop.test", json!({"expect": {"body": "red"}}), ASSERTION, "body: expected to contain \"red\""),
            row("https://shop.test:PORT/none", json!({}), STATUS, "got 404"),
            row("https://shop.test:PORT/closed", json!({}), PROTOCOL, "peer closed connection"),
            row("https://shop.test:PORT/basic", basic("canary"), Outcome::Pass, ""),
            row("https://shop.test:PORT/basic", basic("canary2"), Outcome::Fail(FailReason::Authentication), "got 401"),
            // HTTP/2.
            tls("shop.test", two.clone(), Outcome::Pass, ""),
            row("https://shop.test:PORT/none", json!({"http": {"version": "2"}}), STATUS, "got 404"),
            row("https://shop.test:PORT/moved", two.clone(), Outcome::Pass, ""),
            row("https://shop.test:PORT/closed", two.clone(), PROTOCOL, "http2 error"),
            row("https://shop.test:PORT/large", two.clone(), PROTOCOL, "http2 error"),
            tls("one.test", json!({"http": {"version": "any"}}), Outcome::Pass, ""),
            tls("one.test", two, ASSERTION, "http version: expected 2, got 1.1"),
            tls("one.test", json!({"http": {"version": "2"}}), TLS, "NoApplicationProtocol"),
            // Certificates.
            tls("expired.test", json!({}), CERTIFICATE, "expired"),
            tls("expired.test", unverified.clone(), Outcome::Pass, ""),
            tls("wrong.test", json!({}), CERTIFICATE, "not valid for name \"wrong.test\""),
            tls("wrong.test", json!({"http": {"tls": {"server_name": "shop.test"}}}), Outcome::Pass, ""),
            tls("self.test", json!({}), CERTIFICATE, "invalid peer certificate"),
            tls("self.test", unverified, Outcome::Pass, ""),
            tls("stranger.test", json!({}), CERTIFICATE, "invalid peer certificate"),
            tls("soon.test", days(json!({"days": 7, "degraded_days": 60})), Outcome::Slow, "certificate"),
            tls("soon.test", days(json!({"days": 50})), CERTIFICATE, "certificate"),
            tls("soon.test", days(json!({"days": 48})), Outcome::Pass, ""),
            tls("old.test", json!({}), TLS, "ProtocolVersion"),
            // A client's certificate: nginx says what it misses by a status.
            tls("client.test", known, Outcome::Pass, ""),
            tls("client.test", json!({}), STATUS, "got 400"),
            tls("client.test", stranger, STATUS, "got 400"),
        ])
        .await;
}
