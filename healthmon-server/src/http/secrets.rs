//! Secrets in services' settings: kept sealed where there is a key, shown never.

use std::collections::{BTreeMap, BTreeSet};

use healthmon_adapters::secrets::{SealingKeys, SecretRef, visit_secrets};
use healthmon_core::{
    runtime::Handle,
    service::{FieldErrors, Options, ServiceSettings},
};
use http::StatusCode;
use serde_json::{Map, Value};
use url::Url;

use super::Problem;

/// What stands for a value that is written and never shown.
const HIDDEN: &str = "(hidden)";

/// Fields beside URLs that say where a secret goes, or in whose name.
const LEADING: [&str; 9] =
    ["address", "authority", "ca", "connect", "connect_to", "host", "proxy", "resolver", "server_name"];

/// What stands where secrets may, by the way there.
type Found = BTreeMap<Vec<String>, Value>;

/// Replaces in a service's JSON what nobody shall see. References are shown: they say where a
/// secret is, and not what it is.
pub(super) fn hide(handle: &Handle, settings: &ServiceSettings, json: &mut Map<String, Value>) {
    match handle.secrets(settings.url.scheme()) {
        Some(paths) => visit_secrets(json, paths, |_, value| {
            if !is_reference(value) {
                *value = HIDDEN.into();
            }
        }),
        // The prober that could say what is secret here is another build's.
        None => settings.options.to_map().into_iter().for_each(|(section, _)| {
            json.insert(section, HIDDEN.into());
        }),
    }
}

fn is_reference(value: &Value) -> bool {
    matches!(read(value), Some(SecretRef::Env(_) | SecretRef::File(_)))
}

fn read(value: &Value) -> Option<SecretRef> {
    serde_json::from_value(value.clone()).ok()
}

fn found(handle: &Handle, scheme: &str, mut sections: Map<String, Value>) -> Found {
    let mut found = Found::new();
    let paths = handle.secrets(scheme).unwrap_or_default();
    visit_secrets(&mut sections, paths, |way, value| drop(found.insert(way.to_vec(), value.take())));
    found
}

/// Settings before a patch of them, and what the patch says of secrets.
pub(super) struct Patched<'a> {
    handle: &'a Handle,
    before: &'a ServiceSettings,
    /// Secrets that the patch gives anew.
    given: BTreeSet<Vec<String>>,
}

impl<'a> Patched<'a> {
    /// Has `patch` say what it means by hidden values, and takes out of `json`, the settings as they
    /// are, the secrets that it replaces: a merge would mix a reference with what was there.
    pub(super) fn prepare(
        handle: &'a Handle,
        before: &'a ServiceSettings,
        json: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
    ) -> Self {
        let mut given = found(handle, before.url.scheme(), patch.clone());
        given.retain(|_, value| value != HIDDEN);
        let mut shown = json.clone();
        hide(handle, before, &mut shown);
        restore_fields(patch, &shown, json);
        for (way, value) in &given {
            if !value.is_null() {
                remove(json, way);
            }
        }
        Self { handle, before, given: given.into_keys().collect() }
    }

    /// Refuses settings that would send a secret, unseen by whoever wrote them, to somebody new.
    pub(super) fn check(&self, after: &ServiceSettings) -> Result<(), Problem> {
        let of = |settings: &ServiceSettings| found(self.handle, settings.url.scheme(), settings.options.to_map());
        let (before, after_found) = (of(self.before), of(after));
        refuse_sealed(&after_found, &before)?;
        let stays = destinations(self.before, &before) == destinations(after, &after_found);
        if stays && weaknesses(after).is_subset(&weaknesses(self.before)) {
            return Ok(());
        }
        let carried = after_found.iter().filter(|(way, value)| {
            !self.given.contains(*way) && !is_reference(value) && before.get(*way) == Some(value)
        });
        let carried: Vec<String> = carried.map(|(way, _)| way.join(".")).collect();
        match carried.first() {
            None => Ok(()),
            Some(_) => {
                let problem = "must be given again (or null) when the target moves or is checked less: it was meant \
                               for the old one";
                Err(each(carried, problem))
            }
        }
    }
}

