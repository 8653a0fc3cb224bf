//! What is sent: a text, or bytes written as one.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use healthmon_core::probe::IndeterminateReason;
use serde::Deserialize;

use crate::{
    net::attempt::Fault,
    secrets::{Redactor, SecretRef, Secrets},
};

/// How bytes are written in settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// As they are.
    #[default]
    Text,
    /// Two digits each; spaces between them are ignored.
    Hex,
    Base64,
}

impl Encoding {
    /// The bytes that `text` stands for. The error never repeats it: it may be a secret.
    pub(crate) fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Hex => hex(text).ok_or_else(|| "must be pairs of hexadecimal digits".to_owned()),
            Self::Base64 => BASE64_STANDARD.decode(text.trim()).map_err(|_| "must be base64, with padding".to_owned()),
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_ascii_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}

/// What a step sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Payload {
    secret: SecretRef,
    encoding: Encoding,
}

impl Payload {
    /// What `secret` stands for in `encoding`.
    ///
    /// # Errors
    /// What is wrong with it, as far as that can be seen here.
    pub(crate) fn new(secret: SecretRef, encoding: Encoding) -> Result<Self, String> {
        if let SecretRef::Plain(text) = &secret
            && encoding.decode(text)?.is_empty()
        {
            return Err("must not be empty; leave it out to send nothing".to_owned());
        }
        Ok(Self { secret, encoding })
    }

    /// The bytes to send.
    pub(crate) fn bytes(&self, secrets: &Secrets) -> Result<Vec<u8>, Fault> {
        let fault = |detail: String| Fault::indeterminate(IndeterminateReason::Secret, detail);
        let revealed = secrets.reveal(&self.secret).map_err(|error| fault(error.to_string()))?;
        self.encoding.decode(revealed.expose()).map_err(|problem| fault(format!("what is to be sent {problem}")))
    }

    /// Looks for it in what the peer says, as it is written here and as it is sent.
    pub(crate) fn hide(&self, secrets: &Secrets, redactor: &mut Redactor) {
        // What cannot be had was not sent either.
        let Ok(revealed) = secrets.reveal(&self.secret) else { return };
        redactor.hide_document(revealed.expose());
        if self.encoding != Encoding::Text
            && let Ok(bytes) = self.encoding.decode(revealed.expose())
        {
            redactor.hide_bytes(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_be_written_three_ways() {
        assert_eq!(Encoding::Text.decode("a\r\n"), Ok(b"a\r\n".to_vec()));
        assert_eq!(Encoding::Hex.decode("00 1B ff"), Ok(vec![0, 27, 255]));
        assert_eq!(Encoding::Base64.decode("AAEC"), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn what_cannot_be_decoded_is_not_repeated() {
        for (encoding, text) in [
            (Encoding::Hex, "canary"),
            (Encoding::Hex, "123"),
            (Encoding::Hex, "\u{ff11}\u{ff11}"),
            (Encoding::Base64, "canary!"),
        ] {
            let problem = encoding.decode(text).expect_err("not decodable");
            assert!(!problem.contains(text), "{problem}");
        }
    }
}
