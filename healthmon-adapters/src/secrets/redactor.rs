//! Secrets that come back.

use std::cmp::Reverse;

/// A part of a secret that is shorter than this, in bytes, is not looked for in what a peer says.
const PART: usize = 6;
/// Nor is a whole secret that is shorter than this: whoever sees two letters missing can guess them.
const WHOLE: usize = 3;
/// Of one secret no more parts than these are looked for, the longest.
const PARTS: usize = 256;

/// What stands before a token, and is none.
const SCHEME: &str = "bearer";

/// Takes what was sent in confidence out of what a peer says: some repeat it. Not `Debug`.
#[derive(Default)]
pub(crate) struct Redactor(Vec<Box<str>>);

impl Redactor {
    /// Looks for `secret` from now on, whole and in the parts between its spaces.
    pub(crate) fn hide(&mut self, secret: &str) {
        self.hide_parts(secret, |separator| separator.is_ascii_whitespace());
    }

    /// The same for a text that may have secrets in it, such as a document: its parts are what is
    /// between anything that could stand around one.
    #[cfg(feature = "http")]
    pub(crate) fn hide_document(&mut self, document: &str) {
        self.hide_parts(document, |c| !c.is_alphanumeric() && !matches!(c, '-' | '_' | '.' | '~' | '+' | '/'));
    }

    fn hide_parts(&mut self, secret: &str, separates: impl Fn(char) -> bool) {
        let is_secret = |part: &&str| part.len() >= PART && !part.eq_ignore_ascii_case(SCHEME);
        let mut parts: Vec<&str> = secret.split(separates).filter(is_secret).collect();
        parts.sort_by_key(|part| Reverse(part.len()));
        parts.dedup();
        let whole = Some(secret.trim()).filter(|whole| whole.len() >= WHOLE);
        self.0.extend(whole.into_iter().chain(parts.into_iter().take(PARTS)).map(Into::into));
        // The longest first, so that no part of one stays behind.
        self.0.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.0.dedup();
    }

    /// In one pass: what stands for a secret is not looked into again, and the text grows three times
    /// at most, whatever the secrets are. Whether letters are upper case does not matter: it is lost
    /// in names of hosts.
    pub(crate) fn redact(&self, text: &str) -> String {
        let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(next) = rest.chars().next() {
            let begins = |hidden: &&str| {
                let begin = rest.as_bytes().get(..hidden.len());
                !hidden.is_empty() && begin.is_some_and(|begin| begin.eq_ignore_ascii_case(hidden.as_bytes()))
            };
            let length = match self.0.iter().map(|hidden| &**hidden).find(begins) {
                Some(hidden) => {
                    shown.push_str("***");
                    hidden.len()
                }
                None => {
                    shown.push(next);
                    next.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_a_secret_that_is_what_stands_for_it_does_not_multiply() {
        let redactor = Redactor((0..64).map(|_| "*".into()).collect());
        assert_eq!(redactor.redact("*"), "***");
        assert_eq!(redactor.redact("a*b é*"), "a***b é***");
        let redactor = Redactor(vec!["token abcdefgh".into(), "abcdefgh".into(), "".into()]);
        assert_eq!(redactor.redact("token abcdefgh, abcdefgh, abcdefg"), "***, ***, abcdefg");
    }

    #[test]
    fn sec_a_secret_is_found_whole_in_part_and_whatever_its_case_but_not_when_it_is_next_to_nothing() {
        let mut redactor = Redactor::default();
        for secret in ["Bearer Canary-Canary", "abc", "é", "x", ""] {
            redactor.hide(secret);
        }
        assert_eq!(redactor.redact("canary-canary (bearer CANARY-canary) abc"), "*** (***) ***");
        assert_eq!(redactor.redact("x é É bearer"), "x é É bearer");
    }

    #[cfg(feature = "http")]
    #[test]
    fn sec_what_stands_in_a_document_is_found_by_itself() {
        let mut redactor = Redactor::default();
        redactor.hide_document(r#"{"pin": 1, "password": "canary-canary"}&key=canary/b64+=="#);
        assert_eq!(redactor.redact("no canary-canary, nor canary/b64+; pin 1"), "no ***, nor ***; pin 1");
        let mut many = Redactor::default();
        many.hide_document(&(0..10_000).map(|n| format!("part{n:04} ")).collect::<String>());
        assert_eq!(many.0.len(), PARTS + 1);
    }
}
