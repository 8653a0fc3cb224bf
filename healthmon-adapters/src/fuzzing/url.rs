//! From a URL to what is dialled: with a policy that refuses all, a prober may say which address was
//! refused, or ask for a name, and that must be what the URL says.
//!
//! An input is a way to write a URL and then, for even ways, an address which is written in one of
//! many forms, so that it is known what must be refused; for odd ones any text at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use healthmon_core::probe::{FailReason, IndeterminateReason, Observation, Outcome, Probe};
use serde_json::{Value, json};

use super::{assert_harmless, probe, probers::refusing, run};

/// Where a host is written: a URL, and what is set beside it.
const WAYS: [(&str, &str); 13] = [
    ("http://HOST/", "{}"),
    ("https://HOST/", "{}"),
    ("ws://HOST/", "{}"),
    ("wss://HOST/", "{}"),
    ("tcp://HOST:1", "{}"),
    ("tls://HOST:1", "{}"),
    ("grpc://HOST:1", "{}"),
    ("grpcs://HOST:1/a.b", "{}"),
    ("dns://HOST/a", "{}"),
    ("icmp://HOST", "{}"),
    ("http://127.0.0.1/", r#"{"http": {"connect_to": "HOST:1"}}"#),
    ("https://name.test/", r#"{"http": {"proxy": {"url": "http://HOST:1"}}}"#),
    (
        "http://name.test/",
        r#"{"http": {"auth": {"oauth2": {
        "token_url": "http://HOST/", "client_id": "a", "client_secret": "b"}}}}"#,
    ),
];

pub(super) fn target(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let (url, sections) = WAYS[usize::from(way / 2) % WAYS.len()];
    if way % 2 == 0 {
        let Some((host, address)) = written(rest) else { return };
        let (url, sections) = (url.replace("HOST", &host), sections.replace("HOST", &host));
        let sections = serde_json::from_str(&sections).unwrap_or_else(|error| panic!("{sections}: {error}"));
        let probe = probe(&url, &sections).unwrap_or_else(|| panic!("{url} is no target"));
        let (seen, asked, checked) = perform(&probe);
        assert!(checked, "{url} {sections} is refused");
        assert_eq!(refused(&seen), Some(address), "{url} {sections}: {seen:?}, and {asked:?} were asked for");
        assert!(asked.is_empty(), "{url}: {asked:?} were asked for");
    } else {
        let text = String::from_utf8_lossy(rest);
        let (url, set) = match serde_json::from_str::<Value>(sections) {
            Ok(Value::Object(map)) if map.is_empty() => {
                // All that stands behind the scheme.
                let (scheme, _) = url.split_once("HOST").unwrap_or_default();
                (format!("{scheme}{text}"), json!({}))
            }
            _ => {
                let quoted = Value::from(&*text).to_string();
                let sections = sections.replace("HOST", quoted.trim_matches('"'));
                (url.to_owned(), serde_json::from_str(&sections).unwrap_or_else(|_| json!({})))
            }
        };
        let Some(probe) = probe(&url, &set) else { return };
        let (seen, asked, checked) = perform(&probe);
        plausible(&probe, &seen, &asked, checked);
    }
}

/// What a prober of the target's scheme sees, whom it asks for, and whether it takes the settings.
fn perform(probe: &Probe) -> (Observation, Vec<String>, bool) {
    let scheme = probe.service.settings.url.scheme();
    refusing(scheme, |prober, names| {
        let checked = prober.check(&probe.service.settings).is_ok();
        let look = run(prober.inspect(probe));
        assert_harmless(&look);
        (look.seen, names.take(), checked)
    })
    .unwrap_or_else(|| panic!("{scheme} is nobody's"))
}

/// The address of which a prober says that it was refused.
fn refused(seen: &Observation) -> Option<IpAddr> {
    if seen.outcome != Outcome::Indeterminate(IndeterminateReason::Blocked) {
        return None;
    }
    let (_, rest) = seen.detail.as_ref()?.split_once("the address policy refuses ")?;
    rest.split(": ").next()?.split(", ").next()?.parse().ok()
}

/// What must hold of any text that is a target.
fn plausible(probe: &Probe, seen: &Observation, asked: &[String], checked: bool) {
    let url = &probe.service.settings.url;
    match (seen.outcome, asked) {
        (Outcome::Indeterminate(IndeterminateReason::Blocked), []) => {
            let address = refused(seen).unwrap_or_else(|| panic!("{url}: {seen:?}"));
            if let Some(said) = said(probe) {
                assert_eq!(said.parse(), Ok(address), "{url}");
            }
        }
        (Outcome::Fail(FailReason::Dns | FailReason::Proxy | FailReason::Authentication), [name]) => {
            assert!(!is_number(name), "{url}: {name} is an address for some, and was taken for a name");
            let right = |byte: u8| byte.is_ascii_graphic() && !b"#%/:<>?@[\\]^|".contains(&byte);
            assert!(name.bytes().all(right) && !name.is_empty(), "{url}: {name:?} is no name");
            assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{url}: {name:?}");
            if let Some(said) = said(probe) {
                assert_eq!(said, name, "{url}");
            }
        }
        (_, []) => assert!(!checked, "{url} is taken and not probed: {seen:?}"),
        _ => panic!("{url}: {seen:?}, and {asked:?} were asked for"),
    }
}

