//! The peer: Prometheus' blackbox exporter probes the same target, asked as Prometheus asks it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use super::{
    Options,
    accounts::{Account, Books, memory_kb},
    control, note_load,
};
use crate::process::Child;

const EXPORTER: &str = "prometheus-blackbox-exporter";
const MODULES: &str =
    "modules:\n  http_2xx:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n";
/// Requests under way at once.
const AT_ONCE: usize = 16;

struct Exporter(std::process::Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn peer(options: &Options<'_>) {
    let seconds = options.number("--seconds").unwrap_or(20);
    println!("\n== peer: {EXPORTER} on the same target, {seconds} s each ==");
    note_load();
    let target = Child::start("role-target", &[]);
    let ports = target.line();
    let folder = tempfile::tempdir().expect("a folder");
    let modules = folder.path().join("modules.yml");
    fs::write(&modules, MODULES).expect("written");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let child = Command::new(EXPORTER)
        .args([format!("--config.file={}", modules.display()), format!("--web.listen-address=127.0.0.1:{port}")])
        .arg("--log.level=error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the exporter runs; install Debian's prometheus-blackbox-exporter");
    let exporter = Exporter(child);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        sleep(Duration::from_millis(50));
    }
    for rate in [500, 0] {
        let bare = control(&ports, rate, seconds);
        let accounts = [
            Account { name: "exporter", process: exporter.0.id() },
            Account { name: "target", process: target.process() },
        ];
        let books = Books::read(&accounts);
        let done = drive(port, &ports, rate, Duration::from_secs(seconds));
        let spent = books.until(&Books::read(&accounts));
        let asked = if rate == 0 { "as many as it can".to_owned() } else { format!("{rate} a second") };
        let each = spent.of("exporter") as f64 / done.max(1) as f64;
        println!(
            "{asked}: {:.0} probes/s, exporter {each:.0} us CPU each, {} kB; bare client {:.0}/s, {:.1} us: {:.1} x",
            done as f64 / spent.wall_us as f64 * 1e6,
            memory_kb(exporter.0.id()),
            bare.per_second(),
            bare.cpu_us_per_probe(),
            each / bare.cpu_us_per_probe()
        );
    }
}

/// Asks for probes on a few connections that stay open, as Prometheus keeps them. Returns how many
/// succeeded; all must.
fn drive(port: u16, ports: &str, rate: u64, span: Duration) -> u64 {
    let ports: Vec<&str> = ports.split(',').collect();
    let (begin, asked, done) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the exporter is there");
                stream.set_nodelay(true).expect("TCP_NODELAY");
                let mut lines = BufReader::new(stream);
                while begin.elapsed() < span {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    if let Some(due) = (number * 1_000_000).checked_div(rate) {
                        sleep(Duration::from_micros(due).saturating_sub(begin.elapsed()));
                    }
                    assert!(probe(&mut lines, ports[number as usize % ports.len()]), "a probe did not succeed");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner()
}

fn probe(connection: &mut BufReader<TcpStream>, port: &str) -> bool {
    let ask = format!("GET /probe?module=http_2xx&target=http://127.0.0.1:{port}/ HTTP/1.1\r\nhost: exporter\r\n\r\n");
    connection.get_mut().write_all(ask.as_bytes()).expect("asked");
    let body = answer(connection);
    String::from_utf8_lossy(&body).contains("probe_success 1")
}

/// The body of an answer of either framing.
fn answer(connection: &mut BufReader<TcpStream>) -> Vec<u8> {
    let line = |connection: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        connection.read_line(&mut line).expect("an answer");
        line.trim_end().to_ascii_lowercase()
    };
    let mut length = None;
    loop {
        let head = line(connection);
        if head.is_empty() {
            break;
        }
        length = head.strip_prefix("content-length:").map_or(length, |text| text.trim().parse::<usize>().ok());
    }
    let mut body = Vec::new();
    let mut take = |connection: &mut BufReader<TcpStream>, count: usize| {
        let from = body.len();
        body.resize(from + count, 0);
        connection.read_exact(&mut body[from..]).expect("the body");
    };
    match length {
        Some(length) => take(connection, length),
        None => loop {
            let size = usize::from_str_radix(&line(connection), 16).expect("a chunk's size");
            take(connection, size);
            // Each chunk ends with a line's end.
            line(connection);
            if size == 0 {
                break;
            }
        },
    }
    body
}
