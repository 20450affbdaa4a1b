//! Checks what a guest returns, which may be hostile, and makes rows that PostgreSQL can hold.
//!
//! Whatever passes here should be storable. What PostgreSQL refuses all the same costs its own
//! entry only: see `pipeline`.

mod number;

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::{Event, Outcome, Reason, UncheckedEvent, Vec1, Verdict, Violation};

/// The largest number of rows that one entry may expand to.
pub const MAX_EXPANSION: usize = 1_000;
/// The largest number of weeks in which the rows of one entry may lie. A new chunk of the
/// hypertable takes a dozen of the 6,400 locks that a server has by default, for all tenants.
pub const MAX_EXPANSION_WEEKS: usize = 64;
/// The largest number of violations that are kept of one entry.
pub const MAX_VIOLATIONS: usize = 100;
/// The largest number of bytes that are kept of a violation's path, code and message each, and of a
/// reason to discard.
pub const MAX_TEXT_BYTES: usize = 1_024;

/// 4713-01-01 BC, in microseconds since the Unix epoch. PostgreSQL begins eleven months earlier,
/// but TimescaleDB must still find room for the chunk.
const MIN_TIME_MICROS: i64 = -210_863_520_000_000_000;
/// AD 262142-12-31, where chrono ends; PostgreSQL goes on to AD 294276.
const MAX_TIME_MICROS: i64 = 8_210_266_790_400_000_000;

/// What verdicts may hold, as the operator has set it. The limits above are part of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutputLimits {
    /// `GUEST_OUTPUT`: the bytes of one call, and of a batch beyond what its entries brought.
    pub output_bytes: usize,
    /// `GUEST_ROWS`: the rows that a batch may become, not less than [`MAX_EXPANSION`].
    pub rows: usize,
    /// `GUEST_STRING`: the bytes of a string of a row.
    pub string_bytes: usize,
    /// `GUEST_JSON_DEPTH`: the levels of properties, at most 127, where `serde_json` ends.
    pub json_depth: usize,
    /// `MAX_EVENT_AGE`: how long ago an event may have happened.
    pub max_age_days: u32,
    /// `MAX_EVENT_AHEAD`: how far ahead of the clock an event may be.
    pub max_ahead_days: u32,
}

impl OutputLimits {
    /// The limits of a service without settings, for those who have no settings to read.
    pub const DEFAULT: Self = Self {
        output_bytes: 64 << 20,
        rows: 100_000,
        string_bytes: 16 << 20,
        json_depth: 127,
        max_age_days: 18_262,
        max_ahead_days: 366,
    };

    /// Without this window a guest could make millions of chunks, each a few files.
    fn is_in_window(&self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let age = now - time;
        -TimeDelta::days(self.max_ahead_days.into()) <= age
            && age <= TimeDelta::days(self.max_age_days.into())
    }
}

/// Returns an event's week: a chunk of the hypertable, unless somebody has changed its interval.
pub fn week(event: &Event) -> i64 {
    event.time.timestamp().div_euclid(7 * 86_400)
}

/// Decides what becomes of an entry that got this verdict.
pub fn validate(verdict: Verdict, bounds: &OutputLimits, now: DateTime<Utc>) -> Outcome {
    match verdict {
        Verdict::Accept(unchecked) => match event(unchecked, bounds, now) {
            Ok(event) => Outcome::Store(Vec1::One(event)),
            Err(violation) => Outcome::DeadLetter(Reason::BadVerdict, vec![violation]),
        },
        Verdict::Expand(events) => expand(events, bounds, now),
        Verdict::Reject(violations) if violations.is_empty() => bad_verdict(
            "",
            "no_violations",
            "the guest rejected the entry without a violation; name at least one",
        ),
        Verdict::Reject(violations) => {
            // The list is new: one collected in place would keep the room of the guest's list.
            let mut kept = Vec::with_capacity(violations.len().min(MAX_VIOLATIONS));
            kept.extend(violations.into_iter().take(MAX_VIOLATIONS).map(cut_violation));
            Outcome::DeadLetter(Reason::Rejected, kept)
        }
        Verdict::Discard(reason) => Outcome::Discard(cut(reason)),
    }
}

