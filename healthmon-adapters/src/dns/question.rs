//! What is asked, as a URL says it.

use std::{fmt, str::FromStr};

use healthmon_core::service::Fields;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use percent_encoding::percent_decode_str;
use url::Url;

const FORM: &str = "must be such as dns://192.0.2.53/www.example.org?type=AAAA";

/// A question: a whole name, a type and a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) class: DNSClass,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name.to_ascii(), self.class, self.kind)
    }
}

impl Question {
    /// Reads the path and the query of `url`, and `kind` and `class` as they stand in the settings,
    /// noting all that is wrong. `None` means that something is.
    pub(super) fn read(
        url: &Url,
        kind: Option<RecordType>,
        class: Option<DNSClass>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let asked = Elements::read(url, fields)?;
        for (field, both) in [
            ("dns.type", kind.is_some() && asked.kind.is_some()),
            ("dns.class", class.is_some() && asked.class.is_some()),
        ] {
            if both {
                fields.wrong(field, "is given by the url already");
            }
        }
        let kind = asked.kind.or(kind);
        let path = url.path().strip_prefix('/').unwrap_or_default();
        if path.is_empty() && kind.is_none() {
            fields.wrong("url", format_args!("{FORM}: without a name, or a type beside the empty name of the root"));
            return None;
        }
        let Some(name) = name(path) else {
            fields.wrong("url", format_args!("{FORM}: its path is no domain name"));
            return None;
        };
        let class = asked.class.or(class).unwrap_or(DNSClass::IN);
        Some(Self { name, kind: kind.unwrap_or(RecordType::A), class })
    }
}

/// What the query of a URL may say.
#[derive(Default)]
struct Elements {
    kind: Option<RecordType>,
    class: Option<DNSClass>,
}

impl Elements {
    fn read(url: &Url, fields: &mut Fields) -> Option<Self> {
        if url.fragment().is_some() {
            fields.wrong("url", format_args!("{FORM}, without a fragment"));
            return None;
        }
        let mut elements = Self::default();
        // RFC 4501 separates them by semicolons; people by habit otherwise.
        for element in url.query().unwrap_or_default().split([';', '&']).filter(|element| !element.is_empty()) {
            let (key, value) = element.split_once('=').unwrap_or((element, ""));
            let problem = match key.to_ascii_lowercase().as_str() {
                "type" if elements.kind.is_none() => kind(value).map(|kind| elements.kind = Some(kind)),
                "class" if elements.class.is_none() => self::class(value).map(|class| elements.class = Some(class)),
                "type" | "class" => Err("is given twice"),
                _ => Err("may hold type and class only"),
            };
            if let Err(problem) = problem {
                fields.wrong("url", format_args!("{FORM}: its {} {problem}", quoted(key)));
                return None;
            }
        }
        Some(elements)
    }
}

fn quoted(key: &str) -> String {
    let short: String = key.chars().take(16).collect();
    format!("{short:?}")
}

/// A whole name out of a URL's path.
fn name(path: &str) -> Option<Name> {
    if path.contains('/') {
        return None;
    }
    let text = percent_decode_str(path).decode_utf8().ok()?;
    let read = if text.is_ascii() { Name::from_ascii(&text) } else { Name::from_utf8(&text) };
    // Labels may hold what no host name does, such as the slash of RFC 2317.
    let whole = text.strip_suffix('.').unwrap_or(&text);
    let raw = || Name::from_labels(whole.split('.').map(str::as_bytes));
    let mut name = match read {
        Err(_) if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') => raw().ok()?,
        read => read.ok()?,
    };
    name.set_fqdn(true);
    (name.len() <= 255).then_some(name)
}

/// A type that can be asked for, by its name or as `TYPE` and a number.
pub(super) fn kind(text: &str) -> Result<RecordType, &'static str> {
    let text = text.to_ascii_uppercase();
    let numbered = text.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok()).map(RecordType::from);
    match numbered.or_else(|| RecordType::from_str(&text).ok()) {
        None | Some(RecordType::ZERO) => Err("must be a record type such as A, AAAA, MX, TXT or TYPE65"),
        Some(RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG | RecordType::SIG) => {
            Err("must be a type that a single question can ask for")
        }
        Some(kind) => Ok(kind),
    }
}

/// A class.
pub(super) fn class(text: &str) -> Result<DNSClass, &'static str> {
    match text.to_ascii_uppercase().as_str() {
        "IN" => Ok(DNSClass::IN),
        "CH" => Ok(DNSClass::CH),
        "HS" => Ok(DNSClass::HS),
        _ => Err("must be IN, CH or HS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<String, String> {
        let mut fields = Fields::new(serde_json::Map::new());
        let question = Question::read(&url.parse().expect("a url"), None, None, &mut fields);
        match (question, fields.finish()) {
            (Some(question), Ok(())) => Ok(question.to_string()),
            (_, Err(errors)) => Err(errors.to_string()),
            (None, Ok(())) => panic!("nothing is wrong with {url}, and yet there is no question"),
        }
    }

    #[test]
    fn a_url_asks_for_a_name_a_type_and_a_class() {
        for (url, question) in [
            ("dns://192.0.2.53/example.org", "example.org. IN A"),
            ("dns://192.0.2.53:5353/example.org.?type=aaaa", "example.org. IN AAAA"),
            ("dns://[2001:db8::53]/version.bind?CLASS=CH;TYPE=TXT", "version.bind. CH TXT"),
            ("dns://ns.example/_dmarc.example.org?type=TXT&class=in", "_dmarc.example.org. IN TXT"),
            ("dns://ns.example/?type=NS", ". IN NS"),
            ("dns://ns.example/0%2F25.2.0.192.in-addr.arpa?type=PTR", "0\\/25.2.0.192.in-addr.arpa. IN PTR"),
            ("dns://ns.example/bücher.example", "xn--bcher-kva.example. IN A"),
            ("dns://ns.example/a?type=TYPE1", "a. IN A"),
        ] {
            assert_eq!(read(url).as_deref(), Ok(question), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        let long = format!("dns://ns.example/{}", "a".repeat(64));
        for (url, said) in [
            ("dns://ns.example", "without a name"),
            ("dns://ns.example/", "without a name"),
            ("dns://ns.example/a/b", "no domain name"),
            ("dns://ns.example/a..b", "no domain name"),
            ("dns://ns.example/%ff", "no domain name"),
            (&long, "no domain name"),
            ("dns://ns.example/a?type=NONSENSE", "record type"),
            ("dns://ns.example/a?type=AXFR", "single question"),
            ("dns://ns.example/a?type=A;type=MX", "given twice"),
            ("dns://ns.example/a?class=XX", "IN, CH or HS"),
            ("dns://ns.example/a?colour=red", "type and class only"),
            ("dns://ns.example/a#b", "fragment"),
        ] {
            let told = read(url).expect_err(url);
            assert!(told.starts_with("url: ") && told.contains(said), "{url}: {told}");
        }
    }
}
