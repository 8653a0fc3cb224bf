//! Certificates in DER, as a peer may show them.

use rustls::pki_types::CertificateDer;

use super::look::Look;
use crate::{
    fuzzing::{assert_progress_harmless, run},
    net::Progress,
};

pub(crate) fn target(data: &[u8]) {
    let leaf = CertificateDer::from(data);
    let ((), close) = run(Look::during(true, async { Look::at(&leaf, &[]) }));
    let ((), glance) = run(Look::during(false, async { Look::at(&leaf, &[]) }));
    assert_eq!(close.expires(), glance.expires(), "a closer look sees the same");
    let mut progress = Progress::inspecting();
    progress.certificate(close.expires());
    close.tell(&mut progress);
    let mut nothing = Progress::inspecting();
    glance.tell(&mut nothing);
    assert!(assert_progress_harmless(nothing).facts.is_empty(), "only who looks closely is told");
    let facts = assert_progress_harmless(progress).facts;
    assert!((1..=5).contains(&facts.len()), "{facts:?}");
}
