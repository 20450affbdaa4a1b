//! Makes events of entries of any form, by a mapping: fields, and steps one after the other.
//!
//! | file | what it does |
//! |---|---|
//! | `file.rs` | reads a mapping, and refuses what is not supported |
//! | `path.rs` | names a place in an entry or an event |
//! | `object.rs` | a JSON object in the producer's words |
//! | `condition.rs` | conditions in CEL |
//! | `step.rs` | what can be done to an event |
//! | `epoch.rs` | times that are numbers, as text |
//! | `hash.rs` | hashes with a key |

mod condition;
mod epoch;
mod file;
mod hash;
mod object;
mod path;
mod step;

use std::borrow::Cow;
use std::sync::Arc;

use cel::Env;
use serde_json::value::RawValue;
use sluicegate_kit::{
    Code, Entry, EntryId, Judged, Verdict, Violation, Violations, read_event_with, violation,
};

pub(crate) use file::compile;
use object::{Node, Object};
use path::Path;
use step::{Action, Done, Step};

/// Names the field of an entry that holds a JSON object, unless a mapping names another.
const DATA: &str = "data";

/// Holds a mapping that was read.
pub(crate) struct Mapping {
    /// Names the field of an entry that holds a JSON object. An entry without it is an object of its fields.
    data: String,
    /// Gives for each place in an event those in an entry, of which the first with a value counts.
    fields: Vec<(Path, Vec<Path>)>,
    steps: Vec<Step>,
    env: Arc<Env>,
}

/// Says what became of an entry.
enum Ended {
    Rejected(Violation),
    Discarded(String),
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Self {
        Self::Rejected(violation)
    }
}

impl Mapping {
    /// Makes the events of an entry, and has the default rules judge each, and `further` its type and properties.
    pub(crate) fn judge(&self, entry: &Entry, further: impl Fn(&str, Option<&str>) -> Violations) -> Judged {
        let made = self.read(entry).map_err(Ended::from).and_then(|(source, broken)| {
            let (rows, is_split) = self.rows(&source, &broken)?;
            Ok((rows.iter().map(Object::to_json).collect::<Vec<String>>(), is_split))
        });
        match made {
            Ok((rows, is_split)) => verdict(entry.id, rows, is_split, further),
            Err(Ended::Rejected(violation)) => Err(violation.into()),
            Err(Ended::Discarded(reason)) => Ok(Verdict::Discard(reason)),
        }
    }

    /// Reads an entry as an object, and returns it with what is wrong with fields that begin as JSON and are none: they are text.
    fn read<'e>(&self, entry: &'e Entry) -> Result<(Object<'e>, Vec<Violation>), Violation> {
        if let Some((_, text)) = entry.fields.iter().rev().find(|(name, _)| *name == self.data) {
            let object = serde_json::from_str(text).map_err(|error| {
                violation(&self.data, Code::JsonSyntax, format!("found no JSON object: {error}"))
            })?;
            return Ok((object, Vec::new()));
        }
        let (mut object, mut broken) = (Object::default(), Vec::new());
        for (name, value) in &entry.fields {
            // A field of text may hold an object or an array. All else in it is text.
            let json = value.trim_ascii_start().starts_with(['{', '[']);
            let node = match json.then(|| serde_json::from_str::<&RawValue>(value)) {
                Some(Ok(json)) => Node::Text(Cow::Borrowed(json.get())),
                Some(Err(error)) => {
                    broken.push(violation(name, Code::JsonSyntax, format!("found no JSON: {error}")));
                    Node::string(value)
                }
                None => Node::string(value),
            };
            object.push(name, node);
        }
        Ok((object, broken))
    }

    /// Makes the rows, and says whether an array was split for them.
    fn rows<'s>(
        &self,
        source: &'s Object<'s>,
        broken: &[Violation],
    ) -> Result<(Vec<Object<'s>>, bool), Ended> {
        let mut event = Object::default();
        for (target, sources) in &self.fields {
            let mut values = sources.iter().filter_map(|path| source.get(path.names()));
            if let Some(value) = values.find(|json| json != "null") {
                step::set(&mut event, target, Node::Text(value))?;
            } else if let Some(wrong) = sources.iter().find_map(|path| hides(broken, path)) {
                return Err(wrong.clone().into());
            }
        }
        let (mut rows, mut is_split) = (vec![event], false);
        for step in &self.steps {
            let (mut kept, mut reason) = (Vec::with_capacity(rows.len()), String::new());
            for row in rows {
                if !self.is_meant(step, source, &row)? {
                    kept.push(row);
                    continue;
                }
                match step.action.apply(row)? {
                    Done::Event(event) => kept.push(event),
                    Done::Rows(rows) => {
                        is_split = true;
                        kept.extend(rows);
                    }
                    Done::Discarded(why) => reason = why,
                }
            }
            if kept.is_empty() {
                return Err(Ended::Discarded(reason));
            }
            rows = kept;
        }
        Ok((rows, is_split))
    }

    fn is_meant(&self, step: &Step, source: &Object<'_>, row: &Object<'_>) -> Result<bool, Violation> {
        match &step.condition {
            None => Ok(true),
            Some(condition) => {
                condition.holds(&self.env, source, row, || format!("mapping.step[{}].if", step.number))
            }
        }
    }
}

/// Returns what is wrong with the field within which this path leads, if it is no JSON: what it may hold is not simply missing.
fn hides<'b>(broken: &'b [Violation], path: &Path) -> Option<&'b Violation> {
    match path.names() {
        [field, _, ..] => broken.iter().find(|wrong| wrong.path == *field),
        _ => None,
    }
}

/// Has each row judged, and puts the verdicts together.
fn verdict(
    id: EntryId,
    rows: Vec<String>,
    is_split: bool,
    further: impl Fn(&str, Option<&str>) -> Violations,
) -> Judged {
    let (mut events, mut wrong) = (Vec::with_capacity(rows.len()), Violations::new());
    for (index, row) in rows.into_iter().enumerate() {
        let entry = Entry { id, fields: vec![(DATA.to_owned(), row)] };
        match read_event_with(&entry, &further) {
            Ok(event) => events.push(event),
            Err(violations) => violations.into_iter().for_each(|violation| {
                let path = match is_split {
                    true => format!("rows[{index}].{}", violation.path),
                    false => violation.path,
                };
                wrong.push(Violation { path, ..violation });
            }),
        }
    }
    wrong.finish()?;
    match events.pop() {
        Some(event) if !is_split => Ok(Verdict::Accept(event)),
        last => {
            events.extend(last);
            Ok(Verdict::Expand(events))
        }
    }
}
