//! Checks what a guest returns: from hostile claims to rows that PostgreSQL can hold.
//!
//! Whatever passes here should be storable. What PostgreSQL refuses all the
//! same costs its own entry only: see `pipeline`.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::batch::{Claim, Event, Fate, Reason, Vec1, Verdict, Violation};

/// The rows that one entry may expand to, at most.
pub const EXPANSION_MAX: usize = 1_000;
/// The weeks in which the rows of one entry may lie, at most. A new chunk of
/// the hypertable takes a dozen locks of the 6,400 that a server has by
/// default, for all tenants.
pub const EXPANSION_WEEKS_MAX: usize = 64;
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

/// What verdicts may hold, as the operator set it. The limits above are part of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `GUEST_OUTPUT_BYTES`: in one call, and for a batch beyond what its entries brought.
    pub output_bytes: usize,
    /// `GUEST_ROWS`: rows that a batch may become. Not less than [`EXPANSION_MAX`].
    pub rows: usize,
    /// `GUEST_STRING_BYTES`: a string of a row.
    pub string_bytes: usize,
    /// `GUEST_JSON_DEPTH`: levels of properties, at most 127, where `serde_json` ends.
    pub json_depth: usize,
    /// `EVENT_AGE_MAX_DAYS`: how long ago an event may have happened.
    pub age_max_days: u32,
    /// `EVENT_AHEAD_MAX_DAYS`: how far ahead of the clock an event may be.
    pub ahead_max_days: u32,
}

impl Bounds {
    /// Without such a window one could make millions of chunks, each a few files.
    fn is_in_window(&self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let age = now - time;
        -TimeDelta::days(self.ahead_max_days.into()) <= age
            && age <= TimeDelta::days(self.age_max_days.into())
    }
}

/// The week of an event: a chunk of the hypertable, as long as nobody has changed its interval.
pub fn week(event: &Event) -> i64 {
    event.time.timestamp().div_euclid(7 * 86_400)
}

/// Decides what becomes of an entry that got this verdict.
pub fn screen(verdict: Verdict, bounds: &Bounds, now: DateTime<Utc>) -> Fate {
    match verdict {
        Verdict::Accept(claim) => match event(claim, bounds, now) {
            Ok(event) => Fate::Store(Vec1::One(event)),
            Err(violation) => Fate::DeadLetter(Reason::BadVerdict, vec![violation]),
        },
        Verdict::Expand(claims) => expand(claims, bounds, now),
        Verdict::Reject(violations) if violations.is_empty() => bad_verdict(
            "",
            "no_violations",
            "the guest rejected the entry without a violation; name at least one",
        ),
        Verdict::Reject(violations) => {
            // A list of its own: collected in place, it would keep the room of all that the guest has listed.
            let mut kept = Vec::with_capacity(violations.len().min(VIOLATIONS_MAX));
            kept.extend(violations.into_iter().take(VIOLATIONS_MAX).map(cut_violation));
            Fate::DeadLetter(Reason::Rejected, kept)
        }
        Verdict::Discard(reason) => Fate::Discard(cut(reason)),
    }
}

