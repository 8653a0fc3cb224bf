//! How a service's TLS is to be done.

use std::sync::Arc;

use healthmon_core::service::{FieldErrors, Fields};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Map, Value};

use super::Verify;
use crate::secrets::SecretRef;

/// The longest text of certificates.
const PEM_LIMIT: usize = 64 * 1024;

/// The section `tls` of a prober's settings.
///
/// ```json
/// "tls": {
///   "verify": "none",                         // full
///   "ca": "-----BEGIN CERTIFICATE-----…",     // trusted instead of the usual roots
///   "certificate": "-----BEGIN CERTIFICATE-----…", "key": {"file": "client.key"},
///   "server_name": "db.internal",             // the target's host
///   "resumption": "enabled"                   // disabled: each handshake a full one
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsSettings(Option<Arc<Written>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Written {
    pub(super) verify: Verify,
    /// Roots to trust instead of the usual ones, in PEM.
    pub(super) ca: Option<Box<str>>,
    /// The certificate to show, and its key.
    pub(super) identity: Option<(Box<str>, SecretRef)>,
    /// The name to ask for, and to find in the certificate.
    pub(super) server_name: Option<Box<str>>,
    pub(super) resumption: Resume,
}

/// Whether a session may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resume {
    /// Not: a resumed session shows no certificate but the one that began it, and would hide a
    /// server that has another by now or can no longer do a full handshake.
    #[default]
    Disabled,
    /// It may.
    Enabled,
}

impl TlsSettings {
    /// Reads the section.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let verify = fields.optional("verify").unwrap_or_default();
        let ca = certificates(&mut fields, "ca");
        let certificate = certificates(&mut fields, "certificate");
        let key: Option<SecretRef> = fields.optional("key");
        let server_name: Option<String> = fields.optional("server_name");
        if server_name.as_ref().is_some_and(|name| ServerName::try_from(name.as_str()).is_err()) {
            fields.wrong("server_name", "must be a host name or an address");
        }
        let resumption = fields.optional("resumption").unwrap_or_default();
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => {
                fields.wrong("key", "is required beside certificate");
                None
            }
            (None, Some(_)) => {
                fields.wrong("certificate", "is required beside key");
                None
            }
            (None, None) => None,
        };
        fields.finish()?;
        let written = Written { verify, ca, identity, server_name: server_name.map(Into::into), resumption };
        Ok(if written == Written::default() { Self(None) } else { Self(Some(Arc::new(written))) })
    }

    /// These settings for a peer that is not the target itself: the client's certificate is not shown
    /// to it, it is asked for by its own name, and no session of it is kept (a target names as many such
    /// peers as it likes, and each decides how large its sessions are).
    #[must_use]
    pub fn elsewhere(&self) -> Self {
        let Some(written) = &self.0 else { return Self(None) };
        let elsewhere = Written { verify: written.verify, ca: written.ca.clone(), ..Written::default() };
        if elsewhere == **written {
            self.clone()
        } else if elsewhere == Written::default() {
            Self(None)
        } else {
            Self(Some(Arc::new(elsewhere)))
        }
    }

    /// Settings that differ from the defaults.
    pub(super) fn written(&self) -> Option<&Arc<Written>> {
        self.0.as_ref()
    }
}

fn certificates(fields: &mut Fields, field: &str) -> Option<Box<str>> {
    let text: String = fields.optional(field)?;
    let mut certificates = CertificateDer::pem_slice_iter(text.as_bytes()).peekable();
    if text.len() > PEM_LIMIT || certificates.peek().is_none() || certificates.any(|one| one.is_err()) {
        fields.wrong(field, "must be certificates in PEM, at most 65536 bytes of them");
        return None;
    }
    Some(text.into())
}
