//! A settings file, as it is written.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Location, Spanned};

use crate::auth::{ApiToken, Listed, User};

/// A key with its value, and where it is.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it is written, within what it is in.
    pub(super) key: String,
    pub(super) value: Value,
    place: Location,
}

impl Entry {
    /// Says what is wrong with it.
    pub(super) fn problem(&self, problem: impl fmt::Display) -> String {
        at(self.place, format_args!("{}: {problem}", self.key))
    }
}

/// A setting's value. None of the settings is nested.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Nothing,
    Bool(bool),
    Text(String),
    List(Vec<String>),
    /// Settings in settings.
    Nested,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) entries: Vec<Entry>,
    pub(super) access: AccessSection,
    pub(super) probing: ProbingSection,
}

impl File {
    /// Reads a file; says what is wrong with it, and where.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        // Without a look at the lines in question: they may hold hashes.
        let options = serde_saphyr::options! { with_snippet: false };
        let read: Option<Self> = serde_saphyr::from_str_with_options(text, options).map_err(|error| problem(&error))?;
        Ok(read.unwrap_or_default())
    }
}

/// A problem with its place, as compilers write it; the file's name goes before.
fn at(place: Location, problem: impl fmt::Display) -> String {
    format!("{}:{}: {problem}", place.line(), place.column())
}

/// What the YAML reader says, in the same form.
fn problem(error: &serde_saphyr::Error) -> String {
    let said = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let Some(place) = error.location() else { return format!(" {said}") };
    let suffix = format!(" at line {}, column {}", place.line(), place.column());
    at(place, said.strip_suffix(&suffix).unwrap_or(&said))
}

/// Who may use the API.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessSection {
    users: Option<Vec<User>>,
    tokens: Option<Vec<ApiToken>>,
    #[serde(alias = "allow-anonymous")]
    allow_anonymous: Option<Spanned<Value>>,
    metrics: Option<Spanned<Value>>,
    #[serde(alias = "allowed-origins")]
    allowed_origins: Option<Spanned<Value>>,
    #[serde(alias = "trusted-proxies")]
    trusted_proxies: Option<Spanned<Value>>,
}

impl AccessSection {
    /// The flags that it sets, each as its own parser takes it.
    pub(super) fn scalars(&self) -> Vec<(&'static str, Entry)> {
        let Self { allow_anonymous, metrics, allowed_origins, trusted_proxies, .. } = self;
        let settings = [
            ("allow-anonymous", "access.allow_anonymous", allow_anonymous),
            ("metrics-access", "access.metrics", metrics),
            ("allowed-origin", "access.allowed_origins", allowed_origins),
            ("trusted-proxy", "access.trusted_proxies", trusted_proxies),
        ];
        scalars(settings)
    }

    /// Which lists of users and tokens it has.
    pub(super) fn listed(&self) -> Vec<&'static str> {
        let users = self.users.as_ref().is_some_and(|users| !users.is_empty()).then_some("users");
        let tokens = self.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty()).then_some("tokens");
        users.into_iter().chain(tokens).collect()
    }

    /// Users and tokens, as the flags take them.
    pub(super) fn lists(self) -> Vec<(&'static str, String)> {
        let users = self.users.filter(|users| !users.is_empty()).map(|users| ("users", Listed(users).to_string()));
        let tokens =
            self.tokens.filter(|tokens| !tokens.is_empty()).map(|tokens| ("tokens", Listed(tokens).to_string()));
        users.into_iter().chain(tokens).collect()
    }
}

/// What probes may reach.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbingSection {
    loopback: Option<Spanned<Value>>,
    allow: Option<Spanned<Value>>,
    deny: Option<Spanned<Value>>,
    resolver: Option<Spanned<Value>>,
    canary: Option<Spanned<Value>>,
    per_host: Option<Spanned<Value>>,
}

impl ProbingSection {
    /// The flags that it sets, each as its own parser takes it.
    pub(super) fn scalars(&self) -> Vec<(&'static str, Entry)> {
        let Self { loopback, allow, deny, resolver, canary, per_host } = self;
        scalars([
            ("probe-loopback", "probing.loopback", loopback),
            ("probe-allow", "probing.allow", allow),
            ("probe-deny", "probing.deny", deny),
            ("probe-resolver", "probing.resolver", resolver),
            ("canary", "probing.canary", canary),
            ("probes-per-host", "probing.per_host", per_host),
        ])
    }
}

/// Those settings that are there: each a flag, its path in the file, and its value.
fn scalars<const N: usize>(
    settings: [(&'static str, &'static str, &Option<Spanned<Value>>); N],
) -> Vec<(&'static str, Entry)> {
    let entry = |key: &str, value: &Spanned<Value>| {
        let (key, place) = (key.to_owned(), value.referenced);
        Entry { key, value: value.value.clone(), place }
    };
    settings.into_iter().filter_map(|(flag, key, value)| Some((flag, entry(key, value.as_ref()?)))).collect()
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = File;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings, each a key with a value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
                let mut file = File::default();
                while let Some(Spanned { value: key, referenced: place, .. }) = map.next_key::<Spanned<String>>()? {
                    if key == "access" {
                        file.access = map.next_value::<Option<AccessSection>>()?.unwrap_or_default();
                    } else if key == "probing" {
                        file.probing = map.next_value::<Option<ProbingSection>>()?.unwrap_or_default();
                    } else {
                        file.entries.push(Entry { key, value: map.next_value()?, place });
                    }
                }
                Ok(file)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, or a list of values")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Text(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Nested)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::List(list))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
