//! Secrets that come back.

use std::{cmp::Reverse, fmt, sync::OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
#[cfg(any(feature = "http", feature = "tcp", feature = "websocket"))]
use url::Host;

/// A part of a secret that is shorter than this, in bytes, is not looked for in what a peer says.
const PART: usize = 6;
/// Nor is a whole secret that is shorter than this: whoever sees two letters missing can guess them.
const WHOLE: usize = 3;
/// Of one secret no more parts than these are looked for, the longest.
const PARTS: usize = 4_096;

/// As people write it: with its end or without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What stands before a token, and is none.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// Takes what was sent in confidence out of what a peer says: some repeat it.
#[derive(Default)]
pub(crate) struct Redactor {
    hidden: Vec<Box<str>>,
    /// Finds them all in one pass, so that it costs the text's length, however many they are. None if
    /// they are too much for it.
    search: OnceLock<Option<AhoCorasick>>,
}

/// Says nothing of what it looks for.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Looks for `secret` from now on: whole, in the parts between its spaces, and in those between
    /// anything that could stand around a value, such as a cookie's.
    pub(crate) fn hide(&mut self, secret: &str) {
        let whole = Some(secret.trim()).filter(|whole| whole.len() >= WHOLE);
        let words = secret.split(|c: char| c.is_ascii_whitespace());
        let fields = secret.split(|c: char| c.is_ascii_whitespace() || ",;&=\"'".contains(c));
        self.hide_all(whole, words.chain(fields).chain(secret.split(separates)));
    }

    /// The same for the value of `authorization`: also what is encoded in it, as whoever reads it finds it.
    #[cfg(any(feature = "http", feature = "websocket"))]
    pub(crate) fn hide_authorization(&mut self, value: &str) {
        self.hide(value);
        if let Some(Ok(pair)) = value.trim().rsplit(' ').next().map(|encoded| BASE64.decode(encoded)) {
            let pair = String::from_utf8_lossy(&pair);
            // Whole: a name by itself is no secret, and often a part of the host's.
            self.hide_all(Some(&pair), std::iter::empty());
            if let Some((_, password)) = pair.split_once(':') {
                self.hide(password);
            }
        }
    }

    /// The same for bytes, however they are written: as text, or in base64 with and without its end.
    #[cfg(any(feature = "grpc", feature = "tcp"))]
    pub(crate) fn hide_bytes(&mut self, bytes: &[u8]) {
        self.hide(&String::from_utf8_lossy(bytes));
        let encoded = BASE64.encode(bytes);
        self.hide(encoded.trim_end_matches('='));
        self.hide(&encoded);
    }

    /// The same for a text that may have secrets in it, such as a document: also as what reads it finds
    /// them, where it is JSON or a form.
    #[cfg(any(feature = "http", feature = "tcp", feature = "websocket"))]
    pub(crate) fn hide_document(&mut self, document: &str) {
        self.hide(document);
        let mut values = Vec::new();
        match serde_json::from_str(document) {
            Ok(value) => texts(value, &mut values),
            Err(_) => {
                let form = url::form_urlencoded::parse(document.as_bytes());
                values.extend(form.flat_map(|(name, value)| [name.into_owned(), value.into_owned()]));
            }
        }
        self.hide_all(None, values.iter().map(String::as_str));
    }

    /// Shows the name of the target and of the domains that it is in, though something that is sent says it
    /// too (`origin`, a greeting): it stands in the URL for all to see, and in a certificate it is what people
    /// look for.
    #[cfg(any(feature = "http", feature = "tcp", feature = "websocket"))]
    pub(crate) fn spare(&mut self, host: Host<&str>) {
        let host = &*host.to_string();
        let is_known = |hidden: &str| {
            let name = hidden.split_once("://").map_or(hidden, |(_, name)| name).trim_matches('/');
            let before = host.len().checked_sub(name.len()).and_then(|at| host.split_at_checked(at));
            name.contains('.')
                && before.is_some_and(|(before, end)| {
                    end.eq_ignore_ascii_case(name) && (before.is_empty() || before.ends_with('.'))
                })
        };
        self.hidden.retain(|hidden| !is_known(hidden));
        self.search = OnceLock::new();
    }

    fn hide_all<'a>(&mut self, whole: Option<&str>, parts: impl Iterator<Item = &'a str>) {
        let is_secret =
            |part: &&str| part.len() >= PART && SCHEMES.iter().all(|scheme| !part.eq_ignore_ascii_case(scheme));
        let mut parts: Vec<&str> = parts.filter(is_secret).collect();
        parts.sort_by(|a, b| (Reverse(a.len()), a).cmp(&(Reverse(b.len()), b)));
        parts.dedup();
        self.hidden.extend(whole.into_iter().chain(parts.into_iter().take(PARTS)).map(Into::into));
        self.search = OnceLock::new();
    }

    /// What stands for a secret is not looked into again, and the text grows three times at most,
    /// whatever the secrets are. Of two that begin at one place the longer goes, so that no part of
    /// it stays behind. Whether letters are upper case does not matter: it is lost in names of hosts.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.hidden.is_empty() {
            return text.to_owned();
        }
        let search = self.search.get_or_init(|| {
            let mut build = AhoCorasick::builder();
            build.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest);
            build.build(self.hidden.iter().map(|hidden| hidden.as_bytes())).ok()
        });
        let Some(search) = search else { return "***".to_owned() };
        let mut shown = String::with_capacity(text.len());
        search.replace_all_with(text, &mut shown, |_, _, shown| {
            shown.push_str("***");
            true
        });
        shown
    }
}

