//! JSON paths (RFC 9535) into documents that are not to be trusted.
//!
//! The paths are parsed by the crate jsonpath-rust. It could evaluate them too, but keeps a path of
//! its own for each value that it finds, and compiles a pattern for each value that it tries: a small
//! hostile document would take gigabytes or minutes of it. Here every step is counted.

mod search;

use std::collections::HashMap;

use jsonpath_rust::parser::{
    model::{Comparable, Filter, FilterAtom, FnArg, JpQuery, Literal, Segment, Selector, Test, TestFunction},
    parse_json_path,
};
use serde_json::Value;

use super::text::{self, Pattern};
use search::Search;
pub(super) use search::equal;

const PATH_LIMIT: usize = 512;
/// How deep brackets and parentheses may nest: the parser tries alternatives at each level.
const NESTING_LIMIT: usize = 8;
/// How many steps one path may take: some milliseconds.
const STEPS: u32 = 200_000;

/// A path, and the patterns in it, compiled.
pub(super) struct Path {
    text: Box<str>,
    query: JpQuery,
    patterns: Patterns,
}

/// The steps that are left.
#[derive(Debug)]
pub(super) struct Budget(u32);

/// None are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

impl Default for Budget {
    fn default() -> Self {
        Self(STEPS)
    }
}

impl Budget {
    fn spend(&mut self, steps: usize) -> Result<(), Exhausted> {
        self.0 = u32::try_from(steps).ok().and_then(|steps| self.0.checked_sub(steps)).ok_or(Exhausted)?;
        Ok(())
    }
}

impl Path {
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if text.len() > PATH_LIMIT || nesting(text) > NESTING_LIMIT {
            return Err("must be a JSON path of at most 512 bytes, nested at most 8 deep".to_owned());
        }
        let query = parse_json_path(text).map_err(|_| "must be a JSON path such as $.items[0].name".to_owned())?;
        let mut patterns = HashMap::new();
        let problem = segments(&query.segments, &mut patterns).err();
        match problem {
            Some(problem) => Err(problem),
            None => Ok(Self { text: text.into(), query, patterns }),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// What they are compiled to.
    pub(super) fn patterns_kib(&self) -> usize {
        self.patterns.values().map(Pattern::kib).sum()
    }

    /// The values in `document` at this path.
    pub(super) fn select<'a>(&self, document: &'a Value, budget: &mut Budget) -> Result<Vec<&'a Value>, Exhausted> {
        let mut search = Search { root: document, patterns: &self.patterns, budget };
        search.walk(&self.query.segments, document)
    }
}

