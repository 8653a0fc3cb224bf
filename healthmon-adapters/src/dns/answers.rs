//! Which records of an answer are answers, and how they are written.

use healthmon_core::probe::FailReason;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{message::Answer, question::Question};
use crate::net::attempt::Fault;

/// How many aliases are followed.
const ALIASES: usize = 16;

/// The records that answer `question`: those of its type at its name, or where its aliases lead.
/// Other records of an answer are nobody's business.
pub(super) fn of<'a>(answer: &'a Answer, question: &Question) -> Result<Vec<&'a Record>, Fault> {
    let records = &answer.message.answers;
    let at = |name: &Name| -> Vec<&'a Record> {
        let here = |record: &&Record| {
            record.name == *name
                && record.dns_class == question.class
                && (record.record_type() == question.kind || question.kind == RecordType::ANY)
        };
        records.iter().filter(here).collect()
    };
    let mut name = &question.name;
    for _ in 0..=ALIASES {
        let found = at(name);
        if !found.is_empty() {
            return Ok(found);
        }
        let alias = records.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *name => Some(&alias.0),
            _ => None,
        });
        match alias {
            Some(alias) => name = alias,
            None => return Ok(Vec::new()),
        }
    }
    let detail = format!("the answer's aliases go in a circle, or through more than {ALIASES} names");
    Err(Fault::fail(FailReason::Protocol, detail))
}

/// A record's data as it is compared: names in lower-case ASCII without the dot at the end.
pub(super) fn text(data: &RData) -> String {
    let name = |name: &Name| name.to_ascii();
    let text = match data {
        RData::CNAME(target) => name(&target.0),
        RData::NS(target) => name(&target.0),
        RData::PTR(target) => name(&target.0),
        RData::MX(mx) => format!("{} {}", mx.preference, name(&mx.exchange)),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, name(&srv.target)),
        // What this crate does not write as a text of its own.
        RData::OPT(_) | RData::Update0(_) => String::new(),
        other => other.to_string(),
    };
    normal(data.record_type(), &text)
}

/// `text` as [`text`](self::text) writes a record of this type.
pub(super) fn normal(kind: RecordType, text: &str) -> String {
    match kind {
        RecordType::CNAME | RecordType::NS | RecordType::PTR | RecordType::MX | RecordType::SRV | RecordType::SOA => {
            let words = text.split_whitespace().map(|word| match word.trim_end_matches('.') {
                "" => ".".to_owned(),
                word => word.to_ascii_lowercase(),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        RecordType::A | RecordType::AAAA => match text.trim().parse::<std::net::IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_is_written_in_one_way() {
        for (kind, written, normal_form) in [
            (RecordType::AAAA, "2001:DB8:0:0::1", "2001:db8::1"),
            (RecordType::A, " 192.0.2.1 ", "192.0.2.1"),
            (RecordType::MX, "10  Mail.Example.ORG.", "10 mail.example.org"),
            (RecordType::NS, ".", "."),
            (RecordType::TXT, "v=spf1  -ALL.", "v=spf1  -ALL."),
        ] {
            assert_eq!(normal(kind, written), normal_form);
        }
    }
}