fn separates(c: char) -> bool {
    !c.is_alphanumeric() && !matches!(c, '-' | '_' | '.' | '~' | '+' | '/')
}

/// All strings in it, names included.
#[cfg(any(feature = "http", feature = "tcp", feature = "websocket"))]
fn texts(value: serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => into.push(text),
        serde_json::Value::Array(values) => values.into_iter().for_each(|value| texts(value, into)),
        serde_json::Value::Object(fields) => fields.into_iter().for_each(|(name, value)| {
            into.push(name);
            texts(value, into);
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_a_secret_that_is_what_stands_for_it_does_not_multiply() {
        let of = |hidden: Vec<Box<str>>| Redactor { hidden, ..Redactor::default() };
        let redactor = of((0..64).map(|_| "*".into()).collect());
        assert_eq!(redactor.redact("*"), "***");
        assert_eq!(redactor.redact("a*b é*"), "a***b é***");
        let redactor = of(vec!["token abcdefgh".into(), "abcdefgh".into()]);
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
    fn sec_what_is_encoded_for_basic_authentication_is_found_however_it_is_repeated() {
        let mut redactor = Redactor::default();
        // monitor:canary canary!
        redactor.hide_authorization("Basic bW9uaXRvcjpjYW5hcnkgY2FuYXJ5IQ==");
        for said in ["bW9uaXRvcjpjYW5hcnkgY2FuYXJ5IQ", "monitor:canary canary!", "canary canary!", "Canary"] {
            let shown = redactor.redact(&format!("no basic {said}."));
            assert!(!shown.to_lowercase().contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        }
        assert_eq!(redactor.redact("basic"), "basic");
    }

    #[test]
    fn sec_what_is_learnt_of_a_certificate_is_told_without_the_secret_in_it() {
        let mut redactor = Redactor::default();
        redactor.hide("canary-4711");
        let mut progress = crate::net::Progress::inspecting();
        progress.redactor = Some(redactor.into());
        progress.learn("certificate subject", "CN=Canary-4711");
        progress.learn("tls", "TLSv1_3");
        let told: Vec<_> = progress.facts.iter().flatten().map(|fact| &*fact.value).collect();
        assert_eq!(told, ["CN=***", "TLSv1_3"]);
    }

    #[cfg(feature = "http")]
    #[test]
    fn the_targets_own_name_is_shown_and_nothing_else() {
        let mut redactor = Redactor::default();
        redactor.hide("https://Shop.example/");
        redactor.hide("shop.example.org not-shop.example");
        redactor.spare(Host::Domain("shop.example"));
        redactor.hide("10.0.0.7 10.0.0.70 [2001:db8::1]");
        redactor.spare(Host::Ipv4([10, 0, 0, 7].into()));
        redactor.spare(Host::Ipv6("2001:db8::1".parse().expect("an address")));
        assert_eq!(redactor.redact("10.0.0.7:80, 192.0.2.1"), "10.0.0.7:80, 192.0.2.1");
        assert_eq!(redactor.redact("shop.example https://shop.example/"), "shop.example https://shop.example/");
        assert_eq!(redactor.redact("shop.example.org, not-shop.example"), "***, ***");
        redactor.spare(Host::Domain("a.shop.example.org"));
        assert_eq!(redactor.redact("shop.example.org"), "shop.example.org", "it is in that domain");
        let mut redactor = Redactor::default();
        redactor.hide("op.example");
        redactor.spare(Host::Domain("shop.example"));
        assert_eq!(redactor.redact("by op.example"), "by ***", "it ends like that by chance");
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn sec_bytes_are_found_as_text_and_in_base64() {
        let mut redactor = Redactor::default();
        redactor.hide_bytes(b"canary-canary\xff");
        for said in ["Y2FuYXJ5LWNhbmFyef8", "Y2FuYXJ5LWNhbmFyef8=", "canary-canary"] {
            let shown = redactor.redact(said);
            assert!(shown.starts_with("***") && shown.len() <= 4, "{said}: {shown}");
        }
    }

    #[cfg(feature = "http")]
    #[test]
    fn sec_what_stands_in_a_document_is_found_by_itself() {
        let mut redactor = Redactor::default();
        redactor.hide_document(r#"{"pin": 1, "password": "canary-canary"}&key=canary/b64+=="#);
        assert_eq!(redactor.redact("no canary-canary, nor canary/b64+; pin 1"), "no ***, nor ***; pin 1");
        let mut many = Redactor::default();
        many.hide_document(&(0..10_000).map(|n| format!("part{n:05} ")).collect::<String>());
        assert_eq!(many.hidden.len(), PARTS + 2, "the whole of it, the longest parts, and what a form would be");
    }

    #[cfg(feature = "http")]
    #[test]
    fn sec_a_secret_is_found_as_whoever_was_told_it_would_repeat_it() {
        let mut redactor = Redactor::default();
        redactor.hide("session=abcdef123456; csrf=\"zyxwvu\"");
        redactor.hide_document(r#"{"user": "ann", "password": "p@ss!w\"0#1", "codes": ["1@2@3@4"]}"#);
        redactor.hide_document("user=ann&password=p%40ss%21word+two");
        for said in ["abcdef123456", "zyxwvu", "p@ss!w\"0#1", "1@2@3@4", "p@ss!word two", "p%40ss%21word+two"] {
            assert!(!redactor.redact(&format!("no {said}.")).contains(&said[..4]), "{said}");
        }
        assert_eq!(redactor.redact("ann may not"), "ann may not");
    }

    /// 30 KiB that begin like thousands of secrets everywhere.
    #[cfg(feature = "http")]
    #[test]
    fn sec_many_secrets_cost_no_more_than_few() {
        let text = "a".repeat(30_000);
        let takes = |secrets: usize| {
            let mut redactor = Redactor::default();
            redactor.hide_document(&(0..secrets).map(|n| format!("aaaaa{n:06} ")).collect::<String>());
            assert_eq!(redactor.redact(&text), text, "from here on it is ready");
            let once = |_| {
                let begun = std::time::Instant::now();
                (0..8).for_each(|_| assert_eq!(redactor.redact(&text), text));
                begun.elapsed()
            };
            // The least is what it takes where nothing comes between.
            (0..5).map(once).min().expect("five times")
        };
        // Of the many 4,096 are looked for: 32 times as long if each of them cost by itself.
        let (few, many) = (takes(128), takes(20_000));
        assert!(many < few * 8, "{few:?} for few, {many:?} for many");
    }
}
