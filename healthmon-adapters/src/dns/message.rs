//! Messages: the one that is sent, and what is believed of those that come.

use std::fmt;

use healthmon_core::probe::{FailReason, IndeterminateReason};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Asked, ResponseCode},
    serialize::binary::DecodeError,
};

use super::question::Question;
use crate::net::{Progress, attempt::Fault};

/// The largest answer that we ask for in a datagram: what passes any network whole.
const DATAGRAM: u16 = 1232;
/// How many records an answer may have.
const RECORDS: usize = 2048;
/// How many pointers may follow one another.
const POINTERS: u8 = 4;
const HEADER: usize = 12;
/// How many answers are told to whoever takes a closer look.
const TOLD: usize = 16;

/// How a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asking {
    /// Whether the server is to ask others if need be.
    pub(super) recursion: bool,
    /// Whether signatures are wanted.
    pub(super) dnssec: bool,
}

/// A question on its way, with a random id.
pub(super) struct Query {
    id: u16,
    question: Question,
    pub(super) bytes: Vec<u8>,
}

/// What a message is to the question that was sent.
pub(super) enum Verdict {
    /// Its answer.
    Answer(Answer),
    /// Something else.
    Other(Stray),
    /// Its answer, which cannot be read.
    Broken(String),
}

/// A message that does not answer what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stray {
    /// It is no answer at all.
    NoAnswer,
    /// It answers another id.
    Id,
    /// It answers another question.
    Question,
}

impl Stray {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "is no dns answer",
            Self::Id => "answers another id",
            Self::Question => "answers another question",
        }
    }
}

impl Query {
    pub(super) fn new(question: &Question, asking: Asking) -> Result<Self, Fault> {
        // Its id is random.
        let mut message = Message::query();
        let mut asked = Asked::query(question.name.clone(), question.kind);
        asked.set_query_class(question.class);
        message.add_query(asked);
        message.metadata.recursion_desired = asking.recursion;
        // By this flag in a question we say that we understand it in the answer (RFC 6840, 5.7).
        message.metadata.authentic_data = true;
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM).set_dnssec_ok(asking.dnssec);
        message.set_edns(edns);
        let bytes =
            message.to_vec().map_err(|error| Fault::indeterminate(IndeterminateReason::Internal, error.to_string()))?;
        Ok(Self { id: message.metadata.id, question: question.clone(), bytes })
    }

    /// What `bytes` are to this question.
    pub(super) fn judge(&self, bytes: &[u8]) -> Verdict {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return Verdict::Other(Stray::NoAnswer) };
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if number(2) & 0x8000 == 0 {
            return Verdict::Other(Stray::NoAnswer);
        }
        if number(0) != self.id {
            return Verdict::Other(Stray::Id);
        }
        let records: usize = [6, 8, 10].map(|at| usize::from(number(at))).iter().sum();
        if records > RECORDS || number(4) > 1 {
            return Verdict::Broken(format!("it has {records} records and {} questions", number(4)));
        }
        if has_chains(bytes) {
            return Verdict::Broken("its names are pointers to pointers".to_owned());
        }
        match Message::from_vec(bytes) {
            Ok(message) if self.is_answered_by(&message) => Verdict::Answer(Answer { message, size: bytes.len() }),
            Ok(_) => Verdict::Other(Stray::Question),
            // The name in it is the server's text.
            Err(DecodeError::EdnsNameNotRoot(_)) => Verdict::Broken("its edns record has a name".to_owned()),
            Err(error) => Verdict::Broken(error.to_string()),
        }
    }

    fn is_answered_by(&self, message: &Message) -> bool {
        if message.metadata.message_type != MessageType::Response || message.metadata.op_code != OpCode::Query {
            return false;
        }
        match message.queries.as_slice() {
            [asked] => {
                asked.name() == &self.question.name
                    && asked.query_type() == self.question.kind
                    && asked.query_class() == self.question.class
            }
            // Who refuses a question need not repeat it.
            _ => message.answers.is_empty() && message.metadata.response_code != ResponseCode::NoError,
        }
    }
}

/// Whether a name of `message` may be a chain of pointers. Nobody needs those, and each name that
/// begins at the end of a long one costs as much as the whole chain: 64 KiB of them would keep a
/// thread busy for seconds.
fn has_chains(message: &[u8]) -> bool {
    // What pointers can point to.
    const REACH: usize = 1 << 14;
    let reached = &message[..message.len().min(REACH)];
    let mut depths = vec![0_u8; reached.len()];
    reached.windows(2).enumerate().any(|(at, pair)| {
        let pointer = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
        // Two bits mark a pointer. One that does not point backwards ends any name that meets it.
        let to = pointer & (REACH - 1);
        if pointer & !(REACH - 1) == 0xc000 && to < at {
            depths[at] = depths[to] + 1;
        }
        depths[at] > POINTERS
    })
}

/// An answer to the very question that was asked.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) message: Message,
    size: usize,
}

impl Answer {
    pub(super) fn rcode(&self) -> Rcode {
        Rcode(self.message.metadata.response_code.into())
    }

    pub(super) const fn is_truncated(&self) -> bool {
        self.message.metadata.truncation
    }

    /// Tells what stands in it to whoever takes a closer look.
    pub(super) fn tell(&self, progress: &mut Progress) {
        if !progress.is_inspected() {
            return;
        }
        let flags = &self.message.metadata;
        let set = [
            ("authoritative", flags.authoritative),
            ("recursion available", flags.recursion_available),
            ("authenticated", flags.authentic_data),
        ];
        let set: Vec<&str> = set.into_iter().filter_map(|(name, set)| set.then_some(name)).collect();
        progress.learn("response code", self.rcode());
        progress.learn("flags", if set.is_empty() { "none".to_owned() } else { set.join(", ") });
        progress.learn("answer size", format_args!("{} bytes", self.size));
        let answers = &self.message.answers;
        for record in answers.iter().take(TOLD) {
            let (name, data) = (record.name.to_ascii(), super::answers::text(&record.data));
            progress.learn("answer", format_args!("{name} {} {} {data}", record.ttl, record.record_type()));
        }
        if answers.len() > TOLD {
            progress.learn("further answers", answers.len() - TOLD);
        }
    }
}

/// A response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rcode(u16);

const RCODES: [(u16, &str); 13] = [
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (16, "BADVERS"),
    (23, "BADCOOKIE"),
];

impl Rcode {
    pub(super) const NOERROR: Self = Self(0);

    pub(super) const fn number(self) -> u16 {
        self.0
    }

    /// The code with this number, of those that there can be.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| *number < 4096).map(Self)
    }

    /// The code with this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        RCODES.iter().find(|(_, known)| name.eq_ignore_ascii_case(known)).map(|&(number, _)| Self(number))
    }
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match RCODES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// An answer that cannot be read.
pub(super) fn broken(why: &str) -> Fault {
    Fault::fail(FailReason::Protocol, format!("the answer cannot be read: {why}"))
}
