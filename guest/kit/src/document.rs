//! Reads entries of any shape: an object whose fields are asked for one by one.

use std::cell::OnceCell;

use serde_json::{Map, Value};

use crate::fields::{DATA, json_syntax, no_event, wrong_type};
use crate::{Code, Entry, Field, Violation, violation};

/// Holds what an entry says, in either form: the object of its field `data`, or its flat fields.
///
/// A flat field is text. Numbers, booleans and JSON are read from it when they are asked for, so that the same rules read both
/// forms. In JSON, the last of two members of one name counts, and a number of more than 64 bits is a floating-point number: what
/// is to be stored byte for byte is read by [`read_event`](crate::read_event).
///
/// ```
/// use sluicegate_kit::{Document, Entry};
///
/// let json = Entry::of(&[("data", r#"{"price": 1.5, "context": {"page": "/"}}"#)]);
/// let flat = Entry::of(&[("price", "1.5"), ("context", r#"{"page": "/"}"#)]);
/// for entry in [json, flat] {
///     let document = Document::read(&entry).unwrap();
///     assert_eq!(document.at("price").number(), Ok(1.5));
///     assert_eq!(document.at("context.page").text(), Ok("/"));
///     let violation = document.at("context.title").text().unwrap_err();
///     assert_eq!((violation.path.as_str(), violation.code.as_str()), ("context.title", "missing"));
/// }
/// ```
#[derive(Debug)]
pub struct Document<'e> {
    form: Form<'e>,
    /// Stands before each path.
    prefix: &'e str,
}

#[derive(Debug)]
enum Form<'e> {
    Json(Value),
    Flat(Vec<FlatField<'e>>),
}

/// A field of the stream entry, which is JSON too if somebody asks for what is within.
#[derive(Debug)]
pub(crate) struct FlatField<'e> {
    name: &'e str,
    pub(crate) text: &'e str,
    json: OnceCell<Result<Value, String>>,
}

impl FlatField<'_> {
    /// Returns the value that the text is in JSON.
    pub(crate) fn json(&self) -> Result<&Value, &str> {
        let parse = || serde_json::from_str(self.text).map_err(|error| error.to_string());
        self.json.get_or_init(parse).as_ref().map_err(String::as_str)
    }
}

