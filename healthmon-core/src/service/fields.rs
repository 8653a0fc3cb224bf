//! Reading settings from JSON so that every wrong field is named, all in one answer.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// One field that is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field's path, such as `policy.window`.
    pub field: String,
    /// What would be right.
    pub problem: String,
}

/// Every field of an input that is wrong. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// One wrong field.
    pub fn one(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self(vec![FieldError { field: field.into(), problem: problem.to_string() }])
    }

    /// The fields.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// The same errors for fields that stand within `section`.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        for error in &mut self.0 {
            error.field = format!("{section}.{}", error.field);
        }
        self
    }
}

impl<'a> IntoIterator for &'a FieldErrors {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}", error.field, error.problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldErrors {}

/// A JSON object whose fields are taken out one by one, errors being gathered on the way.
///
/// ```
/// use healthmon_core::service::Fields;
/// let json = serde_json::json!({"size": "big", "colour": 1});
/// let mut fields = Fields::new(json.as_object().cloned().unwrap_or_default());
/// let size: Option<u32> = fields.optional("size");
/// assert_eq!(size, None);
/// let errors = fields.finish().unwrap_err();
/// let named: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
/// assert_eq!(named, ["size", "colour"]);
/// ```
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// The fields of `map`.
    pub fn new(map: Map<String, Value>) -> Self {
        Self { map, errors: Vec::new() }
    }

    /// Takes a field that must be there. `None` means that an error was noted.
    pub fn required<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        if matches!(self.map.get(field), None | Some(Value::Null)) {
            self.map.shift_remove(field);
            self.wrong(field, "is required");
            return None;
        }
        self.optional(field)
    }

    /// Takes a field that may be absent or null. `None` means absent, or that an error was noted.
    pub fn optional<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.map.shift_remove(field).filter(|v| !v.is_null())?;
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(field, error);
                None
            }
        }
    }

    /// Takes a section: an object with fields of its own, read by `read`.
    pub fn section<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(Map<String, Value>) -> Result<T, FieldErrors>,
    ) -> Option<T> {
        match self.map.shift_remove(field).filter(|v| !v.is_null())? {
            Value::Object(map) => match read(map) {
                Ok(value) => Some(value),
                Err(errors) => {
                    self.absorb(errors.within(field));
                    None
                }
            },
            _ => {
                self.wrong(field, "must be an object");
                None
            }
        }
    }

    /// Notes that `field` is wrong.
    pub fn wrong(&mut self, field: &str, problem: impl fmt::Display) {
        self.errors.push(FieldError { field: field.to_owned(), problem: problem.to_string() });
    }

    /// Notes all of `errors`.
    pub fn absorb(&mut self, errors: FieldErrors) {
        self.errors.extend(errors.0);
    }

    /// Takes what is left of the object, for another reader.
    pub fn take_rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.map)
    }

    /// Puts back what another reader did not take.
    pub fn put_back(&mut self, rest: Map<String, Value>) {
        self.map.extend(rest);
    }

    /// Ends the reading: fields nobody took are refused.
    ///
    /// # Errors
    /// Every error noted, and every field left over.
    pub fn finish(mut self) -> Result<(), FieldErrors> {
        for (field, _) in std::mem::take(&mut self.map) {
            self.wrong(&field, "is not a known field");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(FieldErrors(self.errors)) }
    }
}