/// How deep brackets nest, those in texts included.
fn nesting(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' => open += 1,
            b')' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

type Patterns = HashMap<(Fit, Box<str>), Pattern>;

/// Gathers the patterns of a path, and refuses what the RFC does not know.
fn segments(all: &[Segment], patterns: &mut Patterns) -> Result<(), String> {
    let selector = |selector: &Selector, patterns: &mut Patterns| match selector {
        Selector::Filter(filter) => of_filter(filter, patterns),
        _ => Ok(()),
    };
    all.iter().try_for_each(|segment| match segment {
        Segment::Descendant(inner) => segments(std::slice::from_ref(&**inner), patterns),
        Segment::Selector(one) => selector(one, patterns),
        Segment::Selectors(many) => many.iter().try_for_each(|one| selector(one, patterns)),
    })
}

fn of_filter(filter: &Filter, patterns: &mut Patterns) -> Result<(), String> {
    match filter {
        Filter::Or(all) | Filter::And(all) => all.iter().try_for_each(|one| of_filter(one, patterns)),
        Filter::Atom(FilterAtom::Filter { expr, .. }) => of_filter(expr, patterns),
        Filter::Atom(FilterAtom::Test { expr, .. }) => of_test(expr, patterns),
        Filter::Atom(FilterAtom::Comparison(comparison)) => {
            let (left, right) = comparison.vals();
            [left, right].into_iter().try_for_each(|side| match side {
                Comparable::Function(function) => of_function(function, patterns),
                _ => Ok(()),
            })
        }
    }
}

fn of_test(test: &Test, patterns: &mut Patterns) -> Result<(), String> {
    match test {
        Test::RelQuery(inner) => segments(inner, patterns),
        Test::AbsQuery(query) => segments(&query.segments, patterns),
        Test::Function(function) => of_function(function, patterns),
    }
}

fn of_function(function: &TestFunction, patterns: &mut Patterns) -> Result<(), String> {
    let argument = |argument: &FnArg, patterns: &mut Patterns| match argument {
        FnArg::Literal(_) => Ok(()),
        FnArg::Test(test) => of_test(test, patterns),
        FnArg::Filter(filter) => of_filter(filter, patterns),
    };
    match function {
        TestFunction::Length(one) => argument(one, patterns),
        TestFunction::Value(one) | TestFunction::Count(one) => argument(one, patterns),
        TestFunction::Search(text, pattern) | TestFunction::Match(text, pattern) => {
            argument(text, patterns)?;
            // A pattern from the document would be the target's.
            let FnArg::Literal(Literal::String(written)) = pattern else {
                return Err("must give match() and search() their pattern as a text".to_owned());
            };
            let fit = if matches!(function, TestFunction::Match(..)) { Fit::Whole } else { Fit::Part };
            let whole = match fit {
                Fit::Whole => format!("^(?:{written})$"),
                Fit::Part => written.clone(),
            };
            patterns.insert((fit, written.as_str().into()), text::pattern(&whole)?);
            Ok(())
        }
        TestFunction::Custom(name, _) => Err(format!("must do without {name}(), which RFC 9535 does not know")),
    }
}

/// How much of a text a pattern must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fit {
    /// All of it, as `match()` has it.
    Whole,
    /// Any part, as `search()` has it.
    Part,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use jsonpath_rust::JsonPath;
    use serde_json::json;

    use super::*;

    /// The examples of RFC 9535 and what lies around them.
    const PATHS: &[&str] = &[
        "$",
        "$.a",
        "$['a']",
        "$.a[0]",
        "$.a[-1]",
        "$.a[9]",
        "$.a[*]",
        "$.*",
        "$..b",
        "$..*",
        "$..[0]",
        "$.a[1:3]",
        "$.a[5:1:-2]",
        "$.a[::-1]",
        "$.a[:-2]",
        "$.a[-3:]",
        "$.a[0,0,2]",
        "$['o','e']",
        "$.o[*]['p']",
        "$.a[?@.b == 'kilo']",
        "$.a[?@.b]",
        "$.a[?!@.b]",
        "$.a[?@ > 3.5]",
        "$.a[?@ <= 3]",
        "$.a[?@ != 3]",
        "$.a[?@.b == 'kilo' || @ == 5]",
        "$.a[?@ > 1 && @ < 4]",
        "$.o[?@ == 1.0]",
        "$.a[?@ == $.x]",
        "$.a[?@.z == $.nowhere]",
        "$.a[?match(@.b, '[jk]')]",
        "$.a[?search(@.b, '[jk]')]",
        "$.a[?length(@.b) > 1]",
        "$.e[?count(@.*) == 1]",
        "$.e[?value(@..c) == 3]",
        "$..[?@.c]",
    ];

    fn document() -> Value {
        json!({
            "a": [3, 5, 1, 2, 4, 6, {"b": "j"}, {"b": "k"}, {"b": {}}, {"b": "kilo"}],
            "o": {"p": 1, "q": 2, "r": 3, "s": 5, "t": {"u": 6}},
            "e": [{"c": 3}, {"c": 3, "d": 4}, {"d": {"c": 1}}], "x": 6
        })
    }

    #[test]
    fn it_finds_what_the_crate_itself_finds() {
        let document = document();
        for path in PATHS {
            let own = Path::read(path).expect(path).select(&document, &mut Budget::default()).expect(path);
            let oracle = document.query(path).expect(path);
            let (mut own, mut oracle): (Vec<_>, Vec<_>) =
                (own.iter().map(ToString::to_string).collect(), oracle.iter().map(ToString::to_string).collect());
            // The order among descendants is not prescribed.
            own.sort();
            oracle.sort();
            assert_eq!(own, oracle, "{path}");
        }
    }

    #[test]
    fn a_hostile_document_ends_the_search_and_not_the_worker() {
        let wide = Value::Array(vec![json!([[], {"a": 1}]); 5_000]);
        let deep = (0..120).fold(wide.clone(), |inner, _| json!([inner]));
        let long_name = json!({"n".repeat(30_000): vec![1; 15_000]});
        for path in
            ["$..*..*..*", "$..[?count($..*) > 0]", "$[*,*][*,*][*,*]..[*,*]", "$..[?$..a == $..b]", "$..[?@ == $]"]
        {
            // What the parser does not take is no danger.
            let Ok(path) = Path::read(path) else { continue };
            for document in [&wide, &deep, &long_name] {
                let begun = Instant::now();
                let found = path.select(document, &mut Budget::default());
                assert!(found.is_err() || found.is_ok_and(|found| found.len() <= STEPS as usize), "{}", path.text());
                let most = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 2 });
                assert!(begun.elapsed() < most, "{} took {:?}", path.text(), begun.elapsed());
            }
        }
    }

    #[test]
    fn a_hostile_path_is_refused_and_soon() {
        let begun = Instant::now();
        let nested =
            |open: &str, close: &str, times: usize| format!("$[?{}@{}]", open.repeat(times), close.repeat(times));
        for wrong in [
            nested("count(", "", 80),
            nested("length(", ")", 8),
            nested("count(", "", 7),
            nested("(", "", 7),
            nested("(", "", 400),
            nested("[?", "]", 7),
            "x".to_owned(),
            "$.a[".to_owned(),
            format!("$.{}", "a".repeat(512)),
            "$[?match(@.a, $.b)]".to_owned(),
            "$[?match(@.a, '(')]".to_owned(),
            "$[?search(@.a, '((a{100}){100}){100}')]".to_owned(),
            "$[?@ in $.b]".to_owned(),
            "$[?in(@, $.b)]".to_owned(),
        ] {
            Path::read(&wrong).map(drop).expect_err(&wrong);
        }
        let most = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 5 });
        assert!(begun.elapsed() < most, "took {:?}", begun.elapsed());
    }
}
