//! Generates what the demo sends: events of web analytics, some of them invalid, some sent twice.
//!
//! The generator is pure: the same seed and the same times give the same entries. Each entry comes
//! with the outcome that it must have, so that `ledger` can judge the service from outside.

use std::collections::VecDeque;

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use sluicegate_verdicts::{Event, Reason};

mod content;

/// Holds field names and values, as XADD takes them.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Holds an entry to send, and the outcome that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub fields: Fields,
    pub expected: Expected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The entry becomes a row, unless the strict rules are in force and decide otherwise.
    Row(Event, Strict),
    /// The entry becomes a dead letter, whichever rules are in force.
    DeadLetter(Refusal),
}

/// Says what the strict rules do with an event that the default rules accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strict {
    Accept,
    Discard,
    Reject(Refusal),
}

/// Says what the dead letter of an entry must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// Holds the path and the code of each violation, in order.
    pub violations: Vec<(&'static str, &'static str)>,
}

impl Refusal {
    fn rejected(violations: &[(&'static str, &'static str)]) -> Self {
        Self { reason: Reason::Rejected, violations: violations.to_vec() }
    }
}

/// One entry in this many is invalid.
const INVALID_ONE_IN: u32 = 25;
/// One entry in this many is an event that was sent before.
const DUPLICATE_ONE_IN: u32 = 30;
/// Bounds the events that a duplicate is taken from. Some are of the same batch, some long stored.
const REMEMBERED: usize = 2_000;

/// Supplies entries without end.
#[derive(Debug)]
pub struct Generator {
    random: Rng,
    /// Holds valid events that were handed out, the newest last.
    recent: VecDeque<(Event, Strict)>,
}

impl Generator {
    /// The same seed gives the same entries.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), recent: VecDeque::with_capacity(REMEMBERED) }
    }

    /// Returns the next entry. A new event in it happens `now`, to the microsecond.
    pub fn sample(&mut self, now: DateTime<Utc>) -> Sample {
        if self.one_in(DUPLICATE_ONE_IN)
            && let Some((event, strict)) = self.remembered()
        {
            return Sample { fields: self.render(&event), expected: Expected::Row(event, strict) };
        }
        let (event, strict) = content::event(&mut self.random, now);
        if self.one_in(INVALID_ONE_IN) {
            return self.spoil(&event);
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((event.clone(), strict.clone()));
        Sample { fields: self.render(&event), expected: Expected::Row(event, strict) }
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.random.u32(..number) == 0
    }

    /// Returns an event to send again: one of the last 20, or any of those remembered.
    fn remembered(&mut self) -> Option<(Event, Strict)> {
        let all = self.recent.len();
        let among = if self.random.bool() { all.min(20) } else { all };
        let back = self.random.usize(..among.max(1));
        self.recent.iter().rev().nth(back).cloned()
    }

    /// Renders a valid event in one of the two forms of an entry.
    fn render(&mut self, event: &Event) -> Fields {
        let object = self.object(event);
        match self.random.u32(..4) {
            0 => flat(&object),
            _ => data(&object),
        }
    }

    fn object(&mut self, event: &Event) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("event_id".into(), event.event_id.to_string().into());
        object.insert("event_type".into(), event.event_type.clone().into());
        object.insert("user_id".into(), event.user_id.clone().into());
        object.insert("timestamp".into(), self.timestamp(event.time).into());
        if let Some(properties) = &event.properties {
            object.insert("properties".into(), serde_json::from_str(properties).unwrap_or_default());
        }
        object
    }

    /// Formats a time by RFC 3339 to the microsecond, mostly in UTC.
    fn timestamp(&mut self, time: DateTime<Utc>) -> String {
        let minutes_east = [0, 0, 0, 0, 0, 120, -300, 330];
        let minutes_east = self.random.choice(minutes_east).unwrap_or(0);
        match FixedOffset::east_opt(minutes_east * 60) {
            Some(offset) if minutes_east != 0 => {
                time.with_timezone(&offset).to_rfc3339_opts(SecondsFormat::Micros, false)
            }
            _ => time.to_rfc3339_opts(SecondsFormat::Micros, true),
        }
    }

    /// Makes an invalid entry from a valid event.
    fn spoil(&mut self, event: &Event) -> Sample {
        let mut object = self.object(event);
        let violations: &[(&str, &str)] = match self.random.u32(..7) {
            0 => return cut_json(&object),
            1 => return self.not_utf8(&object),
            2 => {
                object = Map::new();
                object.insert("payload".into(), "a producer that knows nothing of the contract".into());
                let fields = flat(&object);
                let refusal = Refusal::rejected(&[("", "missing")]);
                return Sample { fields, expected: Expected::DeadLetter(refusal) };
            }
            3 => {
                object.remove("user_id");
                &[("user_id", "missing")]
            }
            4 => {
                let simple = Uuid::simple(event.event_id).to_string();
                let bad = if self.random.bool() { simple } else { "42".to_owned() };
                object.insert("event_id".into(), bad.into());
                &[("event_id", "invalid_uuid")]
            }
            5 => {
                let bad = ["yesterday", "2026-01-18T22:17:34", "1768774654"];
                let bad = self.random.choice(bad).unwrap_or_default();
                object.insert("timestamp".into(), bad.into());
                &[("timestamp", "invalid_timestamp")]
            }
            _ => {
                object.insert("event_type".into(), "".into());
                object.insert("properties".into(), json!(["a", "list"]));
                &[("event_type", "empty"), ("properties", "wrong_type")]
            }
        };
        let fields = if self.random.bool() { flat(&object) } else { data(&object) };
        Sample { fields, expected: Expected::DeadLetter(Refusal::rejected(violations)) }
    }

    /// Makes an entry with a byte that is no UTF-8, so that no guest can be given the entry.
    fn not_utf8(&mut self, object: &Map<String, Value>) -> Sample {
        let (mut fields, path) = match self.random.bool() {
            true => (flat(object), "user_id"),
            false => (data(object), "data"),
        };
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == path.as_bytes()) {
            value.insert(value.len().saturating_sub(2), 0xff);
        }
        let refusal = Refusal { reason: Reason::Undecodable, violations: vec![(path, "not_utf8")] };
        Sample { fields, expected: Expected::DeadLetter(refusal) }
    }
}

