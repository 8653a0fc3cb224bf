//! One probe, in a form that people like to read.

use std::io::IsTerminal;

use healthmon_core::{
    probe::{Assertion, Fact, Held, Observation, Outcome, Reason},
    time::Timestamp,
};

use super::Report;

/// How the answer may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// How many columns there are.
    pub width: usize,
    /// Whether there is colour.
    pub colour: Colour,
}

/// Whether there is colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// There is.
    Ansi,
    /// There is none.
    None,
}

impl Look {
    /// As standard output has it: colour on a terminal only, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour =
            if std::io::stdout().is_terminal() && !dumb && !set("NO_COLOR") { Colour::Ansi } else { Colour::None };
        let width = terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0));
        Self { width: width.clamp(40, 120), colour }
    }
}

/// What a text means to whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Warning,
    Bad,
    Aside,
    Loud,
}

/// A text that grows line by line.
struct Page {
    look: Look,
    text: String,
}

impl Page {
    fn new(look: Look) -> Self {
        Self { look, text: String::new() }
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Aside => "2",
            Tone::Loud => "1",
        };
        match self.look.colour {
            Colour::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Colour::None => text.to_owned(),
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }

    /// A text behind a `margin` of so many columns, on as many lines as it takes.
    fn paragraph(&mut self, margin: usize, tone: Option<Tone>, text: &str) {
        for line in wrapped(text, self.look.width.saturating_sub(margin)) {
            let line = tone.map_or_else(|| line.clone(), |tone| self.paint(tone, &line));
            self.line(&format!("{:margin$}{line}", ""));
        }
    }

    /// A name, and a text beside it.
    fn entry(&mut self, name: &str, column: usize, tone: Option<Tone>, text: &str) {
        let lines = wrapped(text, self.look.width.saturating_sub(column + 4));
        for (at, line) in lines.iter().enumerate() {
            let name = self.paint(Tone::Aside, &format!("{:column$}", if at == 0 { name } else { "" }));
            let line = tone.map_or_else(|| line.clone(), |tone| self.paint(tone, line));
            self.line(&format!("  {name}  {line}"));
        }
    }
}

/// Breaks a text at blanks, or within a word that is too long.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(20);
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        while word.len() > width {
            let rest = word.split_off(width);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        used += word.len();
        line.extend(word);
    }
    lines.push(line);
    lines
}

/// What one probe came to.
pub(super) fn report(report: &Report, look: Look) -> String {
    let mut page = Page::new(look);
    let seen = &report.inspection.seen;
    verdict(&mut page, report);
    phases(&mut page, seen);
    let (certificate, facts): (Vec<&Fact>, Vec<&Fact>) =
        report.inspection.facts.iter().partition(|fact| fact.what.starts_with("certificate"));
    let column = facts.iter().map(|fact| fact.what.chars().count()).max().unwrap_or(0).clamp(10, 24);
    if !facts.is_empty() {
        page.gap();
        facts.iter().for_each(|fact| page.entry(&fact.what, column, None, &fact.value));
    }
    assertions(&mut page, &report.inspection.assertions);
    if seen.certificate_expires.is_some() || !certificate.is_empty() {
        page.gap();
        self::certificate(&mut page, column, &certificate, (seen.certificate_expires, report.now));
    }
    page.text
}

fn verdict(page: &mut Page, report: &Report) {
    let seen = &report.inspection.seen;
    let (tone, verdict) = match seen.outcome {
        Outcome::Pass => (Tone::Good, "✓ pass"),
        Outcome::Slow => (Tone::Warning, "! slow"),
        Outcome::Fail(_) | Outcome::Fatal(_) => (Tone::Bad, "✗ FAIL"),
        Outcome::Indeterminate(_) => (Tone::Warning, "? nothing learnt"),
    };
    let mut head = format!("{}  {}", page.paint(tone, verdict), page.paint(Tone::Loud, report.target.as_str()));
    if let Some(code) = seen.code {
        head.push_str(&format!("  status {code}"));
    }
    head.push_str(&format!("  {}", millis(seen.latency_us)));
    page.line(&head);
    // What did not hold is told below, one by one.
    let below = report.inspection.assertions.iter().any(|assertion| assertion.held != Held::Held);
    match (seen.outcome.reason(), seen.detail.as_deref().filter(|_| !below)) {
        (Some(reason), Some(detail)) => {
            page.paragraph(2, Some(tone), &format!("{reason}: {detail}"));
            page.paragraph(2, Some(Tone::Aside), reason.meaning());
        }
        (Some(reason), None) => page.paragraph(2, Some(tone), &format!("{reason}: {}", reason.meaning())),
        (None, Some(detail)) => page.paragraph(2, Some(tone), detail),
        (None, None) => {}
    }
}

