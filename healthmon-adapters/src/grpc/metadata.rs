//! What a service's settings send along with the question.

use base64::Engine as _;
use healthmon_core::{
    probe::IndeterminateReason,
    service::{FieldErrors, Fields},
};
use serde_json::{Map, Value};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, BinaryMetadataKey, BinaryMetadataValue, MetadataMap};

use crate::{
    net::attempt::Fault,
    secrets::{BASE64, Redactor, SecretRef, Secrets},
};

const KEYS_LIMIT: usize = 64;
const SIZE_LIMIT: usize = 8 * 1024;
const USER_AGENT: &str = concat!("healthmon/", env!("CARGO_PKG_VERSION"));

/// Names that say how the message is framed, or what the connection is for.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The section `metadata`: keys, and where their values are. Not `Debug`: values may be secrets.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Metadata(Vec<(Key, SecretRef)>);

#[derive(PartialEq, Eq)]
enum Key {
    Text(AsciiMetadataKey),
    Binary(BinaryMetadataKey),
}

impl Key {
    fn as_str(&self) -> &str {
        match self {
            Self::Text(key) => key.as_str(),
            Self::Binary(key) => key.as_str(),
        }
    }
}

/// What a value must be, for those who wrote another.
const TEXT: &str = "must be printable ASCII";
const BINARY: &str = "must be base64, as its key ends with -bin";

enum Sent {
    Text(AsciiMetadataValue),
    Binary(BinaryMetadataValue),
}

impl Metadata {
    /// Reads the section. No message here repeats a value: it may be a secret.
    pub(super) fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let count = map.len();
        let mut fields = Fields::new(map.clone());
        let (mut metadata, mut size) = (Vec::with_capacity(count.min(KEYS_LIMIT)), 0);
        for (at, name) in map.keys().enumerate() {
            if at >= KEYS_LIMIT {
                fields.wrong(name, "is one too many: at most 64 keys can be set");
                fields.take_rest();
                break;
            }
            let Some(value) = fields.required::<SecretRef>(name) else { continue };
            let key = match key(name) {
                Ok(key) => key,
                Err(problem) => {
                    fields.wrong(name, problem);
                    continue;
                }
            };
            if let SecretRef::Plain(text) = &value {
                size += name.len() + text.len();
                if let Err(problem) = sent(&key, text) {
                    fields.wrong(name, problem);
                }
            }
            metadata.push((key, value));
        }
        if size > SIZE_LIMIT {
            fields.wrong("*", "must be at most 8192 bytes long together");
        }
        fields.finish()?;
        Ok(Self(metadata))
    }

    /// Writes what is to be sent into `sending`, and remembers it for [`Redactor::redact`].
    pub(super) fn reveal(&self, secrets: &Secrets, sending: &mut MetadataMap) -> Result<Redactor, Fault> {
        let mut redactor = Redactor::default();
        let mut size = 0;
        sending.insert("user-agent", AsciiMetadataValue::from_static(USER_AGENT));
        for (key, value) in &self.0 {
            let unusable = |problem: &dyn std::fmt::Display| {
                let detail = format!("grpc.metadata.{}: {problem}", key.as_str());
                Fault::indeterminate(IndeterminateReason::Secret, detail)
            };
            let secret = secrets.reveal(value).map_err(|error| unusable(&error))?;
            size += key.as_str().len() + secret.expose().len();
            if size > SIZE_LIMIT {
                return Err(unusable(&"all metadata together must be at most 8192 bytes long"));
            }
            match (key, sent(key, secret.expose()).map_err(|problem| unusable(&problem))?) {
                (Key::Text(key), Sent::Text(value)) => drop(sending.insert(key.clone(), value)),
                (Key::Binary(key), Sent::Binary(value)) => {
                    if let Ok(bytes) = value.to_bytes() {
                        redactor.hide_bytes(&bytes);
                    }
                    sending.insert_bin(key.clone(), value);
                }
                _ => return Err(unusable(&"is of the other kind")),
            }
            redactor.hide(secret.expose());
        }
        Ok(redactor)
    }
}

