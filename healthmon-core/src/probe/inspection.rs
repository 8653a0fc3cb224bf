//! A closer look at one probe, for people.

use serde::Serialize;

use super::{Observation, printable};

/// How an assertion came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// What was seen is what was expected.
    Held,
    /// It is not, and that degrades the service.
    Degraded,
    /// It is not, and that fails the probe.
    Failed,
}

/// What was expected of an answer, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assertion {
    /// Of what, such as `status` or `header content-type`.
    pub what: Box<str>,
    /// What was expected.
    pub expected: Box<str>,
    /// What was seen; never a secret, never a body.
    pub seen: Box<str>,
    /// How it came out.
    pub held: Held,
}

impl Assertion {
    /// An assertion whose texts are made safe to store and show.
    pub fn new(what: &str, expected: &str, seen: &str, held: Held) -> Self {
        Self { what: printable(what), expected: printable(expected), seen: printable(seen), held }
    }
}

/// Something that was learnt about the target on the way, such as its address or its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is, such as `address` or `certificate issuer`.
    pub what: Box<str>,
    /// What was learnt, made safe to show.
    pub value: Box<str>,
}

impl Fact {
    /// A fact whose texts are made safe to show.
    pub fn new(what: &str, value: &str) -> Self {
        Self { what: printable(what), value: printable(value) }
    }
}

/// What one probe saw, with all that is of interest to a person who looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What a scheduled probe would have recorded.
    pub seen: Observation,
    /// What was learnt on the way, in the order in which it was.
    pub facts: Vec<Fact>,
    /// Every assertion that was made, those that held too.
    pub assertions: Vec<Assertion>,
}

impl Inspection {
    /// Nothing but what was recorded.
    pub const fn of(seen: Observation) -> Self {
        Self { seen, facts: Vec::new(), assertions: Vec::new() }
    }
}