/// Each phase as a bar that begins where the one before it ended.
fn phases(page: &mut Page, seen: &Observation) {
    let measured = [
        ("dns", seen.phases.dns_us),
        ("connect", seen.phases.connect_us),
        ("tls", seen.phases.tls_us),
        ("first byte", seen.phases.first_byte_us),
    ];
    let mut lines: Vec<(&str, u32)> = measured.into_iter().filter_map(|(name, us)| us.map(|us| (name, us))).collect();
    if lines.is_empty() {
        return;
    }
    let rest = lines.iter().fold(seen.latency_us, |rest, (_, us)| rest.saturating_sub(*us));
    lines.push(("rest", rest));
    let whole = lines.iter().map(|(_, us)| u64::from(*us)).sum::<u64>().max(1);
    let bars = u64::try_from(page.look.width.saturating_sub(32).clamp(8, 48)).unwrap_or(8);
    page.gap();
    let mut before = 0;
    for (name, us) in lines {
        let begin = before * bars * 8 / whole;
        before += u64::from(us);
        let end = (before * bars * 8 / whole).max(begin + 1).min(bars * 8);
        let name = page.paint(Tone::Aside, &format!("{name:<10}"));
        let bar = page.paint(Tone::Good, &bar(begin, end));
        page.line(&format!("  {name}  {:>12}  {bar}", millis(us)));
    }
}

/// A bar from one eighth of a column to another.
fn bar(begin: u64, end: u64) -> String {
    const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    let eighth = |at: u64| usize::try_from(at).unwrap_or(0).min(8);
    let mut text = String::new();
    for column in 0..end.div_ceil(8) {
        let (left, right) = (column * 8, column * 8 + 8);
        // There is no block that begins within a column: one that does is drawn from its begin.
        text.push(if right <= begin { ' ' } else { EIGHTHS[eighth(end.min(right) - left)] });
    }
    text
}

fn assertions(page: &mut Page, assertions: &[Assertion]) {
    if assertions.is_empty() {
        return;
    }
    page.gap();
    let column = assertions.iter().map(|assertion| assertion.what.chars().count()).max().unwrap_or(0).clamp(8, 28);
    for Assertion { what, expected, seen, held } in assertions {
        let (tone, mark) = match held {
            Held::Held => (Tone::Good, '✓'),
            Held::Degraded => (Tone::Warning, '!'),
            Held::Failed => (Tone::Bad, '✗'),
        };
        let text = format!("expected {expected}, got {seen}");
        let lines = wrapped(&text, page.look.width.saturating_sub(column + 6));
        for (at, line) in lines.iter().enumerate() {
            let name = if at == 0 { format!("{mark} {what:column$}") } else { format!("  {:column$}", "") };
            let name = page.paint(tone, &name);
            page.line(&format!("  {name}  {line}"));
        }
    }
}

/// What is to be known of a certificate: its facts without their common name, and how long it lasts.
fn certificate(page: &mut Page, column: usize, facts: &[&Fact], (expires, now): (Option<Timestamp>, Timestamp)) {
    let title = page.paint(Tone::Loud, "certificate");
    page.line(&format!("  {title}"));
    let name = |fact: &Fact| match fact.what.strip_prefix("certificate ") {
        Some(rest) => rest.to_owned(),
        None => fact.what.strip_prefix("certificates in the ").unwrap_or(&fact.what).to_owned(),
    };
    let mut lasts_told = false;
    for fact in facts {
        let value = match &*fact.what {
            "certificate valid" => {
                lasts_told = true;
                valid(&fact.value)
            }
            "certificates in the chain" if &*fact.value == "1" => "1 certificate".to_owned(),
            "certificates in the chain" => format!("{} certificates", fact.value),
            _ => fact.value.to_string(),
        };
        page.entry(&name(fact), column, None, &value);
    }
    let Some(expires) = expires else { return };
    let (tone, text) = lasts(expires, now);
    let text = if lasts_told { text } else { format!("{text} ({})", date(&expires.to_string())) };
    page.entry("expires", column, Some(tone), &text);
}

fn lasts(expires: Timestamp, now: Timestamp) -> (Tone, String) {
    const DAY_S: u64 = 86_400;
    if expires <= now {
        let days = now.since(expires).as_secs() / DAY_S;
        return (Tone::Bad, format!("expired {days} {} ago", plural(days)));
    }
    let days = expires.since(now).as_secs() / DAY_S;
    let tone = match days {
        0..7 => Tone::Bad,
        7..21 => Tone::Warning,
        _ => Tone::Good,
    };
    (tone, format!("in {days} {}", plural(days)))
}

const fn plural(days: u64) -> &'static str {
    if days == 1 { "day" } else { "days" }
}

/// Both ends of a validity by their days, if they can be told.
fn valid(text: &str) -> String {
    match text.split_once(" to ") {
        Some((from, to)) => format!("{} to {}", date(from), date(to)),
        None => text.to_owned(),
    }
}

