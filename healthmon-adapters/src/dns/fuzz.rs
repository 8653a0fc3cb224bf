//! Messages of name servers. An input is the number of some settings, how the message is made, and
//! then what stands in it: behind the head and the question, or all of it but the id.

use healthmon_core::probe::Outcome;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Duration, timeout},
};

use super::{
    exchange::over_stream,
    message::{Query, Verdict},
    settings::Settings,
};
use crate::{
    fuzzing::{assert_progress_harmless, probe, run},
    net::{Progress, attempt::Fault},
};

const SETTINGS: [(&str, &str); 8] = [
    ("a.test", "{}"),
    ("a.test?type=AAAA", r#"{"expect": {"answers": {"contains": ["2001:db8::1"]}}}"#),
    ("a.test?type=MX", r#"{"expect": {"answers": ["10 mail.a.test"], "ttl": {"min": "1m", "max": "1d"}}}"#),
    ("a.test?type=TXT", r#"{"expect": {"answers": {"matches": "^v=spf1", "count": {"max": 4}}}}"#),
    ("a.test?type=ANY", r#"{"expect": {"authenticated": true, "rcode": ["NOERROR", "NXDOMAIN", 23]}}"#),
    ("a.test?type=SRV", "{}"),
    ("a.test?type=SOA", r#"{"dns": {"dnssec": true}}"#),
    ("?type=NS", r#"{"dns": {"recursion": false}, "expect": {"answers": {"count": 13}}}"#),
];
const HEADER: usize = 12;

pub(crate) fn target(data: &[u8]) {
    let Some(([number, form], rest)) = data.split_first_chunk::<2>() else { return };
    let (asked, sections) = SETTINGS[usize::from(*number) % SETTINGS.len()];
    let sections = serde_json::from_str(sections).unwrap_or_else(|error| panic!("{sections}: {error}"));
    let probe = probe(&format!("dns://192.0.2.53/{asked}"), &sections).unwrap_or_else(|| panic!("{asked}"));
    let settings = Settings::read(&probe.service.settings).unwrap_or_else(|errors| panic!("{asked}: {errors}"));
    let Ok(query) = Query::new(&settings.question, settings.asking) else { panic!("{asked} cannot be asked") };
    let message = message(*form, rest, &query);
    if form & 4 == 0 {
        conclude(&settings, query.judge(&message), &query, &message);
    } else {
        run(stream(&settings, &query, &message, *form));
    }
}

/// A message: behind a right head and question, or with the right id, or as it is.
fn message(form: u8, rest: &[u8], query: &Query) -> Vec<u8> {
    match (form & 3, rest.split_first_chunk::<8>()) {
        (0 | 1, Some((head, records))) => {
            // The question ends before the one record that a query has, of eleven bytes.
            let question = &query.bytes[HEADER..query.bytes.len() - 11];
            let flags = [head[0] | 0x80, head[1]];
            [&query.bytes[..2], &flags, &[0, 1], &head[2..8], question, records].concat()
        }
        (2, _) => [&query.bytes[..2], rest].concat(),
        _ => rest.to_vec(),
    }
}

fn conclude(settings: &Settings, verdict: Verdict, query: &Query, message: &[u8]) {
    let mut progress = Progress::inspecting();
    match verdict {
        Verdict::Answer(answer) => {
            assert_eq!(message[..2], query.bytes[..2], "another id was believed");
            assert!(message[2] & 0x80 != 0, "a question was believed");
            answer.tell(&mut progress);
            let judged = settings.expected.judge(&answer, &settings.question, &mut progress);
            if let Err(fault) = judged {
                assert!(matches!(fault.outcome, Outcome::Fail(_)), "{fault:?}");
            }
        }
        Verdict::Other(stray) => assert!(!stray.as_str().is_empty()),
        Verdict::Broken(why) => assert!(why.len() < 500, "{why}"),
    }
    assert_progress_harmless(progress);
}

/// The same over a stream, with the length that belongs there or another.
async fn stream(settings: &Settings, query: &Query, message: &[u8], form: u8) {
    let (ours, mut theirs) = duplex(128 * 1024);
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX).wrapping_add(u16::from(form >> 4));
    let mut progress = Progress::inspecting();
    let serving = async {
        let mut heard = [0; 512];
        if theirs.read(&mut heard).await.is_ok() {
            let _gave_up = theirs.write_all(&[&length.to_be_bytes(), message].concat()).await;
            let _gave_up = theirs.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let asking = timeout(Duration::from_secs(5), over_stream(ours, query, &mut progress));
    let ended = tokio::select! {
        biased;
        ended = asking => ended,
        () = serving => unreachable!("it serves for ever"),
    };
    match ended {
        Ok(Ok(answer)) => conclude(settings, Verdict::Answer(answer), query, message),
        Ok(Err(Fault { outcome, detail })) => {
            assert!(matches!(outcome, Outcome::Fail(_)) && !detail.is_empty(), "{outcome:?} {detail}");
        }
        Err(_) => panic!("it hung up, and yet was waited for"),
    }
    assert_progress_harmless(progress);
}