fn expand(events: Vec<UncheckedEvent>, bounds: &OutputLimits, now: DateTime<Utc>) -> Outcome {
    let found = events.len();
    if found == 0 || found > MAX_EXPANSION {
        return bad_verdict(
            "",
            "expansion_size",
            &format!("the guest expanded the entry to {found} events, wanted 1 to {MAX_EXPANSION}"),
        );
    }
    let events: Result<Vec<Event>, Violation> = events
        .into_iter()
        .enumerate()
        .map(|(i, unchecked)| {
            event(unchecked, bounds, now)
                .map_err(|violation| Violation { path: format!("[{i}].{}", violation.path), ..violation })
        })
        .collect();
    let repeated = |events: &[Event]| {
        let mut keys = BTreeSet::new();
        events.iter().position(|event| !keys.insert(event.key()))
    };
    match events {
        Ok(events) if let Some(at) = repeated(&events) => bad_verdict(
            &format!("[{at}].event-id"),
            "repeated_key",
            "the guest expanded the entry to two events of one ID and time, of which only one could be stored; wanted an ID for each",
        ),
        Ok(events) => match events.iter().map(week).collect::<BTreeSet<i64>>().len() {
            ..=MAX_EXPANSION_WEEKS => Outcome::Store(Vec1::Many(events)),
            weeks => bad_verdict(
                "",
                "expansion_weeks",
                &format!(
                    "the guest expanded the entry to events of {weeks} weeks, wanted at most {MAX_EXPANSION_WEEKS}"
                ),
            ),
        },
        Err(violation) => Outcome::DeadLetter(Reason::BadVerdict, vec![violation]),
    }
}

fn bad_verdict(path: &str, code: &str, message: &str) -> Outcome {
    Outcome::DeadLetter(Reason::BadVerdict, vec![violation(path, code, message.to_owned())])
}

fn violation(path: &str, code: &str, message: String) -> Violation {
    Violation { path: path.to_owned(), code: code.to_owned(), message: cut(message) }
}

/// Makes a row of an unchecked event, or says what PostgreSQL would not hold.
fn event(unchecked: UncheckedEvent, bounds: &OutputLimits, now: DateTime<Utc>) -> Result<Event, Violation> {
    let event_id = Uuid::try_parse(&unchecked.event_id).map_err(|error| {
        violation(
            "event_id",
            "invalid_uuid",
            format!("found {}, wanted a UUID: {error}", quoted(&unchecked.event_id)),
        )
    })?;
    Ok(Event {
        event_id,
        time: time(unchecked.time, bounds, now)?,
        event_type: text("event_type", unchecked.event_type, bounds)?,
        user_id: text("user_id", unchecked.user_id, bounds)?,
        properties: unchecked.properties.map(|json| properties(json, bounds)).transpose()?,
    })
}