/// The day of an RFC 3339 time.
fn date(time: &str) -> &str {
    time.split_once('T').map_or(time, |(day, _)| day)
}

fn millis(us: u32) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

/// Every reason with what it means.
pub(super) fn reasons(look: Look) -> String {
    let mut page = Page::new(look);
    let (fails, others): (Vec<Reason>, Vec<Reason>) =
        Reason::all().partition(|reason| matches!(reason, Reason::Fail(_)));
    let titles = ["A probe fails, because", "A probe says nothing about its target, because"];
    for (title, reasons) in titles.into_iter().zip([fails, others]) {
        if !page.text.is_empty() {
            page.gap();
        }
        let title = page.paint(Tone::Loud, title);
        page.line(&title);
        for reason in reasons {
            page.entry(reason.as_str(), 15, None, reason.meaning());
        }
    }
    page.text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use healthmon_core::{
        probe::{FailReason, Inspection, Phases},
        time::Timestamp,
    };

    use super::*;

    const PLAIN: Look = Look { width: 80, colour: Colour::None };

    fn failed() -> Report {
        let now = Timestamp::from_millis(1_764_000_000_000);
        let mut seen = Observation::new(Outcome::Fail(FailReason::Status), Duration::from_micros(40_000))
            .with_detail("status: expected 200-299, got 503");
        seen.phases =
            Phases { connect_us: Some(10_000), tls_us: Some(20_000), first_byte_us: Some(9_000), ..seen.phases };
        seen.code = Some(503);
        seen.certificate_expires = Some(now.after(Duration::from_hours(24 * 12 + 5)));
        let facts = vec![
            Fact::new("address", "192.0.2.7:443"),
            Fact::new("certificate issuer", "CN=An authority"),
            Fact::new("certificate names", "shop.example, www.shop.example, a-very-long-name.of-a-shop.example"),
            Fact::new("certificate valid", "2025-10-01T00:00:00.000000Z to 2025-12-06T21:00:00.000000Z"),
            Fact::new("certificates in the chain", "2"),
        ];
        let assertions = vec![
            Assertion::new("status", "200-299", "503", Held::Failed),
            Assertion::new("latency", "at most 10ms", "40ms", Held::Degraded),
            Assertion::new("body", "to contain \"ok\"", "it", Held::Held),
        ];
        let target = "https://shop.example/health".parse().expect("a target");
        Report { target, inspection: Inspection { seen, facts, assertions }, now }
    }

    #[test]
    fn a_failure_is_told_from_the_verdict_down_to_the_certificate() {
        let expected = "\
✗ FAIL  https://shop.example/health  status 503  40.000 ms
  status: the answer's status was not an expected one; look at the service's own
  log

  connect        10.000 ms  ████████████
  tls            20.000 ms              ████████████████████████
  first byte      9.000 ms                                      ██████████▊
  rest            1.000 ms                                                ██

  address     192.0.2.7:443

  ✗ status    expected 200-299, got 503
  ! latency   expected at most 10ms, got 40ms
  ✓ body      expected to contain \"ok\", got it

  certificate
  issuer      CN=An authority
  names       shop.example, www.shop.example, a-very-long-name.of-a-shop.example
  valid       2025-10-01 to 2025-12-06
  chain       2 certificates
  expires     in 12 days
";
        assert_eq!(report(&failed(), PLAIN), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [40, 60, 100] {
            let shown = report(&failed(), Look { width, ..PLAIN });
            let longest = shown.lines().skip(1).map(|line| line.chars().count()).max();
            assert!(longest <= Some(width), "{width}:\n{shown}");
        }
    }

    #[test]
    fn colour_is_there_only_where_it_may_be() {
        assert!(!report(&failed(), PLAIN).contains('\u{1b}'));
        let shown = report(&failed(), Look { colour: Colour::Ansi, ..PLAIN });
        assert!(shown.starts_with("\u{1b}[31m✗ FAIL\u{1b}[0m"), "{shown}");
    }

    #[test]
    fn what_is_hostile_in_a_long_word_is_broken_not_left_out() {
        let lines = wrapped(&format!("a {} b", "x".repeat(50)), 20);
        assert_eq!(lines.concat().replace(' ', "").len(), 52);
        assert!(lines.iter().all(|line| line.chars().count() <= 20), "{lines:?}");
    }

    #[test]
    fn a_certificate_is_good_until_three_weeks_before_its_end() {
        let now = Timestamp::from_millis(1_764_000_000_000);
        let in_days = |days: u64| lasts(now.after(Duration::from_hours(24 * days)), now);
        assert_eq!(in_days(21), (Tone::Good, "in 21 days".to_owned()));
        assert_eq!(in_days(20).0, Tone::Warning);
        assert_eq!(in_days(1), (Tone::Bad, "in 1 day".to_owned()));
        assert_eq!(lasts(now.before(Duration::from_hours(50)), now), (Tone::Bad, "expired 2 days ago".to_owned()));
    }
}