/// One problem with each of these fields.
fn each(fields: Vec<String>, problem: &str) -> Problem {
    let mut noted = healthmon_core::service::Fields::new(Map::new());
    fields.iter().for_each(|field| noted.wrong(field, problem));
    noted.finish().err().unwrap_or_else(|| FieldErrors::one("url", problem)).into()
}

/// Puts what was kept in the place of what stands for it.
fn restore_fields(patch: &mut Map<String, Value>, shown: &Map<String, Value>, kept: &Map<String, Value>) {
    for (name, value) in patch {
        if let (Some(shown), Some(kept)) = (shown.get(name), kept.get(name)) {
            restore(value, shown, kept);
        }
    }
}

fn restore(value: &mut Value, shown: &Value, kept: &Value) {
    match (value, shown, kept) {
        (value, shown, kept) if value == HIDDEN && shown == HIDDEN => *value = kept.clone(),
        (Value::Object(patch), Value::Object(shown), Value::Object(kept)) => restore_fields(patch, shown, kept),
        (Value::Array(items), Value::Array(shown), Value::Array(kept)) => {
            items.iter_mut().zip(shown).zip(kept).for_each(|((item, shown), kept)| restore(item, shown, kept));
        }
        _ => {}
    }
}

fn remove(json: &mut Map<String, Value>, way: &[String]) {
    match way {
        [last] => drop(json.shift_remove(last)),
        [first, rest @ ..] => {
            if let Some(Value::Object(inner)) = json.get_mut(first) {
                remove(inner, rest);
            }
        }
        [] => {}
    }
}

/// Where secrets of these settings may go: whom the target and every URL in the options name.
fn destinations(settings: &ServiceSettings, secrets: &Found) -> BTreeSet<String> {
    let mut places = BTreeSet::from([place(&settings.url.url())]);
    let mut options = settings.options.to_map();
    // What is expected of an answer is sent to nobody.
    options.shift_remove("expect");
    let mut options = Value::Object(options);
    for way in secrets.keys() {
        if let Value::Object(sections) = &mut options {
            remove(sections, way);
        }
    }
    gather("", &options, &mut places);
    places
}

/// What lets others than the target read what is sent to it: whoever may write settings and stands in between would
/// come by secrets that they may not read.
fn weaknesses(settings: &ServiceSettings) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (section, value) in settings.options.to_map() {
        if section == "tcp" && value.get("starttls").is_none_or(Value::is_null) {
            found.insert("tcp in plain".to_owned());
        }
        weaken(&section, &value, &mut found);
    }
    found
}

fn weaken(way: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match (name.as_str(), value) {
            ("verify", Value::String(text)) if text == "none" => drop(found.insert(format!("{way} is not verified"))),
            _ => weaken(&format!("{way}.{name}"), value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| weaken(way, item, found)),
        _ => {}
    }
}

fn gather(name: &str, value: &Value, places: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| gather(name, value, places)),
        Value::Array(items) => items.iter().for_each(|item| gather(name, item, places)),
        Value::String(text) if LEADING.contains(&name) => drop(places.insert(format!("{name} {text}"))),
        Value::String(text) if text.contains("://") => {
            places.extend(Url::parse(text).ok().map(|url| format!("{name} {}", place(&url))));
        }
        _ => {}
    }
}

/// Scheme, host and port. (The origin of a scheme that browsers do not know equals nothing.)
fn place(url: &Url) -> String {
    format!("{}://{}:{:?}", url.scheme(), url.host_str().unwrap_or_default(), url.port_or_known_default())
}

