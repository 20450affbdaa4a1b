//! Compares rows and dead letters, one at a time, with what was sent.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use super::report::{Discrepancy, Report};
use super::{Ledger, Origin, Sent, count};
use crate::generator::{Expected, Fields, Refusal, Strict};
use sluicegate::batch::Digest;
use sluicegate_verdicts::{EntryId, Event, Reason};

/// Holds a row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Holds the column `entry_id`.
    pub entry: String,
    pub reason: String,
    /// Holds the path and the code of each violation.
    pub violations: Vec<(String, String)>,
    pub fields: Option<Vec<Vec<u8>>>,
    pub component: Vec<u8>,
}

#[derive(Debug)]
pub struct Audit<'a> {
    ledger: &'a Ledger,
    rows: HashSet<Uuid>,
    letters: HashSet<EntryId>,
    /// Counts the dead letters that there may be of entries whose IDs the producer was not told.
    unanswered: HashMap<&'a Fields, u64>,
    /// Holds the entries that were given up; `None` when none may be.
    given_up: Option<HashSet<EntryId>>,
    report: Report,
}

impl<'a> Audit<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        let unanswered = ledger.unanswered.iter().map(|(fields, (_, times))| (fields, *times)).collect();
        let report =
            Report { produced: ledger.produced(), unanswered: ledger.unanswered_count, ..Report::default() };
        Self { ledger, rows: HashSet::new(), letters: HashSet::new(), unanswered, given_up: None, report }
    }

    /// Allows that any entry is a dead letter because it was delivered too often: a service that is
    /// killed so often cannot tell what kills it. A row of the entry's event may be there as well,
    /// committed before.
    pub fn allow_giving_up(&mut self) {
        self.given_up = Some(HashSet::new());
    }

    /// Takes a row of `events`.
    pub fn row(&mut self, found: &Event) {
        self.report.rows += 1;
        let event = found.event_id;
        let Some(Sent { event: sent, entries, .. }) = self.ledger.events.get(&event) else {
            return self.report.add(Discrepancy::InventedRow { event });
        };
        if !self.rows.insert(event) {
            return self.report.add(Discrepancy::Doubled { event, sent: entries.len() });
        }
        let mut compare = |column, found: &str, sent: &str| {
            if found != sent {
                let (found, sent) = (found.to_owned(), sent.to_owned());
                self.report.add(Discrepancy::Changed { event, column, found, sent });
            }
        };
        compare("time", &found.time.to_rfc3339(), &sent.time.to_rfc3339());
        compare("event_type", &found.event_type, &sent.event_type);
        compare("user_id", &found.user_id, &sent.user_id);
        compare("properties", &normal(found.properties.as_deref()), &normal(sent.properties.as_deref()));
    }

    /// Takes a row of `dead_letters`.
    pub fn letter(&mut self, letter: &Letter) {
        *self.report.letters.entry(letter.reason.clone()).or_default() += 1;
        for (path, code) in &letter.violations {
            let paths = self.report.codes.entry(code.clone()).or_default();
            *paths.entry(path.clone()).or_default() += 1;
        }
        let entry = EntryId::parse(letter.entry.as_bytes());
        let origin = entry.and_then(|entry| self.ledger.entries.get(&entry));
        let (Some(entry), true) = (entry, origin.is_some() || self.guess(letter)) else {
            return self.report.add(Discrepancy::InventedLetter { entry: letter.entry.clone() });
        };
        if !self.letters.insert(entry) {
            return self.report.add(Discrepancy::DoubledLetter { entry });
        }
        if let Some(given_up) = &mut self.given_up
            && letter.reason == Reason::DeliveredTooOften.as_str()
        {
            given_up.insert(entry);
            self.report.given_up += 1;
            return;
        }
        match self.wanted(origin, letter) {
            None => {
                let found = told(&letter.reason, &letter.violations);
                self.report.add(Discrepancy::WronglyRefused { entry, found });
            }
            Some((refusal, fields, only_strict)) => {
                self.compare_letter(entry, letter, refusal, fields);
                self.version(entry, letter, only_strict);
            }
        }
    }

    /// Returns whether the letter may be of an unanswered entry, and counts that entry off.
    fn guess(&mut self, letter: &Letter) -> bool {
        let fields = letter.fields.as_deref().map(pairs);
        match fields.and_then(|fields| self.unanswered.get_mut(&fields)) {
            Some(times @ 1..) => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    /// Returns what the letter should say, of which fields, and whether only the strict rules say
    /// so. Returns `None` when the letter's entry should have been stored.
    fn wanted(
        &self,
        origin: Option<&'a Origin>,
        letter: &Letter,
    ) -> Option<(&'a Refusal, Option<&'a Fields>, bool)> {
        let ledger = self.ledger;
        match origin {
            Some(Origin::Invalid(refusal, fields)) => Some((refusal, Some(fields), false)),
            Some(Origin::Event(event, fields)) => match &ledger.events.get(event)?.strict {
                Strict::Reject(refusal) => Some((refusal, fields.as_ref(), true)),
                Strict::Accept | Strict::Discard => None,
            },
            None => match &ledger.unanswered.get(&pairs(letter.fields.as_deref()?))?.0 {
                Expected::DeadLetter(refusal) => Some((refusal, None, false)),
                Expected::Row(_, Strict::Reject(refusal)) => Some((refusal, None, true)),
                Expected::Row(..) => None,
            },
        }
    }

    fn compare_letter(&mut self, entry: EntryId, letter: &Letter, refusal: &Refusal, sent: Option<&Fields>) {
        let (found, wanted) = (told(&letter.reason, &letter.violations), told_of(refusal));
        if found != wanted {
            let what = "the reasons";
            self.report.add(Discrepancy::WrongLetter { entry, what, found, wanted });
        }
        let found = letter.fields.as_deref().map(pairs);
        if sent.is_some() && found.as_ref() != sent {
            let text = |fields: Option<&Fields>| format!("{:?}", fields.map(readable));
            let (found, wanted) = (text(found.as_ref()), text(sent));
            self.report.add(Discrepancy::WrongLetter { entry, what: "the fields", found, wanted });
        }
    }

    /// Notes which version judged the entry.
    fn version(&mut self, entry: EntryId, letter: &Letter, only_strict: bool) {
        let is = |digest: Digest| letter.component == digest.as_bytes();
        let found = || letter.component.iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
        let [by_default, by_strict] = &mut self.report.letters_by_version;
        if is(self.ledger.default) {
            *by_default += 1;
            self.report.judged_by_default(entry);
            if only_strict {
                let (what, found, wanted) = ("the component", found(), "the strict rules".to_owned());
                self.report.add(Discrepancy::WrongLetter { entry, what, found, wanted });
            }
        } else if self.ledger.strict.is_some_and(is) {
            *by_strict += 1;
            self.report.judged_by_strict(entry);
        } else {
            self.report.add(Discrepancy::UnknownRules { entry, found: found() });
        }
    }

    /// Reports what is missing, once all rows and all dead letters were taken.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let ledger = self.ledger;
        for (&entry, origin) in &ledger.entries {
            if let Origin::Invalid(refusal, _) = origin {
                self.report.invalid += 1;
                if !self.letters.contains(&entry) {
                    let wanted = told_of(refusal);
                    self.report.add(Discrepancy::MissingLetter { entry, wanted });
                }
            }
        }
        for sent in ledger.events.values() {
            self.finish_event(sent);
        }
        self.report
    }

    fn finish_event(&mut self, sent: &Sent) {
        let event = sent.event.event_id;
        // No XADD of the event was answered, so the event may be there or not.
        let Some(&entry) = sent.entries.iter().min() else { return };
        let entries = count(sent.entries.len());
        self.report.events += 1;
        self.report.copies += entries - 1;
        let stored = self.rows.contains(&event);
        let is_given_up = |entry| self.given_up.as_ref().is_some_and(|given_up| given_up.contains(entry));
        if !stored && sent.entries.iter().all(is_given_up) {
            return;
        }
        let refused = sent.entries.iter().all(|entry| self.letters.contains(entry));
        let may_end_otherwise = self.ledger.strict.is_some();
        match (&sent.strict, stored) {
            (Strict::Accept, true) => {}
            (Strict::Reject(_), true) if refused => self.report.add(Discrepancy::BothWays { event }),
            (Strict::Discard | Strict::Reject(_), true) => {
                self.report.judged_by_default(entry);
                self.report.note(&sent.strict, stored, entries);
            }
            (Strict::Discard, false) if may_end_otherwise => {
                self.report.judged_by_strict(entry);
                self.report.note(&sent.strict, stored, entries);
            }
            (Strict::Reject(_), false) if refused => self.report.note(&sent.strict, stored, entries),
            (_, false) => self.report.add(Discrepancy::Lost { event, entry }),
        }
    }
}

/// Writes JSON in one form, because `jsonb` keeps neither spaces nor the order of members.
fn normal(json: Option<&str>) -> String {
    match json.map(serde_json::from_str::<Value>) {
        None => "none".to_owned(),
        Some(Ok(value)) => value.to_string(),
        Some(Err(_)) => json.unwrap_or_default().to_owned(),
    }
}

/// Groups alternating names and values into pairs.
fn pairs(fields: &[Vec<u8>]) -> Fields {
    fields
        .chunks(2)
        .map(|pair| (pair.first().cloned().unwrap_or_default(), pair.get(1).cloned().unwrap_or_default()))
        .collect()
}

fn readable(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn told_of(refusal: &Refusal) -> String {
    told(refusal.reason.as_str(), &refusal.violations)
}

/// Formats reasons like `rejected (user_id: missing, timestamp: invalid_timestamp)`.
fn told(reason: &str, violations: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let violations: Vec<String> =
        violations.iter().map(|(path, code)| format!("{}: {}", path.as_ref(), code.as_ref())).collect();
    format!("{reason} ({})", violations.join(", "))
}
