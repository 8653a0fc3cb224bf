//! Saying something over a connection, and judging what comes back.

use std::{io, time::Duration};

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields},
};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};
use url::Host;

use super::payload::{Encoding, Payload};
use crate::{
    expression,
    net::{Progress, Stage, attempt::Fault, progress::add},
    pattern::{Effort, Found, Pattern},
    secrets::{Redactor, SecretRef, Secrets},
};

/// The most steps of one dialogue.
const STEPS_LIMIT: usize = 8;
/// The most that is read for one step, in bytes.
pub(crate) const READ_LIMIT: usize = 64 * 1024;
/// So long before the deadline it is told what came instead; the deadline itself would drop that.
const LAST_WORD: Duration = Duration::from_millis(5);
/// After so many pieces or bytes, what would have to be read again in full is judged only when it has
/// doubled, or when no more has come for a moment: a peer that sends single bytes must not make us search
/// 64 KiB for each.
const JUDGED_EACH: u32 = 64;
const JUDGED_WHOLE: usize = 4 * 1024;
/// That moment.
const QUIET: Duration = Duration::from_millis(20);

/// What is said and heard in turn.
#[derive(Debug, Default)]
pub(crate) struct Dialogue(Vec<Step>);

#[derive(Debug)]
struct Step {
    send: Option<Payload>,
    expect: Option<Pattern>,
}

impl Dialogue {
    /// Takes `send`, `encoding` and `expect` (one step), or `steps`, out of a section.
    pub(crate) fn read(fields: &mut Fields) -> Self {
        let mut single = Map::new();
        let mut rest = fields.take_rest();
        for field in ["send", "encoding", "expect"] {
            single.extend(rest.shift_remove(field).filter(|v| !v.is_null()).map(|value| (field.to_owned(), value)));
        }
        fields.put_back(rest);
        let steps: Option<Vec<Map<String, Value>>> = fields.optional("steps");
        let mut read = Vec::new();
        let mut keep = |step: Result<Step, FieldErrors>, fields: &mut Fields| match step {
            Ok(step) => read.push(step),
            Err(errors) => fields.absorb(errors),
        };
        match steps {
            None if single.is_empty() => {}
            None => keep(Step::read(single), fields),
            Some(_) if !single.is_empty() => {
                fields.wrong("steps", "cannot stand beside send or expect; put those into a step");
            }
            Some(steps) if steps.is_empty() || steps.len() > STEPS_LIMIT => {
                fields.wrong("steps", "must be 1 to 8 steps");
            }
            Some(steps) => {
                for (at, step) in steps.into_iter().enumerate() {
                    keep(Step::read(step).map_err(|errors| errors.within(&format!("steps[{at}]"))), fields);
                }
            }
        }
        let read = Self(read);
        if read.patterns_kib() > expression::SUM_LIMIT {
            fields.wrong("steps", expression::TOO_LARGE);
        }
        read
    }

    /// How many patterns are in it.
    pub(crate) fn patterns(&self) -> usize {
        self.0.iter().filter(|step| step.expect.as_ref().is_some_and(Pattern::is_compiled)).count()
    }

    /// What they are compiled to, in KiB.
    pub(crate) fn patterns_kib(&self) -> usize {
        self.0.iter().filter_map(|step| step.expect.as_ref()).map(Pattern::kib).sum()
    }

    /// What takes all that is sent out of what is told of the peer, but for the name of `host`.
    pub(crate) fn redactor(&self, secrets: &Secrets, host: Host<&str>) -> Redactor {
        let mut redactor = Redactor::default();
        self.0.iter().filter_map(|step| step.send.as_ref()).for_each(|payload| payload.hide(secrets, &mut redactor));
        redactor.spare(host);
        redactor
    }

    /// Goes through the steps until one is not answered as expected, which is noted.
    pub(crate) async fn hold<S>(
        &self,
        stream: &mut S,
        secrets: &Secrets,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<(), Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut inbox = Inbox { seen: Vec::new(), received: 0, begun: Instant::now() };
        progress.stage = Stage::Answer;
        for (at, step) in self.0.iter().enumerate() {
            if let Some(payload) = &step.send {
                let bytes = payload.bytes(secrets)?;
                // What came before is no answer to this.
                inbox.seen.clear();
                stream.write_all(&bytes).await.map_err(|error| broken(&error))?;
                stream.flush().await.map_err(|error| broken(&error))?;
            }
            let Some(pattern) = &step.expect else { continue };
            let missed = inbox.await_match(stream, pattern, deadline, progress).await?;
            let held = if missed.is_some() { Held::Failed } else { Held::Held };
            let what = if self.0.len() == 1 { "answer".to_owned() } else { format!("answer of step {}", at + 1) };
            progress.assertions.note(&what, held, FailReason::Assertion, || {
                (pattern.to_string(), missed.unwrap_or_else(|| "it".to_owned()))
            });
            if held == Held::Failed {
                break;
            }
        }
        if inbox.received > 0 {
            progress.learn("received", format_args!("{} bytes", inbox.received));
        }
        Ok(())
    }
}