fn key(name: &str) -> Result<Key, &'static str> {
    let right = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(right) {
        return Err("is not a metadata key, which has only lower-case letters, digits, \"-\", \"_\" and \".\"");
    }
    if name.starts_with("grpc-") || RESERVED.contains(&name) {
        return Err("is set by the prober itself");
    }
    let key = if name.ends_with("-bin") {
        BinaryMetadataKey::from_bytes(name.as_bytes()).map(Key::Binary)
    } else {
        AsciiMetadataKey::from_bytes(name.as_bytes()).map(Key::Text)
    };
    key.map_err(|_| "is not a metadata key")
}

fn sent(key: &Key, text: &str) -> Result<Sent, &'static str> {
    match key {
        Key::Text(_) => {
            let printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            let mut value = AsciiMetadataValue::try_from(text).ok().filter(|_| printable).ok_or(TEXT)?;
            value.set_sensitive(true);
            Ok(Sent::Text(value))
        }
        Key::Binary(_) => {
            let bytes = BASE64.decode(text).map_err(|_| BINARY)?;
            let mut value = BinaryMetadataValue::from_bytes(&bytes);
            value.set_sensitive(true);
            Ok(Sent::Binary(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(metadata: &Value) -> Result<Metadata, FieldErrors> {
        Metadata::read(metadata.as_object().cloned().expect("an object"))
    }

    #[test]
    fn wrong_keys_and_values_are_named_without_the_value() {
        for (wrong, field, says) in [
            (json!({"Authorization": "canary"}), "Authorization", "lower-case"),
            (json!({"a key": "canary"}), "a key", "lower-case"),
            (json!({"": "canary"}), "", "lower-case"),
            (json!({":path": "canary"}), ":path", "lower-case"),
            (json!({"grpc-timeout": "canary"}), "grpc-timeout", "set by the prober"),
            (json!({"te": "canary"}), "te", "set by the prober"),
            (json!({"x-text": "canary\n"}), "x-text", "printable ASCII"),
            (json!({"x-text": "canarý"}), "x-text", "printable ASCII"),
            (json!({"x-bin": "canary!"}), "x-bin", "base64"),
            (json!({"x-bin": 7}), "x-bin", "must be a text"),
            (json!({"x-text": {"env": "PATH"}}), "x-text", "HEALTHMON_SECRET_"),
            (json!({"x-text": "canary".repeat(2_000)}), "*", "8192"),
        ] {
            let errors = read(&wrong).err().expect("wrong").to_string();
            assert!(errors.starts_with(&format!("{field}: ")) && errors.contains(says), "{wrong}: {errors}");
            assert!(!errors.contains("canar"), "{errors}");
        }
    }

    #[test]
    fn sec_values_are_sent_as_they_are_meant_and_marked_as_sensitive() {
        let metadata = read(&json!({"authorization": "Bearer abc", "trace-bin": "AAEC", "padded-bin": "AA=="}));
        let mut sending = MetadataMap::new();
        metadata.expect("right").reveal(&Secrets::default(), &mut sending).expect("all plain");
        assert_eq!(sending.get("authorization").map(|value| value.as_encoded_bytes()), Some(&b"Bearer abc"[..]));
        let bytes = sending.get_bin("trace-bin").and_then(|value| value.to_bytes().ok());
        assert_eq!(bytes.as_deref(), Some(&[0, 1, 2][..]));
        assert!(sending.get("authorization").is_some_and(|value| value.is_sensitive()));
        assert!(sending.get("user-agent").is_some());
    }

    #[test]
    fn what_was_sent_in_confidence_is_taken_out_of_what_is_said_whole_or_in_part() {
        let metadata = read(&json!({"authorization": "Bearer canary-canary", "x": "abc"})).expect("right");
        let redactor = metadata.reveal(&Secrets::default(), &mut MetadataMap::new()).expect("all plain");
        let said = "no such token: canary-canary (Bearer canary-canary), abc";
        assert_eq!(redactor.redact(said), "no such token: *** (***), ***");
    }
}
