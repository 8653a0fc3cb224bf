//! Real servers of each kind, each with a certificate of the test's own: right, and broken.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, process::Command};

use healthmon_adapters::servers::{PrivatePostgres, PrivateProgram};
use healthmon_core::probe::{FailReason, Outcome};
use serde_json::{Value, json};

use super::{
    peers::{tcp, tls},
    support::{Authority, Identity, detail, see},
};

/// Writes a certificate and its key where a server, as whoever it runs, reads them.
fn write(folder: &Path, identity: &Identity) -> io::Result<()> {
    fs::write(folder.join("tls.pem"), &identity.certificate)?;
    fs::write(folder.join("tls.key"), &identity.key)
}

/// A program of Debian's, which keeps servers out of an ordinary user's path.
fn program(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Whether a mail server offers TLS.
#[derive(Clone, Copy, PartialEq)]
enum Offers {
    Tls,
    Nothing,
}

fn exim(identity: &Identity, offers: Offers) -> PrivateProgram {
    let started = PrivateProgram::start("exim", |folder, port| {
        write(folder, identity)?;
        let spool = folder.join("spool");
        fs::create_dir(&spool)?;
        // Exim becomes its own user, who must read and write there.
        fs::set_permissions(&spool, PermissionsExt::from_mode(0o777))?;
        let (folder, spool) = (folder.display(), spool.display());
        let advertise = if offers == Offers::Tls { "*" } else { "" };
        let text = format!(
            "primary_hostname = mail.test\nspool_directory = {spool}\nlog_file_path = {spool}/%slog\n\
             pid_file_path = {spool}/exim.pid\ntls_certificate = {folder}/tls.pem\ntls_privatekey = {folder}/tls.key\n\
             tls_advertise_hosts = {advertise}\nacl_smtp_rcpt = deny\nbegin acl\ndeny:\n  deny\n"
        );
        let file = spool_file(folder.to_string().as_ref(), "exim.conf", &text)?;
        let mut command = program("exim4");
        command.arg("-bdf").arg("-oX").arg(format!("127.0.0.1.{port}")).arg("-C").arg(file);
        Ok(command)
    });
    started.expect("exim starts")
}

/// Writes a file that only its owner may change, as Exim wants its settings to be.
fn spool_file(folder: &Path, name: &str, text: &str) -> io::Result<std::path::PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
    Ok(path)
}

fn dovecot(identity: &Identity, protocol: &str, offers: Offers) -> PrivateProgram {
    let started = PrivateProgram::start("dovecot", |folder, port| {
        write(folder, identity)?;
        let ssl = if offers == Offers::Tls { "yes" } else { "no" };
        let folder = folder.display();
        let text = format!(
            "base_dir = {folder}/run\nstate_dir = {folder}/run\nlog_path = /dev/stderr\nprotocols = {protocol}\n\
             listen = 127.0.0.1\nssl = {ssl}\nssl_cert = <{folder}/tls.pem\nssl_key = <{folder}/tls.key\n\
             passdb {{\n  driver = static\n  args = password=x\n}}\nuserdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home=/nonexistent\n}}\n\
             service {protocol}-login {{\n  inet_listener {protocol} {{\n    port = {port}\n  }}\n  inet_listener {protocol}s {{\n    port = 0\n  }}\n  chroot =\n}}\n"
        );
        let path = Path::new(&folder.to_string()).join("dovecot.conf");
        fs::write(&path, text)?;
        let mut command = program("dovecot");
        command.arg("-F").arg("-c").arg(path);
        Ok(command)
    });
    started.expect("dovecot starts")
}

fn vsftpd(identity: &Identity, offers: Offers) -> PrivateProgram {
    let started = PrivateProgram::start("vsftpd", |folder, port| {
        write(folder, identity)?;
        fs::create_dir(folder.join("empty"))?;
        let ssl = if offers == Offers::Tls { "YES" } else { "NO" };
        let folder = folder.display();
        let text = format!(
            "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n\
             ssl_enable={ssl}\nallow_anon_ssl=YES\nrsa_cert_file={folder}/tls.pem\nrsa_private_key_file={folder}/tls.key\n\
             secure_chroot_dir={folder}/empty\nseccomp_sandbox=NO\nftp_username=nobody\n"
        );
        let path = spool_file(folder.to_string().as_ref(), "vsftpd.conf", &text)?;
        let mut command = program("vsftpd");
        command.arg(path);
        Ok(command)
    });
    started.expect("vsftpd starts")
}

