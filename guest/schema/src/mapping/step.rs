//! What can be done to an event, one step after the other.

use std::borrow::Cow;

use serde_json::Number;
use serde_json::value::RawValue;
use sluicegate_kit::{Uuid, Violation, ids, quote, violation};

use super::condition::Condition;
use super::epoch::{self, Unit};
use super::hash;
use super::object::{Node, Object};
use super::path::{Path, shown};

/// Bounds the rows of an entry, as the contract in `wit/` does.
const MAX_ROWS: usize = 1_000;
/// Is the namespace of identifiers that are made of text. It never changes.
const IDENTIFIERS: Uuid = Uuid::from_u128(0x3f0f_8f5e_6f0c_4c1d_9a51_77b1_6f2a_90c4);
/// Is the reason for which an entry is discarded whose array is empty.
const NO_ITEMS: &str = "no_items";

/// Holds what is done to an event, and to which ones.
pub(crate) struct Step {
    pub(super) number: usize,
    /// Without one, it is done to all.
    pub(super) condition: Option<Condition>,
    pub(super) action: Action,
}

pub(crate) enum Action {
    /// Gives what lacks, or is null, a value.
    Default(Vec<(Path, String)>),
    Rename(Vec<(Path, Path)>),
    Drop(Vec<Path>),
    Hash(Vec<Path>),
    /// Makes a UUID of an identifier that is none.
    Uuid(Vec<Path>),
    /// Cuts strings after so many characters.
    Truncate(Vec<(Path, usize)>),
    /// Brings numbers into limits.
    Clamp(Vec<(Path, Limits)>),
    /// Makes times of numbers.
    Epoch(Vec<(Path, Unit)>),
    /// Drops the event, for a reason.
    Discard(String),
    /// Makes a row of each item of an array.
    Split(Path),
}

/// Holds the least number and the greatest one.
pub(super) struct Limits {
    pub(super) min: Option<Number>,
    pub(super) max: Option<Number>,
}

/// Says what became of an event.
pub(crate) enum Done<'a> {
    Event(Object<'a>),
    Rows(Vec<Object<'a>>),
    Discarded(String),
}

impl Action {
    pub(super) fn apply<'a>(&self, mut event: Object<'a>) -> Result<Done<'a>, Violation> {
        match self {
            Self::Default(values) => {
                for (path, value) in values {
                    if event.get_mut(path.names()).is_none_or(|node| node.is_null()) {
                        set(&mut event, path, Node::Text(Cow::Owned(value.clone())))?;
                    }
                }
            }
            Self::Rename(names) => {
                for (from, to) in names {
                    if let Some(value) = event.remove(from.names()) {
                        set(&mut event, to, value)?;
                    }
                }
            }
            Self::Drop(paths) => paths.iter().for_each(|path| drop(event.remove(path.names()))),
            Self::Hash(paths) => {
                for path in paths {
                    if let Some(node) = event.get_mut(path.names()) {
                        hash(node, path)?;
                    }
                }
            }
            Self::Uuid(paths) => {
                for path in paths {
                    if let Some(node) = event.get_mut(path.names()) {
                        identify(node);
                    }
                }
            }
            Self::Truncate(limits) => {
                for (path, chars) in limits {
                    if let Some(node) = event.get_mut(path.names()) {
                        truncate(node, *chars);
                    }
                }
            }
            Self::Clamp(limits) => {
                for (path, limits) in limits {
                    if let Some(node) = event.get_mut(path.names()) {
                        clamp(node, limits);
                    }
                }
            }
            Self::Epoch(units) => {
                for (path, unit) in units {
                    if let Some(node) = event.get_mut(path.names()) {
                        tell_time(node, *unit);
                    }
                }
            }
            Self::Discard(reason) => return Ok(Done::Discarded(reason.clone())),
            Self::Split(path) => return split(event, path),
        }
        Ok(Done::Event(event))
    }
}

/// Puts a value at a path.
pub(super) fn set<'a>(event: &mut Object<'a>, path: &Path, value: Node<'a>) -> Result<(), Violation> {
    event.set(path.names(), value).map_err(|names| {
        let at = shown(path.names().get(..names).unwrap_or_default());
        violation(at, "wrong_type", format!("found no object, expected one, for `{path}`"))
    })
}

