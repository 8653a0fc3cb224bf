//! JSON paths (RFC 9535) into documents that are not to be trusted.
//!
//! The paths are parsed by the crate jsonpath-rust. It could evaluate them too, but keeps a path of
//! its own for each value that it finds, and compiles a pattern for each value that it tries: a small
//! hostile document would take gigabytes or minutes of it. Here every step is counted.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap};

use jsonpath_rust::parser::{
    model::{
        Comparable, Comparison, Filter, FilterAtom, FnArg, JpQuery, Literal, Segment, Selector, SingularQuery,
        SingularQuerySegment, Test, TestFunction,
    },
    parse_json_path,
};
use regex::Regex;
use serde_json::Value;

use super::{json::order, text};

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

type Patterns = HashMap<(Fit, Box<str>), Regex>;

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

/// One evaluation.
struct Search<'a, 'b> {
    root: &'a Value,
    patterns: &'b Patterns,
    budget: &'b mut Budget,
}

/// What a side of a comparison comes to.
enum Side<'a> {
    Nothing,
    Value(Cow<'a, Value>),
}

impl<'a> Search<'a, '_> {
    fn walk(&mut self, segments: &[Segment], from: &'a Value) -> Result<Vec<&'a Value>, Exhausted> {
        let mut nodes = vec![from];
        for segment in segments {
            let mut next = Vec::new();
            for node in nodes {
                self.step(segment, node, &mut next)?;
            }
            nodes = next;
        }
        Ok(nodes)
    }

    fn step(&mut self, segment: &Segment, node: &'a Value, found: &mut Vec<&'a Value>) -> Result<(), Exhausted> {
        match segment {
            Segment::Selector(selector) => self.select(selector, node, found),
            Segment::Selectors(selectors) => {
                selectors.iter().try_for_each(|selector| self.select(selector, node, found))
            }
            Segment::Descendant(inner) => {
                // In the order of the document; a stack, as documents may nest deeply.
                let mut open = vec![node];
                while let Some(node) = open.pop() {
                    self.budget.spend(1)?;
                    self.step(inner, node, found)?;
                    let known = open.len();
                    open.extend(children(node));
                    open[known..].reverse();
                }
                Ok(())
            }
        }
    }

    fn select(&mut self, selector: &Selector, node: &'a Value, found: &mut Vec<&'a Value>) -> Result<(), Exhausted> {
        self.budget.spend(1)?;
        match selector {
            Selector::Name(name) => found.extend(node.as_object().and_then(|map| map.get(name))),
            Selector::Index(index) => found.extend(at(node, *index)),
            Selector::Wildcard => {
                self.budget.spend(size(node))?;
                found.extend(children(node));
            }
            Selector::Slice(from, to, step) => {
                let Some(list) = node.as_array() else { return Ok(()) };
                self.budget.spend(list.len())?;
                slice(list, *from, *to, step.unwrap_or(1), found);
            }
            Selector::Filter(filter) => {
                for child in children(node) {
                    if self.passes(filter, child)? {
                        found.push(child);
                    }
                }
            }
        }
        Ok(())
    }

    fn passes(&mut self, filter: &Filter, current: &'a Value) -> Result<bool, Exhausted> {
        self.budget.spend(1)?;
        match filter {
            Filter::Or(all) => {
                for one in all {
                    if self.passes(one, current)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Filter::And(all) => {
                for one in all {
                    if !self.passes(one, current)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Filter::Atom(FilterAtom::Filter { expr, not }) => Ok(self.passes(expr, current)? != *not),
            Filter::Atom(FilterAtom::Test { expr, not }) => Ok(self.exists(expr, current)? != *not),
            Filter::Atom(FilterAtom::Comparison(comparison)) => self.compare(comparison, current),
        }
    }

    fn exists(&mut self, test: &Test, current: &'a Value) -> Result<bool, Exhausted> {
        match test {
            Test::Function(function) => match &**function {
                TestFunction::Search(text, pattern) => self.matches(Fit::Part, text, pattern, current),
                TestFunction::Match(text, pattern) => self.matches(Fit::Whole, text, pattern, current),
                other => Ok(matches!(self.call(other, current)?, Side::Value(_))),
            },
            query => Ok(!self.nodes(query, current)?.is_empty()),
        }
    }

    fn nodes(&mut self, query: &Test, current: &'a Value) -> Result<Vec<&'a Value>, Exhausted> {
        match query {
            Test::RelQuery(segments) => self.walk(segments, current),
            Test::AbsQuery(query) => self.walk(&query.segments, self.root),
            Test::Function(_) => Ok(Vec::new()),
        }
    }

    fn matches(&mut self, fit: Fit, text: &FnArg, pattern: &FnArg, current: &'a Value) -> Result<bool, Exhausted> {
        let FnArg::Literal(Literal::String(pattern)) = pattern else { return Ok(false) };
        let Side::Value(value) = self.argument(text, current)? else { return Ok(false) };
        let Some(text) = value.as_str() else { return Ok(false) };
        self.budget.spend(text.len() / 16)?;
        Ok(self.patterns.get(&(fit, pattern.as_str().into())).is_some_and(|pattern| pattern.is_match(text)))
    }

    fn compare(&mut self, comparison: &Comparison, current: &'a Value) -> Result<bool, Exhausted> {
        let (left, right) = comparison.vals();
        let (left, right) = (self.side(left, current)?, self.side(right, current)?);
        let equal = match (&left, &right) {
            (Side::Nothing, Side::Nothing) => true,
            (Side::Value(left), Side::Value(right)) => equal(left, right, self.budget)?,
            _ => false,
        };
        let order = match (&left, &right) {
            (Side::Value(left), Side::Value(right)) => match (&**left, &**right) {
                (Value::Number(left), Value::Number(right)) => order(left, right),
                (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
                _ => None,
            },
            _ => None,
        };
        Ok(match comparison {
            Comparison::Eq(..) => equal,
            Comparison::Ne(..) => !equal,
            Comparison::Lt(..) => order == Some(Ordering::Less),
            Comparison::Gt(..) => order == Some(Ordering::Greater),
            Comparison::Lte(..) => equal || order == Some(Ordering::Less),
            Comparison::Gte(..) => equal || order == Some(Ordering::Greater),
        })
    }

    fn side(&mut self, side: &Comparable, current: &'a Value) -> Result<Side<'a>, Exhausted> {
        Ok(match side {
            Comparable::Literal(literal) => Side::Value(Cow::Owned(literal_value(literal))),
            Comparable::Function(function) => self.call(function, current)?,
            Comparable::SingularQuery(query) => {
                let (segments, mut node) = match query {
                    SingularQuery::Current(segments) => (segments, Some(current)),
                    SingularQuery::Root(segments) => (segments, Some(self.root)),
                };
                self.budget.spend(segments.len() + 1)?;
                for segment in segments {
                    node = node.and_then(|node| match segment {
                        SingularQuerySegment::Index(index) => at(node, *index),
                        SingularQuerySegment::Name(name) => node.as_object()?.get(name),
                    });
                }
                node.map_or(Side::Nothing, |node| Side::Value(Cow::Borrowed(node)))
            }
        })
    }

    fn call(&mut self, function: &TestFunction, current: &'a Value) -> Result<Side<'a>, Exhausted> {
        let number = |number: usize| Side::Value(Cow::Owned(Value::from(number)));
        Ok(match function {
            TestFunction::Length(argument) => {
                let Side::Value(value) = self.argument(argument, current)? else { return Ok(Side::Nothing) };
                match &*value {
                    Value::String(text) => {
                        self.budget.spend(text.len() / 16)?;
                        number(text.chars().count())
                    }
                    Value::Array(list) => number(list.len()),
                    Value::Object(map) => number(map.len()),
                    _ => Side::Nothing,
                }
            }
            TestFunction::Count(FnArg::Test(query)) => number(self.nodes(query, current)?.len()),
            TestFunction::Value(argument) => self.argument(argument, current)?,
            _ => Side::Nothing,
        })
    }

    /// The one value that an argument comes to.
    fn argument(&mut self, argument: &FnArg, current: &'a Value) -> Result<Side<'a>, Exhausted> {
        Ok(match argument {
            FnArg::Literal(literal) => Side::Value(Cow::Owned(literal_value(literal))),
            FnArg::Test(test) => match &**test {
                Test::Function(function) => self.call(function, current)?,
                query => match self.nodes(query, current)?[..] {
                    [one] => Side::Value(Cow::Borrowed(one)),
                    _ => Side::Nothing,
                },
            },
            FnArg::Filter(_) => Side::Nothing,
        })
    }
}

fn literal_value(literal: &Literal) -> Value {
    match literal {
        Literal::Int(number) => Value::from(*number),
        Literal::Float(number) => Value::from(*number),
        Literal::String(text) => Value::from(text.as_str()),
        Literal::Bool(truth) => Value::from(*truth),
        Literal::Null => Value::Null,
    }
}

fn children(node: &Value) -> impl Iterator<Item = &Value> {
    let (list, map) = (node.as_array(), node.as_object());
    list.into_iter().flatten().chain(map.into_iter().flat_map(|map| map.values()))
}

fn size(node: &Value) -> usize {
    node.as_array().map_or(0, Vec::len) + node.as_object().map_or(0, serde_json::Map::len)
}

fn at(node: &Value, index: i64) -> Option<&Value> {
    let list = node.as_array()?;
    let index = if index < 0 { index.checked_add(i64::try_from(list.len()).ok()?)? } else { index };
    list.get(usize::try_from(index).ok()?)
}

/// RFC 9535, 2.3.4.2.2.
fn slice<'a>(list: &'a [Value], from: Option<i64>, to: Option<i64>, step: i64, found: &mut Vec<&'a Value>) {
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    let normal = |index: i64| if index >= 0 { index } else { length.saturating_add(index) };
    let (mut index, end) = match step {
        0 => return,
        1.. => (normal(from.unwrap_or(0)).clamp(0, length), normal(to.unwrap_or(length)).clamp(0, length)),
        _ => {
            let from = normal(from.unwrap_or(length - 1)).clamp(-1, length - 1);
            let to = to.map_or(-1, |to| normal(to).clamp(-1, length - 1));
            (from, to)
        }
    };
    while if step > 0 { index < end } else { index > end } {
        found.extend(usize::try_from(index).ok().and_then(|index| list.get(index)));
        index = index.saturating_add(step);
    }
}

/// Whether two values are the same; 1 and 1.0 are.
pub(super) fn equal(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, Exhausted> {
    budget.spend(1)?;
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Ok(order(a, b) == Some(Ordering::Equal)),
        (Value::String(a), Value::String(b)) => {
            budget.spend(a.len().min(b.len()) / 64)?;
            Ok(a == b)
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() => {
            for (name, a) in a {
                match b.get(name) {
                    Some(b) if equal(a, b, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Array(_) | Value::Object(_), _) => Ok(false),
        (a, b) => Ok(a == b),
    }
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
                assert!(begun.elapsed() < Duration::from_secs(2), "{} took {:?}", path.text(), begun.elapsed());
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
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    }
}