fn slapd(identity: &Identity, offers: Offers) -> PrivateProgram {
    let started = PrivateProgram::start("slapd", |folder, port| {
        write(folder, identity)?;
        let folder = folder.display();
        let tls = if offers == Offers::Tls {
            format!("TLSCertificateFile {folder}/tls.pem\nTLSCertificateKeyFile {folder}/tls.key\n")
        } else {
            String::new()
        };
        let text = format!("pidfile {folder}/slapd.pid\nargsfile {folder}/slapd.args\n{tls}");
        let path = spool_file(folder.to_string().as_ref(), "slapd.conf", &text)?;
        let mut command = program("slapd");
        command.args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{port}"), "-f"]).arg(path);
        Ok(command)
    });
    started.expect("slapd starts")
}

fn postgres(identity: &Identity, offers: Offers) -> PrivatePostgres {
    let settings = [("fsync", "off"), ("full_page_writes", "off")];
    if offers == Offers::Nothing {
        return PrivatePostgres::start_with(&settings).expect("PostgreSQL starts");
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("readable");
    write(folder.path(), identity).expect("written");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    fs::set_permissions(path("tls.key"), PermissionsExt::from_mode(0o600)).expect("private");
    // Where tests run as root, the server runs as postgres.
    Command::new("chown").arg("postgres").arg(path("tls.key")).status().expect("chown runs");
    let (certificate, key) = (path("tls.pem"), path("tls.key"));
    let tls = [("ssl", "on"), ("ssl_cert_file", certificate.as_str()), ("ssl_key_file", key.as_str())];
    PrivatePostgres::start_with(&[&settings[..], &tls[..]].concat()).expect("PostgreSQL starts")
}

fn nginx(identity: &Identity, protocols: &str) -> PrivateProgram {
    let started = PrivateProgram::start("nginx", |folder, port| {
        write(folder, identity)?;
        let folder = folder.display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {folder}/a;\nproxy_temp_path {folder}/b;\nfastcgi_temp_path {folder}/c;\n\
             uwsgi_temp_path {folder}/d;\nscgi_temp_path {folder}/e;\nssl_protocols {protocols};\n\
             server {{\nlisten 127.0.0.1:{port} ssl http2;\nssl_certificate {folder}/tls.pem;\n\
             ssl_certificate_key {folder}/tls.key;\nlocation / {{ return 204; }}\n}}\n}}\n"
        );
        let path = Path::new(&folder.to_string()).join("nginx.conf");
        fs::write(&path, text)?;
        let mut command = program("nginx");
        command.args(["-e", "stderr", "-c"]).arg(path);
        Ok(command)
    });
    started.expect("nginx starts")
}

/// STARTTLS with the good certificate (and what may be said behind it), with one for another name,
/// with an expired one, and with a server that offers none.
async fn starttls<S>(protocol: &str, port: impl Fn(&S) -> u16, start: impl Fn(&Identity, Offers) -> S, behind: Value) {
    let authority = Authority::new();
    let prober = tcp(authority.tls());
    let certificate = Outcome::Fail(FailReason::Certificate);
    for (identity, offers, outcome, told) in [
        (authority.good(), Offers::Tls, Outcome::Pass, ""),
        (authority.sign("other.test", 2100), Offers::Tls, certificate, "not valid for name"),
        (authority.sign("mail.test", 2021), Offers::Tls, certificate, "expired"),
        (Authority::new().good(), Offers::Tls, certificate, "invalid peer certificate"),
        (
            authority.good(),
            Offers::Nothing,
            Outcome::Fail(FailReason::Unimplemented),
            "the peer does not offer starttls: ",
        ),
    ] {
        let server = start(&identity, offers);
        let url = format!("tcp://mail.test:{}", port(&server));
        let options = json!({"tcp": {"starttls": protocol, "steps": behind}, "expect": {"tls": {"version": "1.2"}}});
        let seen = see(&prober, &url, &options).await;
        assert_eq!(seen.outcome, outcome, "{seen:?}");
        assert!(detail(&seen).contains(told), "{seen:?}");
        assert_eq!(seen.certificate_expires.is_some(), offers == Offers::Tls, "{seen:?}");
    }
}

