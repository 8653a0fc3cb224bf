//! The walk through a document, every step of it counted.

use std::{borrow::Cow, cmp::Ordering};

use jsonpath_rust::parser::model::{
    Comparable, Comparison, Filter, FilterAtom, FnArg, Literal, Segment, Selector, SingularQuery, SingularQuerySegment,
    Test, TestFunction,
};
use serde_json::Value;

use super::{Budget, Exhausted, Fit, Patterns};
use crate::http::expect::json::order;

/// One evaluation.
pub(super) struct Search<'a, 'b> {
    pub(super) root: &'a Value,
    pub(super) patterns: &'b Patterns,
    pub(super) budget: &'b mut Budget,
}

/// What a side of a comparison comes to.
enum Side<'a> {
    Nothing,
    Value(Cow<'a, Value>),
}

impl<'a> Search<'a, '_> {
    pub(super) fn walk(&mut self, segments: &[Segment], from: &'a Value) -> Result<Vec<&'a Value>, Exhausted> {
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
        let Some(pattern) = self.patterns.get(&(fit, pattern.as_str().into())) else { return Ok(false) };
        // A search may take some 0.2 µs for each byte and KiB: with all steps a third of a second.
        self.budget.spend(text.len() * pattern.kib() / 8)?;
        Ok(pattern.is_match(text))
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
pub(in crate::http::expect) fn equal(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool, Exhausted> {
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
