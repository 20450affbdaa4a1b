//! Checks what a guest returns: from hostile claims to rows that PostgreSQL can hold.
//!
//! Whatever passes here should be storable. What PostgreSQL refuses all the
//! same costs its own entry only: see `pipeline`.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::batch::{Claim, Event, Fate, Reason, Vec1, Verdict, Violation};

/// The rows that one entry may expand to, at most.
pub const EXPANSION_MAX: usize = 1_000;
/// The violations kept of one entry, at most.
pub const VIOLATIONS_MAX: usize = 100;
/// The bytes kept of a violation's path, code and message, each, and of a
/// reason to discard, at most.
pub const TEXT_MAX_BYTES: usize = 1_024;

/// 4713-01-01 BC, in microseconds since the Unix epoch. PostgreSQL begins
/// eleven months earlier, but TimescaleDB must still find room for the chunk.
const TIME_MIN_MICROS: i64 = -210_863_520_000_000_000;
/// AD 262142-12-31, where chrono ends; PostgreSQL goes on to AD 294276.
const TIME_MAX_MICROS: i64 = 8_210_266_790_400_000_000;

/// Decides what becomes of an entry that got this verdict.
pub fn screen(verdict: Verdict) -> Fate {
    match verdict {
        Verdict::Accept(claim) => match event(claim) {
            Ok(event) => Fate::Store(Vec1::One(event)),
            Err(violation) => Fate::DeadLetter(Reason::BadVerdict, vec![violation]),
        },
        Verdict::Expand(claims) => expand(claims),
        Verdict::Reject(violations) if violations.is_empty() => bad_verdict(
            "",
            "no_violations",
            "the guest rejected the entry without a violation; name at least one",
        ),
        Verdict::Reject(violations) => Fate::DeadLetter(
            Reason::Rejected,
            violations.into_iter().take(VIOLATIONS_MAX).map(cut_violation).collect(),
        ),
        Verdict::Discard(reason) => Fate::Discard(cut(reason)),
    }
}

fn expand(claims: Vec<Claim>) -> Fate {
    let found = claims.len();
    if found == 0 || found > EXPANSION_MAX {
        return bad_verdict(
            "",
            "expansion_size",
            &format!("the guest expanded the entry to {found} events, wanted 1 to {EXPANSION_MAX}"),
        );
    }
    let events: Result<Vec<Event>, Violation> = claims
        .into_iter()
        .enumerate()
        .map(|(i, claim)| {
            event(claim)
                .map_err(|violation| Violation { path: format!("[{i}].{}", violation.path), ..violation })
        })
        .collect();
    match events {
        Ok(events) => Fate::Store(Vec1::Many(events)),
        Err(violation) => Fate::DeadLetter(Reason::BadVerdict, vec![violation]),
    }
}

fn bad_verdict(path: &str, code: &str, message: &str) -> Fate {
    Fate::DeadLetter(Reason::BadVerdict, vec![violation(path, code, message.to_owned())])
}

fn violation(path: &str, code: &str, message: String) -> Violation {
    Violation { path: path.to_owned(), code: code.to_owned(), message: cut(message) }
}

/// Makes a row of a claim, or says what PostgreSQL would not hold.
fn event(claim: Claim) -> Result<Event, Violation> {
    let event_id = Uuid::try_parse(&claim.event_id).map_err(|error| {
        violation(
            "event_id",
            "invalid_uuid",
            format!("found {}, wanted a UUID: {error}", quoted(&claim.event_id)),
        )
    })?;
    Ok(Event {
        event_id,
        time: time(claim.time)?,
        event_type: text("event_type", claim.event_type)?,
        user_id: text("user_id", claim.user_id)?,
        properties: claim.properties.map(properties).transpose()?,
    })
}

fn time(micros: i64) -> Result<DateTime<Utc>, Violation> {
    Some(micros)
        .filter(|micros| (TIME_MIN_MICROS..=TIME_MAX_MICROS).contains(micros))
        .and_then(DateTime::from_timestamp_micros)
        .ok_or_else(|| {
            violation(
                "time",
                "time_out_of_range",
                format!("found {micros} microseconds since the Unix epoch, wanted 4713 BC to AD 262142"),
            )
        })
}

fn text(path: &str, text: String) -> Result<String, Violation> {
    if text.as_bytes().contains(&0) {
        let message = format!("found a NUL character in {}, which PostgreSQL cannot hold", quoted(&text));
        return Err(violation(path, "nul_character", message));
    }
    Ok(text)
}

fn properties(json: String) -> Result<String, Violation> {
    match serde_json::from_str::<StorableObject>(&json) {
        Ok(StorableObject) => Ok(json),
        Err(error) => Err(violation(
            "properties",
            "invalid_properties",
            format!("wanted a JSON object that PostgreSQL can hold, but {error}"),
        )),
    }
}

/// The text in quotes, its control characters escaped, cut to 64 characters.
pub fn quoted(text: &str) -> String {
    let end = text.char_indices().nth(64).map(|(at, _)| at);
    match end.and_then(|end| text.get(..end)) {
        Some(start) => format!("{start:?}…"),
        None => format!("{text:?}"),
    }
}

fn cut_violation(violation: Violation) -> Violation {
    Violation { path: cut(violation.path), code: cut(violation.code), message: cut(violation.message) }
}

/// At most `TEXT_MAX_BYTES` of the text, without NUL, which neither `text`
/// nor `jsonb` can hold.
pub fn cut(mut text: String) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    if text.len() > TEXT_MAX_BYTES {
        let mut end = TEXT_MAX_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

/// Reads a JSON object and keeps nothing of it: an error tells what `jsonb`
/// would refuse. Depth is bounded by serde_json's own limit of 127 levels;
/// lone surrogates and numbers beyond a 64-bit float are its errors too.
struct StorableObject;

impl<'de> Deserialize<'de> for StorableObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = StorableObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StorableObject, A::Error> {
                Storable.visit_map(map)?;
                Ok(StorableObject)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Any JSON value that `jsonb` can hold.
struct Storable;

impl<'de> Deserialize<'de> for Storable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Storable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        match text.as_bytes().contains(&0) {
            true => Err(E::custom("found the NUL character \\u0000 in a string")),
            false => Ok(self),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}
