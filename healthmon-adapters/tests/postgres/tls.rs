//! Connecting by TLS.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::PrivatePostgres,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{Connection, PgConnection};

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

#[tokio::test]
async fn the_url_says_which_certificates_are_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("readable");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (trusted, stranger) = (authority("trusted"), authority("stranger"));
    let key = KeyPair::generate().expect("a key");
    let server_params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = server_params.signed_by(&key, &trusted).expect("signed");
    fs::write(path("server.pem"), certificate.pem()).expect("written");
    fs::write(path("server.key"), key.serialize_pem()).expect("written");
    fs::write(path("trusted.pem"), trusted.pem()).expect("written");
    fs::write(path("stranger.pem"), stranger.pem()).expect("written");
    fs::set_permissions(path("server.key"), fs::Permissions::from_mode(0o600)).expect("private");
    // Where tests run as root, the server runs as postgres.
    Command::new("chown").arg("postgres").arg(path("server.key")).status().expect("chown runs");
    let server = PrivatePostgres::start_with(&[
        ("fsync", "off"),
        ("ssl", "on"),
        ("ssl_cert_file", &path("server.pem")),
        ("ssl_key_file", &path("server.key")),
    ])
    .expect("PostgreSQL starts");
    let url = |root: &str| format!("{}?sslmode=verify-full&sslrootcert={}", server.url("postgres"), path(root));

    let refused = PostgresResultStore::connect(PostgresOptions::new(url("stranger.pem"))).await.map(drop);
    assert!(refused.is_err(), "nobody trusts that certificate");
    let store = PostgresResultStore::connect(PostgresOptions::new(url("trusted.pem"))).await.expect("connected");
    let mut watch = PgConnection::connect(&server.url("postgres")).await.expect("connected");
    let encrypted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND pid <> pg_backend_pid()",
    )
    .fetch_one(&mut watch)
    .await
    .expect("a look");
    assert!(encrypted >= 1, "the store's connections are encrypted");
    store.close().await;
}
