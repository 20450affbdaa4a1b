//! Where two rows differ.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use sluicegate_verdicts::format::{OutcomeView, RowView, time_text};

/// The most places of an entry that are told.
const MAX_PLACES: usize = 50;
/// The most characters of a value that are told.
const MAX_VALUE_CHARS: usize = 120;

/// A place where the rows of an entry differ.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Change {
    /// Such as `properties.price`, or `[1].user_id` of several rows.
    pub(super) path: String,
    /// The value as JSON, or nothing where it lacks.
    pub(super) old: Option<String>,
    pub(super) new: Option<String>,
}

/// Returns where the rows of two outcomes differ, if both have rows. JSON is compared as `jsonb` has it: the order of keys
/// does not count, digits do.
pub(super) fn changes(old: &OutcomeView, new: &OutcomeView) -> Option<Vec<Change>> {
    let (old, new) = (rows(old)?, rows(new)?);
    let mut changes = Changes(Vec::new());
    if old.len() != new.len() {
        changes.push("rows", Some(old.len().to_string()), Some(new.len().to_string()));
        return Some(changes.0);
    }
    for (i, (before, after)) in old.iter().zip(new).enumerate() {
        let place = if old.len() == 1 { String::new() } else { format!("[{i}].") };
        changes.row(&place, before, after);
    }
    Some(changes.0)
}

fn rows(view: &OutcomeView) -> Option<&[RowView]> {
    match view {
        OutcomeView::Accept(row) => Some(std::slice::from_ref(row)),
        OutcomeView::Expand(rows) => Some(rows),
        _ => None,
    }
}

struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, path: &str, old: Option<String>, new: Option<String>) {
        if self.0.len() < MAX_PLACES {
            self.0.push(Change { path: path.to_owned(), old, new });
        }
    }

    fn row(&mut self, place: &str, old: &RowView, new: &RowView) {
        let quoted = |text: &str| shown(&serde_json::Value::from(text).to_string());
        let time = |micros: i64| time_text(micros).unwrap_or_else(|| micros.to_string());
        let texts = [
            ("event_id", &old.event_id, &new.event_id),
            ("event_type", &old.event_type, &new.event_type),
            ("user_id", &old.user_id, &new.user_id),
        ];
        for (column, old, new) in texts.into_iter().filter(|(_, old, new)| old != new) {
            self.push(&format!("{place}{column}"), Some(quoted(old)), Some(quoted(new)));
        }
        if old.time != new.time {
            self.push(&format!("{place}time"), Some(time(old.time)), Some(time(new.time)));
        }
        let (path, old, new) = (format!("{place}properties"), &old.properties, &new.properties);
        match (old.as_deref().map(raw), new.as_deref().map(raw)) {
            (Some(Some(old)), Some(Some(new))) => self.json(path, old, new),
            _ if old == new => {}
            (old, new) => {
                let text = |raw: Option<Option<&RawValue>>| raw.flatten().map(|raw| shown(raw.get()));
                self.push(&path, text(old), text(new));
            }
        }
    }

    /// Compares JSON that was checked before: it is not so deep that this would overflow the stack.
    fn json(&mut self, path: String, old: &RawValue, new: &RawValue) {
        if old.get() == new.get() {
            return;
        }
        type Members<'a> = BTreeMap<String, &'a RawValue>;
        if let (Some(old), Some(new)) = (parse::<Members<'_>>(old), parse::<Members<'_>>(new)) {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                self.both(format!("{path}.{name}"), old.get(name).copied(), new.get(name).copied());
            }
            return;
        }
        if let (Some(old), Some(new)) = (parse::<Vec<&RawValue>>(old), parse::<Vec<&RawValue>>(new)) {
            for i in 0..old.len().max(new.len()) {
                self.both(format!("{path}[{i}]"), old.get(i).copied(), new.get(i).copied());
            }
            return;
        }
        let is_same_text =
            matches!((parse::<String>(old), parse::<String>(new)), (Some(old), Some(new)) if old == new);
        if !is_same_text {
            self.push(&path, Some(shown(old.get())), Some(shown(new.get())));
        }
    }

    fn both(&mut self, path: String, old: Option<&RawValue>, new: Option<&RawValue>) {
        match (old, new) {
            (Some(old), Some(new)) => self.json(path, old, new),
            (old, new) => self.push(&path, old.map(|old| shown(old.get())), new.map(|new| shown(new.get()))),
        }
    }
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

fn parse<'a, T: serde::Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn shown(json: &str) -> String {
    match json.char_indices().nth(MAX_VALUE_CHARS) {
        None => json.to_owned(),
        Some((end, _)) => format!("{}…", json.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(properties: Option<&str>) -> OutcomeView {
        OutcomeView::Accept(RowView {
            event_id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11".to_owned(),
            time: 0,
            event_type: "a".to_owned(),
            user_id: "u".to_owned(),
            properties: properties.map(str::to_owned),
        })
    }

    fn paths(old: &str, new: &str) -> Vec<String> {
        let changes = changes(&accept(Some(old)), &accept(Some(new))).expect("rows");
        changes.into_iter().map(|change| change.path).collect()
    }

    #[test]
    fn only_what_postgres_would_hold_differently_is_a_change() {
        assert_eq!(paths(r#"{"a":1,"b":"ü"}"#, r#"{"b":"\u00fc","a":1}"#), [""; 0]);
        assert_eq!(paths(r#"{"a":0,"a":1}"#, r#"{"a":1}"#), [""; 0], "the last of several counts");
        assert_eq!(paths(r#"{"a":1.0}"#, r#"{"a":1.00}"#), ["properties.a"]);
        assert_eq!(
            paths(r#"{"a":[1,{"b":2}],"c":null}"#, r#"{"a":[1,{"b":3},4],"d":{}}"#),
            ["properties.a[1].b", "properties.a[2]", "properties.c", "properties.d"]
        );
        assert_eq!(paths(r#"{"a":{}}"#, r#"{"a":[]}"#), ["properties.a"]);
    }

    #[test]
    fn rows_are_compared_column_by_column() {
        let OutcomeView::Accept(row) = accept(None) else { unreachable!("it accepts") };
        let other = RowView { time: 1_500_000, user_id: "v".to_owned(), ..row.clone() };
        let found = changes(&accept(Some("{}")), &OutcomeView::Accept(other.clone())).expect("rows");
        let found: Vec<_> =
            found.iter().map(|change| (change.path.as_str(), change.new.as_deref())).collect();
        let wanted =
            [("user_id", Some("\"v\"")), ("time", Some("1970-01-01T00:00:01.500000Z")), ("properties", None)];
        assert_eq!(found, wanted);
        let several = changes(
            &OutcomeView::Expand(vec![row.clone(), row.clone()]),
            &OutcomeView::Expand(vec![row.clone(), other]),
        );
        assert_eq!(
            several.expect("rows").first().map(|change| change.path.clone()),
            Some("[1].user_id".to_owned())
        );
        let fewer = changes(&OutcomeView::Expand(vec![row.clone(), row]), &accept(None)).expect("rows");
        assert_eq!(fewer, [Change { path: "rows".into(), old: Some("2".into()), new: Some("1".into()) }]);
        assert_eq!(changes(&accept(None), &OutcomeView::Discard("bot".into())), None);
    }
}