fn expand(claims: Vec<Claim>, bounds: &Bounds, now: DateTime<Utc>) -> Fate {
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
            event(claim, bounds, now)
                .map_err(|violation| Violation { path: format!("[{i}].{}", violation.path), ..violation })
        })
        .collect();
    match events {
        Ok(events) => match events.iter().map(week).collect::<BTreeSet<i64>>().len() {
            ..=EXPANSION_WEEKS_MAX => Fate::Store(Vec1::Many(events)),
            weeks => bad_verdict(
                "",
                "expansion_weeks",
                &format!(
                    "the guest expanded the entry to events of {weeks} weeks, wanted at most {EXPANSION_WEEKS_MAX}"
                ),
            ),
        },
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
fn event(claim: Claim, bounds: &Bounds, now: DateTime<Utc>) -> Result<Event, Violation> {
    let event_id = Uuid::try_parse(&claim.event_id).map_err(|error| {
        violation(
            "event_id",
            "invalid_uuid",
            format!("found {}, wanted a UUID: {error}", quoted(&claim.event_id)),
        )
    })?;
    Ok(Event {
        event_id,
        time: time(claim.time, bounds, now)?,
        event_type: text("event_type", claim.event_type, bounds)?,
        user_id: text("user_id", claim.user_id, bounds)?,
        properties: claim.properties.map(|json| properties(json, bounds)).transpose()?,
    })
}

fn time(micros: i64, bounds: &Bounds, now: DateTime<Utc>) -> Result<DateTime<Utc>, Violation> {
    let time = Some(micros)
        .filter(|micros| (TIME_MIN_MICROS..=TIME_MAX_MICROS).contains(micros))
        .and_then(DateTime::from_timestamp_micros)
        .ok_or_else(|| {
            violation(
                "time",
                "time_out_of_range",
                format!("found {micros} microseconds since the Unix epoch, wanted 4713 BC to AD 262142"),
            )
        })?;
    match bounds.is_in_window(time, now) {
        true => Ok(time),
        false => Err(violation(
            "time",
            "time_out_of_window",
            format!(
                "found {}, wanted at most {} days ago (EVENT_AGE_MAX_DAYS) and {} days ahead (EVENT_AHEAD_MAX_DAYS)",
                time.to_rfc3339(),
                bounds.age_max_days,
                bounds.ahead_max_days
            ),
        )),
    }
}

fn text(path: &str, text: String, bounds: &Bounds) -> Result<String, Violation> {
    check_length(path, &text, bounds)?;
    if text.as_bytes().contains(&0) {
        let message = format!("found a NUL character in {}, which PostgreSQL cannot hold", quoted(&text));
        return Err(violation(path, "nul_character", message));
    }
    Ok(text)
}

fn check_length(path: &str, text: &str, bounds: &Bounds) -> Result<(), Violation> {
    if text.len() > bounds.string_bytes {
        let (found, most) = (text.len(), bounds.string_bytes);
        let message = format!("found {found} bytes, wanted at most {most} (GUEST_STRING_BYTES)");
        return Err(violation(path, "too_long", message));
    }
    Ok(())
}

fn properties(json: String, bounds: &Bounds) -> Result<String, Violation> {
    check_length("properties", &json, bounds)?;
    let mut reader = serde_json::Deserializer::from_str(&json);
    match StorableObject(bounds.json_depth).deserialize(&mut reader).and_then(|()| reader.end()) {
        Ok(()) => Ok(json),
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
///
/// Keeps nothing of a text that was longer: it may be all that a guest could hand over, for each entry of a batch.
pub fn cut(text: String) -> String {
    if text.len() <= TEXT_MAX_BYTES && text.capacity() <= 2 * TEXT_MAX_BYTES && !text.contains('\0') {
        return text;
    }
    let start = start_of(&text, TEXT_MAX_BYTES).replace('\0', "\u{fffd}");
    start_of(&start, TEXT_MAX_BYTES).to_owned()
}

/// As many whole characters as fit.
fn start_of(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Reads a JSON object of so many levels and keeps nothing of it: an error tells
/// what `jsonb` would refuse. serde_json has a limit of 127 levels itself; lone
/// surrogates and numbers beyond a 64-bit float are its errors too.
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

/// Any value, of so many levels at most.
#[derive(Clone, Copy)]
struct Storable(usize);

impl Storable {
    /// For what is inside.
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::Limits;

    /// Text of all kinds, with the kinds that matter more often.
    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => any::<String>(),
            1 => Just("a\0b".to_owned()),
            1 => (900..1_200_usize, prop_oneof!["x", "é", "\0", "\u{1f980}"]).prop_map(|(n, c)| c.repeat(n)),
        ]
    }

    fn any_id() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()),
            1 => any_text(),
        ]
    }

    /// JSON, nearly JSON, and not JSON.
    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<f64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| serde_json::Value::String(text).to_string()),
            Just(r#""\u0000""#.to_owned()),
            Just(r#""\ud800""#.to_owned()),
            Just("1e400".to_owned()),
            Just("null".to_owned()),
            ".{0,5}",
        ];
        let value = leaf.prop_recursive(4, 20, 3, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
                vec(inner, 0..3).prop_map(|items| {
                    let pairs: Vec<String> = items.iter().map(|item| format!("\"k\":{item}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        });
        prop_oneof![
            6 => value.prop_map(|value| format!("{{\"a\":{value}}}")),
            1 => any_text(),
            1 => (1..400_usize).prop_map(|n| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n))),
        ]
    }

    fn any_time() -> impl Strategy<Value = i64> {
        prop_oneof![
            any::<i64>(),
            (TIME_MIN_MICROS - 2..TIME_MIN_MICROS + 2),
            (TIME_MAX_MICROS - 2..TIME_MAX_MICROS + 2),
            (-10_i64..10),
        ]
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        (any_id(), any_time(), any_text(), any_text(), proptest::option::of(any_json())).prop_map(
            |(event_id, time, event_type, user_id, properties)| Claim {
                event_id,
                time,
                event_type,
                user_id,
                properties,
            },
        )
    }

    fn any_verdict() -> impl Strategy<Value = Verdict> {
        let violation = (any_text(), any_text(), any_text()).prop_map(|(path, code, message)| Violation {
            path,
            code,
            message,
        });
        prop_oneof![
            4 => any_claim().prop_map(Verdict::Accept),
            2 => vec(any_claim(), 0..4).prop_map(Verdict::Expand),
            1 => (any_claim(), 990..1_010_usize).prop_map(|(claim, n)| Verdict::Expand(vec![claim; n])),
            2 => vec(violation, 0..4).prop_map(Verdict::Reject),
            1 => any_text().prop_map(Verdict::Discard),
        ]
    }

    /// Anything that PostgreSQL can hold.
    fn bounds() -> Bounds {
        Bounds { age_max_days: 100_000_000, ahead_max_days: 100_000_000, ..Limits::default().bounds }
    }

    #[test]
    fn nothing_is_kept_of_what_is_cut() {
        for text in [
            "x".repeat(10 << 20),
            "\0".repeat(10 << 20),
            "é".repeat(5 << 20),
            String::with_capacity(10 << 20),
        ] {
            let kept = cut(text);
            assert!(
                kept.len() <= TEXT_MAX_BYTES && kept.capacity() <= 2 * TEXT_MAX_BYTES,
                "{}",
                kept.capacity()
            );
        }
        let violation = || violation("", "code", String::new());
        let verdict = Verdict::Reject((0..100_000).map(|_| violation()).collect());
        let Fate::DeadLetter(_, violations) = screen(verdict, &bounds(), Utc::now()) else {
            panic!("rejected")
        };
        assert_eq!((violations.len(), violations.capacity()), (VIOLATIONS_MAX, VIOLATIONS_MAX));
    }

    fn is_cut(text: &str) -> bool {
        text.len() <= TEXT_MAX_BYTES && !text.contains('\0')
    }

    fn is_storable(event: &Event) -> bool {
        let micros = event.time.timestamp_micros();
        let properties = event.properties.as_deref().unwrap_or("{}");
        !event.event_type.contains('\0')
            && !event.user_id.contains('\0')
            && (TIME_MIN_MICROS..=TIME_MAX_MICROS).contains(&micros)
            && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(properties).is_ok()
            && !properties.contains(r"\u0000")
    }

    proptest! {
        /// That PostgreSQL agrees is shown by `tests/cases/screening.rs`.
        #[test]
        fn any_verdict_has_a_fate_within_bounds(verdict in any_verdict()) {
            match screen(verdict.clone(), &bounds(), Utc::now()) {
                Fate::Store(events) => {
                    let claims = match verdict {
                        Verdict::Accept(_) => 1,
                        Verdict::Expand(claims) => claims.len(),
                        other => panic!("{other:?} stores nothing"),
                    };
                    prop_assert_eq!(events.as_slice().len(), claims, "all or none");
                    prop_assert!(events.as_slice().iter().all(is_storable), "{events:?}");
                }
                Fate::DeadLetter(reason, violations) => {
                    prop_assert_eq!(
                        reason == Reason::Rejected,
                        matches!(&verdict, Verdict::Reject(violations) if !violations.is_empty())
                    );
                    prop_assert!((1..=VIOLATIONS_MAX).contains(&violations.len()));
                    for Violation { path, code, message } in &violations {
                        prop_assert!(is_cut(path) && is_cut(code) && is_cut(message), "{violations:?}");
                    }
                }
                Fate::Discard(reason) => prop_assert!(is_cut(&reason) && matches!(verdict, Verdict::Discard(_))),
            }
        }
    }

    #[test]
    fn the_limits_are_exact() {
        let claim = Claim {
            event_id: Uuid::nil().to_string(),
            time: TIME_MIN_MICROS,
            event_type: String::new(),
            user_id: String::new(),
            properties: None,
        };
        let (bounds, now) = (bounds(), Utc::now());
        let passes = |claim: &Claim, bounds| {
            matches!(screen(Verdict::Accept(claim.clone()), &bounds, now), Fate::Store(_))
        };
        let is_stored = |claim: &Claim| passes(claim, bounds);
        assert!(is_stored(&claim));
        assert!(is_stored(&Claim { time: TIME_MAX_MICROS, ..claim.clone() }));
        assert!(!is_stored(&Claim { time: TIME_MIN_MICROS - 1, ..claim.clone() }));
        assert!(!is_stored(&Claim { time: TIME_MAX_MICROS + 1, ..claim.clone() }));
        let deep = |n: usize| Some(format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n)));
        assert!(is_stored(&Claim { properties: deep(126), ..claim.clone() }), "127 levels");
        assert!(!is_stored(&Claim { properties: deep(127), ..claim.clone() }), "128 levels");
        let expanded = |n: usize| {
            matches!(screen(Verdict::Expand(vec![claim.clone(); n]), &bounds, now), Fate::Store(_))
        };
        assert_eq!([0, 1, 1_000, 1_001].map(expanded), [false, true, true, false]);

        let bounds = Bounds { string_bytes: 10, json_depth: 3, ..bounds };
        let with = |event_type: &str, properties: &str| {
            let properties = Some(properties.to_owned());
            passes(&Claim { event_type: event_type.to_owned(), properties, ..claim.clone() }, bounds)
        };
        assert!(with("1234567890", "{\"a\":[[]]}"), "at both limits");
        assert!(!with("12345678901", "{}") && !with("", "{\"a\":12345}"), "a byte more");
        let bounds = Bounds { string_bytes: 100, ..bounds };
        let deeper = Claim { properties: deep(3), ..claim.clone() };
        assert!(!passes(&deeper, bounds), "a level more");
    }
    #[test]
    fn events_lie_in_a_window_and_those_of_an_entry_in_few_weeks() {
        const DAY_MICROS: i64 = 86_400_000_000;
        let now = Utc::now();
        let bounds = Bounds { age_max_days: 10, ahead_max_days: 2, ..Limits::default().bounds };
        let claim = |micros: i64| Claim {
            event_id: Uuid::nil().to_string(),
            time: now.timestamp_micros() + micros,
            event_type: String::new(),
            user_id: String::new(),
            properties: None,
        };
        let code = |verdict, bounds: &Bounds| match screen(verdict, bounds, now) {
            Fate::DeadLetter(Reason::BadVerdict, violations) => {
                violations.into_iter().map(|found| found.code).collect()
            }
            _ => String::new(),
        };
        // To the microsecond; the clock has nanoseconds.
        for micros in [-10 * DAY_MICROS + 1, 0, 2 * DAY_MICROS] {
            assert_eq!(code(Verdict::Accept(claim(micros)), &bounds), "", "{micros}");
        }
        for micros in [-10 * DAY_MICROS - 1, 2 * DAY_MICROS + 1] {
            assert_eq!(code(Verdict::Accept(claim(micros)), &bounds), "time_out_of_window", "{micros}");
        }
        let weeks = |count: i64| Verdict::Expand((0..count).map(|i| claim(-i * 7 * DAY_MICROS)).collect());
        let bounds = Limits::default().bounds;
        assert_eq!(code(weeks(64), &bounds), "");
        assert_eq!(code(weeks(65), &bounds), "expansion_weeks");
    }
}