/// Hashes a string as its text, and a number or a boolean as its JSON.
fn hash(node: &mut Node<'_>, path: &Path) -> Result<(), Violation> {
    let text = match node.text() {
        Some("null") => return Ok(()),
        Some(json) if json.starts_with('"') => match serde_json::from_str::<String>(json) {
            Ok(text) => text,
            Err(_) => return Err(not_hashed(path, json)),
        },
        Some(json) if !json.starts_with(['{', '[']) => json.to_owned(),
        Some(json) => return Err(not_hashed(path, json)),
        None => return Err(not_hashed(path, "{…}")),
    };
    *node = Node::string(&hash::hashed(&text, || path.to_string())?);
    Ok(())
}

/// Makes a UUID of a string that is none: always the same of the same text. What is no string is left to the rules.
fn identify(node: &mut Node<'_>) {
    let Some(Ok(text)) = node.text().map(serde_json::from_str::<Cow<'_, str>>) else { return };
    if !text.is_empty() && ids::read(&text).is_none() {
        let id = ids::derive(IDENTIFIERS, &text).to_string();
        *node = Node::string(&id);
    }
}

fn not_hashed(path: &Path, json: &str) -> Violation {
    let message = format!("found {}, expected a string, a number or a boolean to hash", quote(json));
    violation(path.to_string(), "wrong_type", message)
}

/// Cuts a string. What is none is left to the schema.
fn truncate(node: &mut Node<'_>, chars: usize) {
    let Some(json) = node.text().filter(|json| json.starts_with('"')) else { return };
    // A string of so few bytes has no more characters.
    if json.len() <= chars.saturating_add(2) {
        return;
    }
    let Ok(text) = serde_json::from_str::<Cow<'_, str>>(json) else { return };
    if let Some((at, _)) = text.char_indices().nth(chars) {
        let cut = Node::string(text.get(..at).unwrap_or_default());
        *node = cut;
    }
}

/// Brings a number into limits. What is none is left to the schema.
fn clamp(node: &mut Node<'_>, Limits { min, max }: &Limits) {
    let Some(value) = node.text().and_then(|json| json.parse::<f64>().ok()) else { return };
    let limit = |limit: &Option<Number>| limit.as_ref().and_then(Number::as_f64);
    let bound = match (limit(min), limit(max)) {
        (Some(least), _) if value < least => min,
        (_, Some(most)) if value > most => max,
        _ => return,
    };
    if let Some(bound) = bound {
        *node = Node::Text(Cow::Owned(bound.to_string()));
    }
}

/// Writes a number as a time. What is none, or is too far away, is left to the rules.
fn tell_time(node: &mut Node<'_>, unit: Unit) {
    if let Some(time) = node.text().and_then(|json| epoch::rfc3339(json, unit)) {
        *node = Node::string(&time);
    }
}

/// Makes a row of each item: the event with the item where the array was, and an ID of its own.
fn split<'a>(mut event: Object<'a>, path: &Path) -> Result<Done<'a>, Violation> {
    let wrong =
        |found: &str, code| violation(path.to_string(), code, format!("found {found}, expected an array"));
    let array = match event.remove(path.names()) {
        Some(Node::Text(array)) if array.starts_with('[') => array,
        Some(Node::Text(other)) => return Err(wrong(&quote(&other), "wrong_type")),
        Some(Node::Open(_)) => return Err(wrong("an object", "wrong_type")),
        None => return Err(wrong("nothing", "missing")),
    };
    let items: Vec<&RawValue> = serde_json::from_str(&array).map_err(|_| wrong("no JSON", "wrong_type"))?;
    if items.len() > MAX_ROWS {
        let message = format!("found {} items, expected at most {MAX_ROWS}", items.len());
        return Err(violation(path.to_string(), "too_many_items", message));
    }
    let mut rows = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let mut row = event.clone();
        set(&mut row, path, Node::Text(Cow::Owned(item.get().to_owned())))?;
        let field = ["event_id".to_owned()];
        let id = row.get(&field).and_then(|json| id_of_row(&json, index));
        if let (Some(id), Some(node)) = (id, row.get_mut(&field)) {
            *node = Node::string(&id);
        }
        rows.push(row);
    }
    match rows.is_empty() {
        true => Ok(Done::Discarded(NO_ITEMS.to_owned())),
        false => Ok(Done::Rows(rows)),
    }
}

/// Returns the ID of a row, which is the same whenever the entry comes. What is no ID is left to the default rules.
fn id_of_row(json: &str, index: usize) -> Option<String> {
    let id = ids::read(serde_json::from_str::<Cow<'_, str>>(json).ok()?.as_ref())?;
    Some(ids::derive(id, &index.to_string()).to_string())
}