fn time(micros: i64, bounds: &OutputLimits, now: DateTime<Utc>) -> Result<DateTime<Utc>, Violation> {
    let time = Some(micros)
        .filter(|micros| (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(micros))
        .and_then(DateTime::from_timestamp_micros)
        .ok_or_else(|| {
            violation(
                "time",
                "time_out_of_range",
                format!(
                    "found {micros} microseconds since the Unix epoch, wanted 4713 BC to AD 262142{}",
                    other_unit(micros, bounds, now)
                ),
            )
        })?;
    match bounds.is_in_window(time, now) {
        true => Ok(time),
        false => Err(violation(
            "time",
            "time_out_of_window",
            format!(
                "found {}, wanted at most {} days ago (MAX_EVENT_AGE) and {} days ahead (MAX_EVENT_AHEAD){}",
                time.to_rfc3339(),
                bounds.max_age_days,
                bounds.max_ahead_days,
                other_unit(micros, bounds, now)
            ),
        )),
    }
}

/// Names another unit in which the number is a time within the window, if there is one.
fn other_unit(number: i64, bounds: &OutputLimits, now: DateTime<Utc>) -> String {
    let micros = |(_, numerator, denominator): &(&str, i64, i64)| {
        Some(number.checked_mul(*numerator)? / denominator).and_then(DateTime::from_timestamp_micros)
    };
    let is_now = |unit: &&(&str, i64, i64)| {
        micros(unit).is_some_and(|time| time.year() > 1970 && bounds.is_in_window(time, now))
    };
    const UNITS: [(&str, i64, i64); 3] =
        [("seconds", 1_000_000, 1), ("milliseconds", 1_000, 1), ("nanoseconds", 1, 1_000)];
    UNITS.iter().find(is_now).map_or(String::new(), |(unit, ..)| {
        format!("; {number} looks like {unit}, wanted microseconds since the Unix epoch")
    })
}

fn text(path: &str, text: String, bounds: &OutputLimits) -> Result<String, Violation> {
    check_length(path, &text, bounds)?;
    if text.as_bytes().contains(&0) {
        let message = format!("found a NUL character in {}, which PostgreSQL cannot hold", quoted(&text));
        return Err(violation(path, "nul_character", message));
    }
    Ok(text)
}

fn check_length(path: &str, text: &str, bounds: &OutputLimits) -> Result<(), Violation> {
    if text.len() > bounds.string_bytes {
        let (found, most) = (text.len(), bounds.string_bytes);
        let message = format!("found {found} bytes, wanted at most {most} (GUEST_STRING)");
        return Err(violation(path, "too_long", message));
    }
    Ok(())
}

fn properties(json: String, bounds: &OutputLimits) -> Result<String, Violation> {
    check_length("properties", &json, bounds)?;
    let mut reader = serde_json::Deserializer::from_str(&json);
    match StorableObject(bounds.json_depth).deserialize(&mut reader).and_then(|()| reader.end()) {
        Ok(()) => match number::beyond_numeric(&json) {
            None => Ok(json),
            Some(number) => Err(violation(
                "properties",
                "invalid_properties",
                format!(
                    "found the number {}, wanted one that PostgreSQL's numeric holds, of at most {} digits after the point",
                    quoted(number),
                    number::MAX_SCALE
                ),
            )),
        },
        Err(error) => Err(violation(
            "properties",
            "invalid_properties",
            format!(
                "wanted a JSON object that PostgreSQL can hold, of at most {} levels (GUEST_JSON_DEPTH), but {error}",
                bounds.json_depth
            ),
        )),
    }
}

/// Returns the text in quotes, with control characters escaped, cut to 64 characters.
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

/// Returns at most `MAX_TEXT_BYTES` of the text, without NUL, which neither `text` nor `jsonb` can
/// hold. Nothing is kept of a text that was longer: it may be all that a guest could hand over, for
/// each entry of a batch.
pub fn cut(text: String) -> String {
    if text.len() <= MAX_TEXT_BYTES && text.capacity() <= 2 * MAX_TEXT_BYTES && !text.contains('\0') {
        return text;
    }
    let start = start_of(&text, MAX_TEXT_BYTES).replace('\0', "\u{fffd}");
    start_of(&start, MAX_TEXT_BYTES).to_owned()
}

/// Returns as many whole characters as fit.
fn start_of(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Reads a JSON object of at most so many levels and keeps nothing of it: an error tells what
/// `jsonb` would refuse. serde_json has a limit of 127 levels itself, and lone surrogates and
/// numbers beyond a 64-bit float are its errors too.
struct StorableObject(usize);

impl<'de> DeserializeSeed<'de> for StorableObject {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StorableObject {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        Storable(self.0).visit_map(map)
    }
}

/// Reads any value, of at most so many levels.
#[derive(Clone, Copy)]
struct Storable(usize);

impl Storable {
    /// Returns what reads the values inside.
    fn inner<E: de::Error>(self) -> Result<Self, E> {
        match self.0.checked_sub(1) {
            Some(levels) => Ok(Self(levels)),
            None => Err(E::custom("it is nested deeper")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Storable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Storable {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        match text.as_bytes().contains(&0) {
            true => Err(E::custom("found the NUL character \\u0000 in a string")),
            false => Ok(()),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while map.next_entry_seed(inner, inner)?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests;