#[tokio::test]
async fn exim_smtp() {
    let behind = json!([
        {"send": "EHLO healthmon.test\r\n", "expect": {"prefix": "250"}},
        {"send": "QUIT\r\n", "expect": {"regex": "^221 .*\r\n$"}},
    ]);
    starttls("smtp", PrivateProgram::port, exim, behind).await;
}

#[tokio::test]
async fn exim_greets_in_plain() {
    let server = exim(&Authority::new().good(), Offers::Nothing);
    let url = format!("tcp://mail.test:{}", server.port());
    let prober = tcp(Authority::new().tls());
    let greeting = json!({"tcp": {"expect": {"regex": "^220 mail\\.test ESMTP"}}});
    assert_eq!(see(&prober, &url, &greeting).await.outcome, Outcome::Pass);
    let dialogue = json!({"tcp": {"steps": [
        {"expect": {"prefix": "220 "}},
        {"send": "HELO me.test\r\n", "expect": {"prefix": "250 "}},
        {"send": "MAIL FROM:<a@me.test>\r\n", "expect": {"prefix": "250 "}},
        {"send": "RCPT TO:<b@mail.test>\r\n", "expect": {"prefix": "250 "}},
    ]}});
    let seen = see(&prober, &url, &dialogue).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "it takes no mail: {seen:?}");
    assert_eq!(detail(&seen), "answer of step 4: expected to begin with \"250 \", got something else");
}

#[tokio::test]
async fn dovecot_imap() {
    let start = |identity: &Identity, offers| dovecot(identity, "imap", offers);
    starttls("imap", PrivateProgram::port, start, json!([{"send": "a NOOP\r\n", "expect": "a OK"}])).await;
}

#[tokio::test]
async fn dovecot_pop3() {
    let start = |identity: &Identity, offers| dovecot(identity, "pop3", offers);
    starttls("pop3", PrivateProgram::port, start, json!([{"send": "QUIT\r\n", "expect": {"prefix": "+OK"}}])).await;
}

#[tokio::test]
async fn vsftpd_ftp() {
    starttls("ftp", PrivateProgram::port, vsftpd, json!([{"send": "NOOP\r\n", "expect": {"regex": "^\\d\\d\\d "}}]))
        .await;
}

#[tokio::test]
async fn slapd_ldap() {
    // An anonymous bind, and its success.
    let bind = json!([{
        "send": "300c020102600702010304008000",
        "encoding": "hex",
        "expect": {"prefix": "300c02010261070a0100"},
    }]);
    starttls("ldap", PrivateProgram::port, slapd, bind).await;
}

#[tokio::test]
async fn postgresql() {
    // The start of a session as the user healthmon, and "authentication ok".
    let start = json!([{
        "send": "0000001800030000 75736572006865616c74686d6f6e0000",
        "encoding": "hex",
        "expect": {"prefix": "52"},
    }]);
    starttls("postgres", PrivatePostgres::port, postgres, start).await;
}

#[tokio::test]
async fn nginx_by_tls() {
    let authority = Authority::new();
    let prober = tls(authority.tls());
    let good = authority.good();
    let both = nginx(&good, "TLSv1.2 TLSv1.3");
    let old = nginx(&good, "TLSv1.2");
    let ancient = nginx(&authority.sign("mail.test", 2021), "TLSv1.3");
    let at = |server: &PrivateProgram| format!("tls://mail.test:{}", server.port());
    let wanted = json!({"tls": {"alpn": ["h2", "http/1.1"]}, "expect": {"tls": {"version": "1.3", "alpn": "h2"}}});
    let seen = see(&prober, &at(&both), &wanted).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert_eq!(seen.certificate_expires, "2200-01-01T00:00:00Z".parse().ok());
    let seen = see(&prober, &at(&old), &wanted).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion));
    assert_eq!(detail(&seen), "tls version: expected at least 1.3, got 1.2");
    let seen = see(&prober, &at(&ancient), &wanted).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "{seen:?}");
    let asked = json!({"tls": {
        "send": "GET / HTTP/1.1\r\nhost: mail.test\r\nconnection: close\r\n\r\n",
        "expect": {"prefix": "HTTP/1.1 204 "},
    }});
    let seen = see(&prober, &at(&both), &asked).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let another = json!({"tls": {"alpn": ["imap"]}});
    let seen = see(&prober, &at(&both), &another).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{seen:?}");
}