/// Renders the object as one field `data`.
fn data(object: &Map<String, Value>) -> Fields {
    vec![(b"data".to_vec(), Value::Object(object.clone()).to_string().into_bytes())]
}

/// Renders the object as one field for each member.
fn flat(object: &Map<String, Value>) -> Fields {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    object.iter().map(|(name, value)| (name.clone().into_bytes(), text(value).into_bytes())).collect()
}

/// Makes an entry of the beginning of an object, as a producer that dies in writing leaves it.
fn cut_json(object: &Map<String, Value>) -> Sample {
    let text = Value::Object(object.clone()).to_string();
    let cut: String = text.chars().take(text.chars().count() * 2 / 3).collect();
    let refusal = Refusal::rejected(&[("data", "json_syntax")]);
    Sample { fields: vec![(b"data".to_vec(), cut.into_bytes())], expected: Expected::DeadLetter(refusal) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use sluicegate::config::{Config, Tenant, Time};
    use sluicegate::judge::judge;
    use sluicegate::rules;
    use sluicegate::sandbox::SandboxEngine;
    use sluicegate_verdicts::{Entry, EntryId, Outcome, Vec1};

    fn samples(seed: u64, count: i64) -> Vec<Sample> {
        let mut generator = Generator::new(seed);
        let at = |i| DateTime::from_timestamp_nanos(1_768_774_654_000_000_000 + 1_500 * i);
        (0..count).map(|i| generator.sample(at(i))).collect()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(samples(7, 2_000), samples(7, 2_000));
        assert_ne!(samples(7, 10), samples(8, 10));
    }

    #[test]
    fn every_kind_of_entry_comes_up() {
        let samples = samples(1, 20_000);
        let mut ids = HashSet::new();
        let (mut duplicates, mut discards, mut rejects) = (0, 0, 0);
        let mut refusals = HashSet::new();
        for sample in &samples {
            match &sample.expected {
                Expected::Row(event, strict) => {
                    duplicates += u32::from(!ids.insert(event.event_id));
                    discards += u32::from(*strict == Strict::Discard);
                    rejects += u32::from(matches!(strict, Strict::Reject(_)));
                }
                Expected::DeadLetter(refusal) => drop(refusals.insert(refusal.violations.clone())),
            }
        }
        assert!(duplicates > 300 && discards > 1_000 && rejects > 200, "{duplicates} {discards} {rejects}");
        assert_eq!(refusals.len(), 8, "{refusals:?}");
        let flat = samples.iter().filter(|sample| sample.fields.len() > 1).count();
        assert!((2_000..10_000).contains(&flat), "both forms: {flat} flat");
    }

    #[test]
    fn a_duplicate_is_the_same_event() {
        let samples = samples(3, 20_000);
        let mut seen: std::collections::HashMap<Uuid, &Expected> = std::collections::HashMap::new();
        for Sample { expected, .. } in &samples {
            if let Expected::Row(event, _) = expected {
                assert_eq!(*seen.entry(event.event_id).or_insert(expected), expected);
            }
        }
    }

    /// Compares `expected` with the outcomes of both components.
    #[test]
    fn the_rules_say_what_is_expected() {
        // Test programs lie in a folder beside the service.
        let program = std::env::current_exe().expect("a path").with_file_name("../sluicegate");
        let engine = SandboxEngine::with_program(&Config::default(), program).expect("a sandbox");
        let tenant = Tenant { guest_time_limit: Time::secs(10), ..Tenant::default() };
        let sandbox = engine.tenant_sandbox(&tenant).expect("a sandbox");
        let samples = samples(11, 5_000);
        let outcomes = |component| {
            let rules = sandbox.load_trusted(component).expect("a guest");
            let entries = samples
                .iter()
                .map(|sample| Entry { id: EntryId::ZERO, fields: Some(sample.fields.clone()), deliveries: 1 })
                .collect();
            judge(&rules, 10, entries, &mut sluicegate::capabilities::HostContext::default())
                .expect("no transaction")
                .entries
                .into_iter()
                .map(|judged| judged.outcome)
        };
        for (outcome, Sample { expected, .. }) in outcomes(rules::DEFAULT).zip(&samples) {
            match expected {
                Expected::Row(event, _) => assert_stored(&outcome, event),
                Expected::DeadLetter(refusal) => assert_refused(&outcome, refusal),
            }
        }
        for (outcome, Sample { expected, .. }) in outcomes(crate::STRICT).zip(&samples) {
            match expected {
                Expected::Row(event, Strict::Accept) => assert_stored(&outcome, event),
                Expected::Row(_, Strict::Discard) => {
                    assert!(matches!(outcome, Outcome::Discard(_)), "{outcome:?}")
                }
                Expected::Row(_, Strict::Reject(refusal)) | Expected::DeadLetter(refusal) => {
                    assert_refused(&outcome, refusal);
                }
            }
        }
    }

    fn assert_stored(outcome: &Outcome, wanted: &Event) {
        let Outcome::Store(Vec1::One(event)) = outcome else { panic!("{outcome:?}; wanted {wanted:?}") };
        let json = |event: &Event| -> Option<Value> {
            event.properties.as_deref().map(|json| serde_json::from_str(json).expect("JSON"))
        };
        assert_eq!(json(event), json(wanted));
        assert_eq!(&Event { properties: wanted.properties.clone(), ..event.clone() }, wanted);
    }

    fn assert_refused(outcome: &Outcome, wanted: &Refusal) {
        let Outcome::DeadLetter(reason, violations) = outcome else {
            panic!("{outcome:?}; wanted {wanted:?}")
        };
        let violations: Vec<(&str, &str)> =
            violations.iter().map(|violation| (violation.path.as_str(), violation.code.as_str())).collect();
        assert_eq!((*reason, violations), (wanted.reason, wanted.violations.clone()));
    }
}