impl Step {
    fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let encoding: Encoding = fields.optional("encoding").unwrap_or_default();
        let send = fields.optional::<SecretRef>("send").map(|secret| Payload::new(secret, encoding));
        let expect = fields
            .optional::<Value>("expect")
            .map(|value| Pattern::read("expect", value, |text| encoding.decode(text)));
        let said = send.is_some() || expect.is_some();
        let (send, expect) = (send.transpose(), expect.transpose());
        if let Err(problem) = &send {
            fields.wrong("send", problem);
        }
        let expect = expect.unwrap_or_else(|errors| {
            fields.absorb(errors);
            None
        });
        fields.finish()?;
        if !said {
            return Err(FieldErrors::one("send", "is required, or expect, or both"));
        }
        Ok(Self { send: send.unwrap_or_default(), expect })
    }
}

/// What was received and is not used up.
struct Inbox {
    seen: Vec<u8>,
    /// Bytes in all.
    received: usize,
    begun: Instant,
}

impl Inbox {
    /// Waits for what `pattern` wants, and uses it up; or tells what came instead, which is never
    /// repeated.
    async fn await_match<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        pattern: &Pattern,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Option<String>, Fault> {
        let (mut judged, mut judgements) = (0, 0u32);
        let (mut effort, mut is_quiet) = (Effort::of(pattern), false);
        loop {
            let full = self.seen.len() >= READ_LIMIT;
            let grown = self.seen.len() - judged >= judged || full;
            let few = judgements < JUDGED_EACH && self.seen.len() <= JUDGED_WHOLE;
            if grown || !pattern.rereads() || ((few || is_quiet) && effort.spend(pattern, &self.seen)) {
                judgements = judgements.saturating_add(1);
                match pattern.find(&self.seen, judged) {
                    Found::Until(end) => {
                        self.seen.drain(..end);
                        return Ok(None);
                    }
                    Found::Never => return Ok(Some("something else".to_owned())),
                    Found::NotYet => judged = self.seen.len(),
                }
            }
            if full {
                return Ok(Some(format!("{READ_LIMIT} bytes without it")));
            }
            let last_word = deadline.checked_sub(LAST_WORD).unwrap_or(deadline);
            let is_unjudged = judged < self.seen.len() && !is_quiet;
            let until = if is_unjudged { last_word.min(Instant::now() + QUIET) } else { last_word };
            let received = timeout_at(until, self.receive(stream, progress)).await;
            is_quiet = received.is_err() && until < last_word;
            let ended = match received {
                Err(_) if is_quiet => continue,
                Ok(Ok(0)) if self.seen.is_empty() => {
                    return Err(Fault::fail(FailReason::Protocol, "the connection was closed without an answer"));
                }
                Ok(Ok(0)) => "and then the end",
                Ok(read) => {
                    read?;
                    continue;
                }
                // Whole lines came, so the peer has answered: that it is not the expected answer
                // says more than that time ran out.
                Err(_) if self.seen.contains(&b'\n') => "until the deadline",
                Err(_) if matches!(pattern.find(&self.seen, judged), Found::Until(_)) => return Ok(None),
                Err(_) => std::future::pending().await,
            };
            if let Found::Until(_) = pattern.find(&self.seen, judged) {
                return Ok(None);
            }
            return Ok(Some(format!("{} bytes without it {ended}", self.seen.len())));
        }
    }

    async fn receive<S: AsyncRead + Unpin>(&mut self, stream: &mut S, progress: &mut Progress) -> Result<usize, Fault> {
        let mut piece = [0; 4096];
        let most = piece.len().min(READ_LIMIT - self.seen.len());
        let read = stream.read(&mut piece[..most]).await.map_err(|error| broken(&error))?;
        if self.received == 0 && read > 0 && progress.phases.first_byte_us.is_none() {
            add(&mut progress.phases.first_byte_us, self.begun.elapsed());
        }
        self.received += read;
        self.seen.extend_from_slice(&piece[..read]);
        Ok(read)
    }
}

/// The fault of a connection that broke under way.
pub(super) fn broken(error: &io::Error) -> Fault {
    // With TLS 1.3 a peer may refuse us only after the handshake, by an alert.
    let alert = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let reason = if alert { FailReason::Tls } else { FailReason::Protocol };
    Fault::fail(reason, format!("the connection broke: {error}"))
}
