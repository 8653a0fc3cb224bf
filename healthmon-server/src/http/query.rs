//! What is asked for behind the question mark of an address.

use std::{collections::BTreeMap, str::FromStr};

use super::Problem;

/// The parameters of a query. Each is known; those that say one thing are given once.
pub(super) struct Parameters(BTreeMap<String, Vec<String>>);

impl Parameters {
    /// Takes a query apart, of which `single` may be given once each and `several` any number of times.
    ///
    /// # Errors
    /// What is not known, or given twice, by its name.
    pub(super) fn read(query: Option<&str>, single: &[&str], several: &[&str]) -> Result<Self, Problem> {
        let mut given: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let is_single = single.contains(&&*name);
            if !is_single && !several.contains(&&*name) {
                let known = [single, several].concat().join(", ");
                return Err(Problem::field(&name, format_args!("is not a known parameter; must be one of {known}")));
            }
            if is_single && given.contains_key(&*name) {
                return Err(Problem::field(&name, "must be given once"));
            }
            given.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Ok(Self(given))
    }

    /// All values of `name`.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.remove(name).unwrap_or_default()
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    /// What `name` is, as `read` understands it.
    ///
    /// # Errors
    /// What `read` finds wrong, by that name.
    pub(super) fn with<T, E: std::fmt::Display>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        self.text(name).map(|text| read(&text).map_err(|error| Problem::field(name, error))).transpose()
    }

    /// What `name` is, or that it is not what it `must_be`.
    ///
    /// # Errors
    /// The latter.
    pub(super) fn parsed<T: FromStr>(&mut self, name: &str, must_be: &str) -> Result<Option<T>, Problem> {
        self.with(name, |text| text.parse().map_err(|_| format!("must be {must_be}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_given_once_and_say_which_is_wrong() {
        let read = |query| Parameters::read(Some(query), &["limit", "reason"], &["tag"]);
        let mut right = read("limit=3&tag=a&tag=b%3Ac+d").expect("right");
        assert_eq!(right.all("tag"), ["a", "b:c d"]);
        assert_eq!(right.parsed("limit", "a number").expect("one"), Some(3));
        assert_eq!(right.text("reason"), None);
        let said = |wrong: Problem| format!("{wrong:?}");
        let unknown = said(read("limit=3&limt=4").err().expect("not known"));
        assert!(unknown.contains("\"limt\"") && unknown.contains("must be one of limit, reason, tag"), "{unknown}");
        let twice = said(read("reason=dns&reason=tls").err().expect("twice"));
        assert!(twice.contains("\"reason\"") && twice.contains("given once"), "{twice}");
        let wrong = said(read("limit=x").expect("known").parsed::<u64>("limit", "from 1 to 3").expect_err("no number"));
        assert!(wrong.contains("\"limit\"") && wrong.contains("must be from 1 to 3"), "{wrong}");
    }
}