/// The host as it stands in the target itself, where nothing else was set, and the URL standard has
/// read it: a split of the text is all that it takes then.
fn said(probe: &Probe) -> Option<&str> {
    let target = &probe.service.settings.url;
    if !probe.service.settings.options.is_empty() || !matches!(target.scheme(), "http" | "https" | "ws" | "wss") {
        return None;
    }
    let (_, rest) = target.as_str().split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    Some(host.trim_start_matches('[').trim_end_matches(']'))
}

/// Whether the C library would read a text as an address: up to four numbers, in any base.
fn is_number(text: &str) -> bool {
    let number = |part: &str| {
        let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
        match hex {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
        }
    };
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    parts.len() <= 4 && parts.into_iter().all(number) || text.parse::<IpAddr>().is_ok()
}

/// An address out of some bytes, written in a form that the first of them names, as the host of a
/// URL; and how the parser should have read it.
fn written(bytes: &[u8]) -> Option<(String, IpAddr)> {
    let ([form, cases], rest) = bytes.split_first_chunk::<2>()?;
    let v4 = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    let [a, b, c, d] = v4.octets();
    let low = |octets: &[u8]| octets.iter().fold(0_u32, |all, octet| all << 8 | u32::from(*octet));
    let host = match form % 24 {
        0 => v4.to_string(),
        1 => format!("{v4}."),
        2 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        3 => format!("0x{a:x}.0X{b:X}.0x{c:x}.0x{d:X}"),
        4 => v4.to_bits().to_string(),
        5 => format!("0x{:x}", v4.to_bits()),
        6 => format!("0{:o}", v4.to_bits()),
        7 => format!("{a}.{}", low(&[b, c, d])),
        8 => format!("0x{a:x}.{b}.0{:o}", low(&[c, d])),
        9 => format!("{a}.{b}.0x000{:x}", low(&[c, d])),
        10 => v4.to_string().replace('1', "%31").replace('.', if cases & 1 == 0 { "%2E" } else { "." }),
        11 => v4.to_string().chars().map(|c| if c == '.' { c } else { wide(c) }).collect(),
        12 => v4.to_string().replace('.', "\u{3002}"),
        13 => v4.to_string().replace('.', "\u{ff0e}"),
        _ => {
            let octets = v6(form % 24, rest)?;
            let address = Ipv6Addr::from(octets);
            let s = address.segments();
            let host = match cases % 4 {
                0 => address.to_string(),
                1 => s.map(|part| format!("{part:04X}")).join(":"),
                2 => format!("{}:{}", s[..6].iter().map(|part| format!("{part:x}")).collect::<Vec<_>>().join(":"), {
                    Ipv4Addr::from([octets[12], octets[13], octets[14], octets[15]])
                }),
                _ => s.map(|part| format!("{part:x}")).join(":"),
            };
            return Some((format!("[{host}]"), address.into()));
        }
    };
    Some((host, v4.into()))
}

/// A digit of full width.
fn wide(digit: char) -> char {
    digit.to_digit(10).and_then(|value| char::from_u32(0xff10 + value)).unwrap_or(digit)
}

/// An IPv6 address, in most forms with four of the bytes as an IPv4 one in it.
fn v6(form: u8, rest: &[u8]) -> Option<[u8; 16]> {
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    let mut octets = [0; 16];
    for (octet, byte) in octets.iter_mut().zip(rest.get(4..).unwrap_or_default()) {
        *octet = *byte;
    }
    let mut put = |at: usize, bytes: &[u8]| octets[at..at + bytes.len()].copy_from_slice(bytes);
    match form {
        14 => put(0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]),
        15 => put(0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
        16 => put(0, &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, a, b, c, d]),
        17 => put(0, &[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
        18 => put(0, &[0x20, 0x02, a, b, c, d]),
        19 => put(0, &[0x20, 0x01, 0, 0, a, b, c, d]),
        20 => {
            put(0, &[0x20, 0x01, 0, 0]);
            put(12, &[!a, !b, !c, !d]);
        }
        21 => put(8, &[0, 0, 0x5e, 0xfe, a, b, c, d]),
        22 => put(8, &[2, 0, 0x5e, 0xfe, a, b, c, d]),
        _ => {}
    }
    Some(octets)
}