/// What there is in a place of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'d> {
    Nothing,
    /// Something within was asked for, and this is missing.
    NoParent,
    /// A field of the stream entry.
    Text(&'d FlatField<'d>),
    Json(&'d Value),
    /// Several fields of the stream entry have this name.
    Several(usize),
    /// Something within was asked for, and this is no object.
    NoObject(&'d Value),
    /// Something within was asked for, and this is no JSON.
    NoJson(&'d str),
}

impl<'e> Document<'e> {
    /// Reads an entry. If there is a field `data`, the others are ignored.
    ///
    /// # Errors
    ///
    /// There is no field at all, or `data` is no JSON object, or there are two of it.
    pub fn read(entry: &'e Entry) -> Result<Self, Violation> {
        let mut data = entry.fields.iter().filter(|(name, _)| name == DATA);
        match (data.next(), data.count()) {
            (Some((_, text)), 0) => Self::parse(DATA, text),
            (Some(_), more) => {
                let message = format!("found {} values, expected one", more + 1);
                Err(violation(DATA, Code::DuplicateField, message))
            }
            (None, _) if entry.fields.is_empty() => Err(no_event(entry)),
            (None, _) => {
                let flat = entry.fields.iter();
                let flat = flat.map(|(name, text)| FlatField { name, text, json: OnceCell::new() });
                Ok(Self { form: Form::Flat(flat.collect()), prefix: "" })
            }
        }
    }

    /// Reads a JSON object, such as one that was compressed. `path` tells its place if it is none.
    ///
    /// # Errors
    ///
    /// The text is no JSON object.
    pub fn parse(path: &str, text: &str) -> Result<Self, Violation> {
        match serde_json::from_str(text).map_err(|error| json_syntax(path, &error))? {
            Value::Object(object) => Ok(Self::from(object)),
            _ => Err(wrong_type(path, text.trim_ascii(), "a JSON object")),
        }
    }

    /// Reads the properties of an event that [`read_event`](crate::read_event) has accepted: an object that has no member if there
    /// are none. Paths begin with `properties`.
    #[must_use]
    pub fn properties(properties: Option<&str>) -> Self {
        // They were found to be a JSON object. If they are too deep for a value, nothing is there to find.
        let object = properties.and_then(|text| serde_json::from_str::<Map<_, _>>(text).ok());
        Self { prefix: "properties", ..Self::from(object.unwrap_or_default()) }
    }

    /// Returns the field of this path: names with points between, such as `context.traits.email`. It may be missing: what the
    /// field is read as says what is wrong. Where an object around it is missing, that is told, once for all that is read within.
    #[must_use]
    pub fn at<'d, 'p>(&'d self, path: &'p str) -> Field<'d, 'p>
    where
        'd: 'p,
    {
        let (found, path) = match &self.form {
            Form::Json(value) => within(value, path, 0),
            Form::Flat(fields) => {
                let name = path.split('.').next().unwrap_or(path);
                let mut of_name = fields.iter().filter(|field| field.name == name);
                match (of_name.next(), of_name.count()) {
                    (None, _) if name.len() == path.len() => (Found::Nothing, path),
                    (None, _) => (Found::NoParent, name),
                    (Some(field), 0) if name.len() == path.len() => (Found::Text(field), path),
                    (Some(field), 0) => within_text(field, path, name.len()),
                    (Some(_), more) => (Found::Several(more + 1), name),
                }
            }
        };
        Field::new(found, self.prefix, path)
    }
}

impl From<Map<String, Value>> for Document<'_> {
    fn from(object: Map<String, Value>) -> Self {
        Self { form: Form::Json(Value::Object(object)), prefix: "" }
    }
}

/// Goes into a text that is JSON, past the `at` bytes of the path that lead to it.
pub(crate) fn within_text<'d, 'p>(
    field: &'d FlatField<'d>,
    path: &'p str,
    at: usize,
) -> (Found<'d>, &'p str) {
    match field.json() {
        Ok(value) => within(value, path, at + 1),
        Err(error) => (Found::NoJson(error), path.get(..at).unwrap_or(path)),
    }
}

/// Goes into a value by what a path has from byte `at` on. Returns what is there, and as much of the path as leads to it: what is
/// missing is told once, and not for each member that was asked for within it.
pub(crate) fn within<'d, 'p>(value: &'d Value, path: &'p str, mut at: usize) -> (Found<'d>, &'p str) {
    let mut value = value;
    for name in path.get(at..).unwrap_or_default().split('.') {
        value = match value {
            Value::Object(object) => match object.get(name) {
                Some(value) => value,
                None => {
                    let end = at + name.len();
                    return match path.get(..end).filter(|_| end < path.len()) {
                        Some(parent) => (Found::NoParent, parent),
                        None => (Found::Nothing, path),
                    };
                }
            },
            // As good as an object without members.
            Value::Null => return (Found::Nothing, path),
            other => return (Found::NoObject(other), path.get(..at.saturating_sub(1)).unwrap_or_default()),
        };
        at += name.len() + 1;
    }
    (Found::Json(value), path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Violations;

    /// Reads members of `context` in all ways, and returns the violations.
    fn wrong(entry: &Entry) -> Vec<(String, String, String)> {
        let document = Document::read(entry).unwrap();
        let context = document.at("context");
        let mut wrong = Violations::new();
        wrong.take(context.members().map(drop));
        wrong.take(context.at("page").text());
        wrong.take(context.at("page.title").nonempty_text());
        wrong.take(document.at("context.page").number());
        wrong.take(document.at("context.page.title").uuid());
        wrong.take(context.at("note").optional(|note| note.text()));
        wrong.take(document.at("context.note.text").optional(|note| note.text()));
        wrong.take(context.at("page").at("title").text());
        wrong.iter().cloned().map(|Violation { path, code, message }| (path, code, message)).collect()
    }

    fn told(path: &str, code: &str, message: &str) -> (String, String, String) {
        (path.to_owned(), code.to_owned(), message.to_owned())
    }

    #[test]
    fn a_parent_that_is_missing_is_told_once() {
        for entry in [Entry::of(&[("data", "{}")]), Entry::of(&[("other", "")])] {
            let expected = [told("context", "missing", "found nothing, expected a JSON object")];
            assert_eq!(wrong(&entry), expected, "{entry:?}");
        }
        let entry = Entry::of(&[("data", r#"{"context": {"page": {}}}"#)]);
        let title = |expected: &str| told("context.page.title", "missing", expected);
        let text = title("found nothing, expected a string");
        assert_eq!(wrong(&entry).iter().filter(|told| told.0 == text.0).collect::<Vec<_>>(), [&text]);
    }

    #[test]
    fn what_is_wrong_with_the_text_of_a_parent_is_told_once() {
        let entry = Entry::of(&[("context", r#"{"page": "/""#)]);
        let why = "found no JSON: EOF while parsing an object at line 1 column 12";
        let wrong = wrong(&entry);
        assert_eq!(wrong, [told("context", "json_syntax", why)]);
    }
}
