//! A look at the certificate that a peer shows, also when it is refused.

use std::cell::RefCell;

use healthmon_core::time::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::{X509Certificate, X509CertificateParser},
    extensions::GeneralName,
    nom::Parser,
};

use crate::net::Progress;

/// At most so many names of a certificate are told.
const NAMES: usize = 16;

/// What was seen of a certificate during one handshake.
#[derive(Debug, Default)]
pub(super) struct Look {
    close: bool,
    expires: Option<Timestamp>,
    leaf: Option<Box<[u8]>>,
    intermediates: usize,
}

tokio::task_local! {
    static LOOK: RefCell<Look>;
}

impl Look {
    /// Runs a handshake; the verifier is shared by all connections but is called within a poll of
    /// this very future, so a task-local slot tells whose certificate it saw.
    pub(super) async fn during<F: Future>(close: bool, handshake: F) -> (F::Output, Self) {
        let slot = RefCell::new(Self { close, ..Self::default() });
        LOOK.scope(slot, async {
            let ended = handshake.await;
            (ended, LOOK.with(RefCell::take))
        })
        .await
    }

    /// A look at what a peer showed earlier, its own certificate first.
    pub(super) fn again(close: bool, chain: &[CertificateDer<'_>]) -> Self {
        let mut look = Self { close, ..Self::default() };
        if let [leaf, intermediates @ ..] = chain {
            look.note(leaf, intermediates);
        }
        look
    }

    /// Notes what a peer shows.
    pub(super) fn at(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        let noted = LOOK.try_with(|look| look.borrow_mut().note(leaf, intermediates));
        if noted.is_err() {
            tracing::debug!("a certificate was checked outside of a handshake");
        }
    }

    fn note(&mut self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
        self.expires = not_after(leaf);
        self.intermediates = intermediates.len();
        if self.close {
            self.leaf = Some(leaf.as_ref().into());
        }
    }

    pub(super) const fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Tells what stands in the certificate to whoever takes a closer look.
    pub(super) fn tell(&self, progress: &mut Progress) {
        let Some(leaf) = &self.leaf else { return };
        let Ok((_, certificate)) = X509CertificateParser::new().parse(leaf) else {
            return progress.learn("certificate", "cannot be read");
        };
        progress.learn("certificate subject", certificate.subject());
        progress.learn("certificate issuer", certificate.issuer());
        let names = names(&certificate);
        if !names.is_empty() {
            progress.learn("certificate names", names.join(", "));
        }
        let validity = certificate.validity();
        let time = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
        progress.learn(
            "certificate valid",
            format_args!("{} to {}", time(validity.not_before.timestamp()), time(validity.not_after.timestamp())),
        );
        progress.learn("certificates in the chain", self.intermediates + 1);
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let all = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match <[u8; 4]>::try_from(*octets) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(*octets).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
        },
        _ => None,
    });
    all.take(NAMES).collect()
}

/// When a certificate expires. Its extensions are left unread: they cost more than all the rest.
fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509CertificateParser::new().with_deep_parse_extensions(false).parse(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(Timestamp::from_millis(seconds.saturating_mul(1_000)))
}
