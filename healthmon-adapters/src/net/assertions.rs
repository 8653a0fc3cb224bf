//! What was asserted of one answer, and what became of it.

use healthmon_core::probe::{Assertion, FailReason, Held, Outcome};

use super::attempt::Fault;

/// The assertions of one probe. Those that hold cost nothing, unless somebody takes a closer look.
#[derive(Debug, Default)]
pub struct Assertions {
    noted: Vec<(FailReason, Assertion)>,
    all: bool,
}

impl Assertions {
    /// A list that keeps those that hold too, for a person to read.
    pub const fn complete() -> Self {
        Self { noted: Vec::new(), all: true }
    }

    /// Notes how an assertion came out; `texts` gives what was expected and what was seen. One that
    /// failed fails the probe with `reason`.
    pub fn note(&mut self, what: &str, held: Held, reason: FailReason, texts: impl FnOnce() -> (String, String)) {
        if held == Held::Held && !self.all {
            return;
        }
        let (expected, seen) = texts();
        self.noted.push((reason, Assertion::new(what, &expected, &seen, held)));
    }

    /// Whether one of them failed already.
    pub fn have_failed(&self) -> bool {
        self.noted.iter().any(|(_, assertion)| assertion.held == Held::Failed)
    }

    /// What they come to, all that did not hold being told together; none when all held.
    pub(crate) fn verdict(&self) -> Option<Fault> {
        let of = |held| self.noted.iter().filter(move |(_, assertion)| assertion.held == held);
        let outcome = match of(Held::Failed).next() {
            Some((reason, _)) => Outcome::Fail(*reason),
            None => of(Held::Degraded).next().map(|_| Outcome::Slow)?,
        };
        let told = of(Held::Failed).chain(of(Held::Degraded)).map(|(_, assertion)| {
            let Assertion { what, expected, seen, .. } = assertion;
            format!("{what}: expected {expected}, got {seen}")
        });
        Some(Fault { outcome, detail: told.collect::<Vec<_>>().join("; ") })
    }

    pub(crate) fn all(self) -> Vec<Assertion> {
        self.noted.into_iter().map(|(_, assertion)| assertion).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(expected: &str, seen: &str) -> impl FnOnce() -> (String, String) {
        let (expected, seen) = (expected.to_owned(), seen.to_owned());
        || (expected, seen)
    }

    #[test]
    fn all_that_did_not_hold_are_told_together_failures_first() {
        let mut assertions = Assertions::default();
        assertions.note("size", Held::Held, FailReason::Assertion, || unreachable!("it held"));
        assertions.note("latency", Held::Degraded, FailReason::Assertion, texts("at most 1s", "1.2s"));
        assertions.note("status", Held::Failed, FailReason::Status, texts("200-299", "503"));
        assertions.note("body", Held::Failed, FailReason::Assertion, texts("to contain a text", "none of it"));
        let fault = assertions.verdict().expect("two failed");
        assert_eq!(fault.outcome, Outcome::Fail(FailReason::Status));
        assert_eq!(
            fault.detail,
            "status: expected 200-299, got 503; body: expected to contain a text, got none of it; \
             latency: expected at most 1s, got 1.2s"
        );
    }

    #[test]
    fn what_only_degrades_is_slow_and_what_holds_is_nothing() {
        let mut assertions = Assertions::complete();
        assertions.note("status", Held::Held, FailReason::Status, texts("200-299", "200"));
        assert!(assertions.verdict().is_none());
        assertions.note("latency", Held::Degraded, FailReason::Assertion, texts("at most 1s", "1.2s"));
        assert_eq!(assertions.verdict().map(|fault| fault.outcome), Some(Outcome::Slow));
        assert_eq!(assertions.all().len(), 2);
    }
}