/// Refuses settings with a value that only stands for one, and, in those of a new service, sealed
/// ones: whoever came by a sealed text could have it opened and sent to a target of theirs.
pub(super) fn refuse_foreign(handle: &Handle, settings: &ServiceSettings) -> Result<(), Problem> {
    refuse_hidden(settings)?;
    refuse_sealed(&found(handle, settings.url.scheme(), settings.options.to_map()), &Found::new())
}

/// Refuses settings with a value that only stands for one that is hidden.
pub(super) fn refuse_hidden(settings: &ServiceSettings) -> Result<(), Problem> {
    let mut standing = Vec::new();
    for (name, value) in settings.options.to_map() {
        stand_ins(&value, name, &mut standing);
    }
    match standing.first() {
        None => Ok(()),
        Some(_) => {
            let problem = format!("must be the value itself; {HIDDEN} only stands for one that is there");
            Err(each(standing, &problem))
        }
    }
}

fn stand_ins(value: &Value, way: String, standing: &mut Vec<String>) {
    match value {
        Value::String(text) if text == HIDDEN => standing.push(way),
        Value::Object(map) => map.iter().for_each(|(name, value)| stand_ins(value, format!("{way}.{name}"), standing)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| stand_ins(item, format!("{way}.{at}"), standing));
        }
        _ => {}
    }
}

fn refuse_sealed(after: &Found, before: &Found) -> Result<(), Problem> {
    let is_foreign = |way: &Vec<String>, value: &Value| {
        matches!(read(value), Some(SecretRef::Sealed(_))) && before.get(way) != Some(value)
    };
    match after.iter().find(|(way, value)| is_foreign(way, value)) {
        None => Ok(()),
        Some((way, _)) => {
            let problem = "must be the text itself or a reference to it; only the server seals";
            Err(Problem::field(&way.join("."), problem))
        }
    }
}

/// The settings as they are to be kept: sealed by the newest key, if there is one.
pub(super) fn seal(
    handle: &Handle,
    keys: Option<&SealingKeys>,
    settings: ServiceSettings,
) -> Result<ServiceSettings, Problem> {
    let (Some(keys), Some(paths)) = (keys, handle.secrets(settings.url.scheme())) else {
        if kept(handle, keys, &settings) == Kept::Plainly {
            tracing::warn!(service = %settings.name, "its secrets are kept in plain text: no HEALTHMON_SECRET_KEY is set");
        }
        return Ok(settings);
    };
    let (mut sections, mut failed) = (settings.options.to_map(), None);
    visit_secrets(&mut sections, paths, |_, value| {
        let Some(secret) = read(value) else { return };
        let sealed = keys.reseal(&secret).map(|sealed| sealed.map(serde_json::to_value).transpose());
        match sealed {
            Ok(Ok(Some(sealed))) => *value = sealed,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => failed = Some(error.to_string()),
            Err(error) => failed = Some(error.to_string()),
        }
    });
    match failed {
        None => Ok(ServiceSettings { options: Options::new(sections), ..settings }),
        Some(error) => {
            tracing::error!(error, "a secret could not be sealed");
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a secret could not be sealed; nothing was changed"))
        }
    }
}

/// How the secrets of some settings are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kept {
    /// There are none, or they are elsewhere, or sealed as they should be.
    Well,
    /// By a key that is to be replaced.
    ByAnOlderKey,
    /// As plain text.
    Plainly,
}

