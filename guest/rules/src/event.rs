//! Checks each field of an event.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Timelike as _};
use uuid::Uuid;

use crate::fields::{Field, Fields, Value, object, wrong_type};
use crate::{Code, Event, Violation, jsonb, quote, violation};

/// Counts a UUID's characters with hyphens: the `uuid` crate reads shorter and longer forms too.
const UUID_LEN: usize = 36;

/// Makes an event of the fields, or returns everything that is wrong with them. `further` looks at the event's type
/// and its properties, if both are sound.
pub(crate) fn check(
    fields: &Fields<'_>,
    further: impl FnOnce(&str, Option<&str>) -> Vec<Violation>,
) -> Result<Event, Vec<Violation>> {
    let (event_type, properties) = (label(&fields.event_type), properties(&fields.properties));
    let more = match (&event_type, &properties) {
        (Ok(event_type), Ok(properties)) => further(event_type, properties.as_deref()),
        _ => Vec::new(),
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
    if text.len() == UUID_LEN && Uuid::try_parse(&text).is_ok() {
        Ok(text.into_owned())
    } else {
        let message = format!(
            "found {}, expected a UUID with hyphens such as \
             `0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11`",
            quote(&text)
        );
        Err(violation(field.name, Code::InvalidUuid, message))
    }
}

/// Returns a string that is not empty and that PostgreSQL can hold.
fn label(field: &Field<'_>) -> Result<String, Violation> {
    let text = string(field)?;
    if text.is_empty() {
        let message = "found an empty string, expected at least one character";
        Err(violation(field.name, Code::Empty, message))
    } else if text.contains('\0') {
        let message = format!("found {}, expected text without NUL characters", quote(&text));
        Err(violation(field.name, Code::NulCharacter, message))
    } else {
        Ok(text.into_owned())
    }
}

/// Returns microseconds since the Unix epoch. What is finer is cut off, towards the past, so that
/// no event moves into the next second. A leap second, `:60`, is the first second of the next
/// minute, as in PostgreSQL.
fn time(field: &Field<'_>) -> Result<i64, Violation> {
    let text = string(field)?;
    let refusal = |why: &dyn fmt::Display| {
        let message = format!(
            "found {}, expected RFC 3339 with an offset such as \
             `2026-01-18T22:17:34.827Z` ({why})",
            quote(&text)
        );
        violation(field.name, Code::InvalidTimestamp, message)
    };
    // chrono accepts more: a space or an underscore for the `T`, U+2212 for the minus.
    if !text.is_ascii() || !matches!(text.as_bytes().get(10), None | Some(b'T' | b't')) {
        return Err(refusal(&"input contains invalid characters"));
    }
    let time = DateTime::parse_from_rfc3339(&text).map_err(|error| refusal(&error))?;
    let is_leap_second = time.timestamp_subsec_nanos() >= 1_000_000_000;
    let utc = time.naive_utc().time();
    if is_leap_second && (utc.hour(), utc.minute()) != (23, 59) {
        return Err(refusal(&"a leap second is the last of a day in UTC"));
    }
    Ok(time.timestamp_micros())
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
        Some(text) if !text.contains('\\') => Ok(Cow::Borrowed(text)),
        Some(_) => jsonb::unescape(json.as_bytes()).map(Cow::Owned).ok_or_else(|| {
            let message = format!("found {}, expected no half surrogate pair", quote(json));
            violation(field.name, Code::InvalidUnicode, message)
        }),
    }
}

/// Returns the field's value, unless the field is given more than once.
fn once<'a>(field: &Field<'a>) -> Result<Option<Value<'a>>, Violation> {
    if field.times > 1 { Err(field.duplicate()) } else { Ok(field.value) }
}
