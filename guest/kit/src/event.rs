//! Checks each field of an event.

use std::borrow::Cow;

use crate::fields::{self, Field, Fields, Value, object, wrong_type};
use crate::{
    Code, Entry, Event, Judged, Rules, Verdict, Violation, Violations, ids, jsonb, quote, times, violation,
};

/// The default rules: an entry becomes the event that it carries, as [`read_event`] reads it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultRules;

impl Rules for DefaultRules {
    fn judge(&self, entry: &Entry) -> Judged {
        read_event(entry).map(Verdict::Accept)
    }
}

/// Reads an entry as the default rules do.
///
/// The entry has one field `data`, a JSON object, or flat fields with the names of the object's
/// members. If `data` is there, flat fields are ignored. Unknown names are ignored in either form.
///
/// | field | what it must be |
/// |---|---|
/// | `event_id` | a UUID, 36 characters with hyphens, of either case |
/// | `event_type` | a string that is not empty |
/// | `user_id` | a string that is not empty |
/// | `timestamp` | RFC 3339 with an offset; cut to microseconds, not rounded |
/// | `properties` | a JSON object that `jsonb` can hold; may be left out |
///
/// No field may be given twice, and none may be null. The event's properties
/// are the producer's text, byte for byte, without the whitespace around it.
///
/// # Errors
///
/// Everything that is wrong with the five fields.
pub fn read_event(entry: &Entry) -> Result<Event, Violations> {
    read_event_with(entry, |_, _| Violations::new())
}

/// Reads an entry like [`read_event`], and has its properties looked at further.
///
/// `further` gets the event's type and its properties, a JSON object in text form, as soon as these two are sound. The
/// violations that it returns are added to those of the other fields, so that the entry is rejected with everything
/// that is wrong with it.
///
/// ```
/// use sluicegate_kit::{Document, Entry, Violations, read_event_with};
///
/// let entry = Entry::of(&[("data", r#"{"event_type": "purchase", "user_id": "ada", "properties": {}}"#)]);
/// let wrong = read_event_with(&entry, |event_type, properties| {
///     let properties = Document::properties(properties);
///     let mut wrong = Violations::new();
///     if event_type == "purchase" {
///         wrong.take(properties.at("amount").number());
///     }
///     wrong
/// });
/// let paths: Vec<_> = wrong.unwrap_err().into_iter().map(|violation| violation.path).collect();
/// assert_eq!(paths, ["event_id", "timestamp", "properties.amount"]);
/// ```
///
/// # Errors
///
/// Everything that is wrong with the five fields, and what `further` finds.
pub fn read_event_with(
    entry: &Entry,
    further: impl FnOnce(&str, Option<&str>) -> Violations,
) -> Result<Event, Violations> {
    check(&fields::read(entry)?, further)
}

/// Makes an event of the fields, or returns everything that is wrong with them.
fn check(
    fields: &Fields<'_>,
    further: impl FnOnce(&str, Option<&str>) -> Violations,
) -> Result<Event, Violations> {
    let (event_type, properties) = (label(&fields.event_type), properties(&fields.properties));
    let more = match (&event_type, &properties) {
        (Ok(event_type), Ok(properties)) => further(event_type, properties.as_deref()),
        _ => Violations::new(),
    };
    match (
        event_id(&fields.event_id),
        event_type,
        label(&fields.user_id),
        time(&fields.timestamp),
        properties,
    ) {
        (Ok(event_id), Ok(event_type), Ok(user_id), Ok(time), Ok(properties)) if more.is_empty() => {
            Ok(Event { event_id, time, event_type, user_id, properties })
        }
        (event_id, event_type, user_id, time, properties) => {
            Err([event_id.err(), event_type.err(), user_id.err(), time.err(), properties.err()]
                .into_iter()
                .flatten()
                .chain(more)
                .collect())
        }
    }
}

fn event_id(field: &Field<'_>) -> Result<String, Violation> {
    let text = string(field)?;
    match ids::read(&text) {
        Some(_) => Ok(text.into_owned()),
        None => Err(violation(
            field.name,
            Code::InvalidUuid,
            format!("found {}, expected {}", quote(&text), ids::EXPECTED),
        )),
    }
}

/// Returns a string that is not empty and that PostgreSQL can hold.
fn label(field: &Field<'_>) -> Result<String, Violation> {
    let text = string(field)?;
    match fit_for_label(&text) {
        Ok(()) => Ok(text.into_owned()),
        Err((code, message)) => Err(violation(field.name, code, message)),
    }
}

/// Checks that a text is not empty, and that PostgreSQL can hold it.
pub(crate) fn fit_for_label(text: &str) -> Result<(), (Code, String)> {
    match text.is_empty() {
        true => Err((Code::Empty, "found an empty string, expected at least one character".to_owned())),
        false => fit_for_text(text),
    }
}

/// Checks that PostgreSQL can hold a text.
pub(crate) fn fit_for_text(text: &str) -> Result<(), (Code, String)> {
    match contains_byte(text, 0) {
        true => {
            let message = format!("found {}, expected text without NUL characters", quote(text));
            Err((Code::NulCharacter, message))
        }
        false => Ok(()),
    }
}

fn time(field: &Field<'_>) -> Result<i64, Violation> {
    let text = string(field)?;
    times::rfc3339(&text).map_err(|error| violation(field.name, Code::InvalidTimestamp, error.to_string()))
}

fn properties(field: &Field<'_>) -> Result<Option<String>, Violation> {
    let json = match once(field)? {
        None => return Ok(None),
        Some(Value::Text(text)) => object(field.name, text)?,
        Some(Value::Json(json)) if json.starts_with('{') => json,
        Some(Value::Json("null")) => {
            let expected = "a JSON object; without properties, leave the field out";
            return Err(wrong_type(field.name, "null", expected));
        }
        Some(Value::Json(json)) => return Err(wrong_type(field.name, json, "a JSON object")),
    };
    match jsonb::check(json) {
        Ok(()) => Ok(Some(json.to_owned())),
        Err((code, message)) => Err(violation(field.name, code, message)),
    }
}

/// Returns the value of a required field that is a string. It is copied only to resolve escapes.
fn string<'a>(field: &Field<'a>) -> Result<Cow<'a, str>, Violation> {
    let json = match once(field)? {
        None => {
            let message = "found no such field, expected one with a string";
            return Err(violation(field.name, Code::Missing, message));
        }
        Some(Value::Text(text)) => return Ok(Cow::Borrowed(text)),
        Some(Value::Json(json)) => json,
    };
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Err(wrong_type(field.name, json, "a string")),
        Some(text) if !contains_byte(text, b'\\') => Ok(Cow::Borrowed(text)),
        Some(_) => jsonb::unescape(json.as_bytes()).map(Cow::Owned).ok_or_else(|| {
            let message = format!("found {}, expected no half surrogate pair", quote(json));
            violation(field.name, Code::InvalidUnicode, message)
        }),
    }
}

/// Does what `str::contains` does, and faster in wasm, for it never ends early: so the compiler makes it
/// look at 16 bytes at once.
fn contains_byte(text: &str, byte: u8) -> bool {
    text.bytes().fold(false, |found, other| found | (other == byte))
}

/// Returns the field's value, unless the field is given more than once.
fn once<'a>(field: &Field<'a>) -> Result<Option<Value<'a>>, Violation> {
    if field.times > 1 { Err(field.duplicate()) } else { Ok(field.value) }
}