/// How the worst kept of these secrets is kept.
pub(crate) fn kept(handle: &Handle, keys: Option<&SealingKeys>, settings: &ServiceSettings) -> Kept {
    if settings.options.is_empty() {
        return Kept::Well;
    }
    let secrets = found(handle, settings.url.scheme(), settings.options.to_map());
    let each = secrets.values().filter_map(read).map(|secret| match secret {
        SecretRef::Plain(_) => Kept::Plainly,
        sealed @ SecretRef::Sealed(_) => match keys.map(|keys| keys.reseal(&sealed)) {
            Some(Ok(Some(_))) => Kept::ByAnOlderKey,
            _ => Kept::Well,
        },
        _ => Kept::Well,
    });
    each.max().unwrap_or(Kept::Well)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn places(url: &str, options: Value) -> BTreeSet<String> {
        let mut json = json!({"name": "a", "url": url, "interval": "30s"});
        if let (Value::Object(json), Value::Object(options)) = (&mut json, options) {
            json.extend(options);
        }
        let settings: ServiceSettings = serde_json::from_value(json).expect("settings");
        let secret = vec!["http".to_owned(), "headers".to_owned(), "referer".to_owned()];
        destinations(&settings, &Found::from([(secret, Value::Null)]))
    }

    #[test]
    fn sec_secrets_go_where_the_target_the_proxy_or_the_token_url_are() {
        let of = |http: Value| places("https://shop.example/", json!({"http": http}));
        let plain = of(json!({"method": "GET"}));
        let unmoved = [
            of(json!({"method": "POST", "redirects": 2})),
            of(json!({"headers": {"referer": "https://anywhere.example/"}})),
            places("https://SHOP.example:443/other?path", json!({})),
            places("https://shop.example/", json!({"expect": {"final_url": "https://login.example/"}})),
        ];
        for same in unmoved {
            assert_eq!(same, plain);
        }
        let moved = [
            of(json!({"proxy": {"url": "http://thief.example:3128"}})),
            of(json!({"auth": {"oauth2": {"token_url": "https://thief.example/token"}}})),
            of(json!({"connect_to": "10.0.0.1:443"})),
            of(json!({"host": "thief.example"})),
            of(json!({"tls": {"ca": "another authority's"}})),
            places("https://shop.example:8443/", json!({})),
            places("http://shop.example/", json!({})),
        ];
        for other in moved {
            assert_ne!(other, plain);
        }
        let tcp = |port: u16| places(&format!("tcp://db.example:{port}"), json!({}));
        assert_eq!(tcp(1), tcp(1), "the origin of a scheme that browsers do not know would equal nothing");
        assert_ne!(tcp(1), tcp(2));
    }

    #[test]
    fn sec_secrets_go_nowhere_where_less_is_checked_than_before() {
        let of = |options: Value| {
            let mut json = json!({"name": "a", "url": "tcp://db.example:1", "interval": "30s"});
            if let (Value::Object(json), Value::Object(options)) = (&mut json, options) {
                json.extend(options);
            }
            weaknesses(&serde_json::from_value(json).expect("settings"))
        };
        let full = json!({"http": {"tls": {"verify": "full"}}});
        let none = json!({"http": {"tls": {"verify": "none"}}});
        assert!(of(full.clone()).is_empty() && of(json!({})).is_empty());
        for (before, after) in [
            (full, none),
            (json!({"tls": {}}), json!({"tls": {"verify": "none"}})),
            (json!({"tcp": {"starttls": "smtp"}}), json!({"tcp": {"send": "x"}})),
            (json!({"http": {}}), json!({"http": {"auth": {"oauth2": {"tls": {"verify": "none"}}}}})),
        ] {
            assert!(!of(after.clone()).is_subset(&of(before.clone())), "{before} {after}");
        }
    }

    #[test]
    fn a_placeholder_is_replaced_by_what_it_stands_for_and_by_nothing_else() {
        let kept = json!({"a": {"sealed": "x"}, "b": ["y", "z"], "c": "shown"});
        let shown = json!({"a": HIDDEN, "b": [HIDDEN, "z"], "c": "shown"});
        let mut patch = json!({"a": HIDDEN, "b": [HIDDEN, "new", HIDDEN], "c": HIDDEN, "d": HIDDEN});
        restore(&mut patch, &shown, &kept);
        assert_eq!(patch, json!({"a": {"sealed": "x"}, "b": ["y", "new", HIDDEN], "c": HIDDEN, "d": HIDDEN}));
    }
}
