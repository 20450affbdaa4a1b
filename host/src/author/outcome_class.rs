//! What an outcome says, in words that many entries share: they count and group outcomes.

use std::fmt;

use sluicegate_verdicts::Violation;
use sluicegate_verdicts::format::OutcomeView;

/// The most characters of what a guest says.
const MAX_CHARS: usize = 200;

/// A kind of outcome, and what it says: `reject` and `properties.items[].price: missing`, for example.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(super) struct OutcomeClass {
    pub(super) kind: &'static str,
    pub(super) what: String,
}

impl OutcomeClass {
    /// Returns what an outcome says: each violation of a rejection, each type of its rows, or its one reason.
    pub(super) fn all(view: &OutcomeView) -> Vec<Self> {
        let whats: Vec<String> = match view {
            OutcomeView::Accept(row) => vec![row.event_type.clone()],
            OutcomeView::Expand(rows) => rows.iter().map(|row| row.event_type.clone()).collect(),
            OutcomeView::Reject(violations) => violations.iter().map(violation).collect(),
            OutcomeView::Discard(reason) => vec![reason.clone()],
            OutcomeView::Fault { reason, .. } => vec![reason.clone()],
        };
        let kind = view.kind();
        let mut classes: Vec<Self> = whats
            .into_iter()
            .map(|what| Self { kind, what: what.chars().take(MAX_CHARS).collect() })
            .collect();
        classes.sort();
        classes.dedup();
        classes
    }

    /// Returns what an outcome says, in one text.
    pub(super) fn text(view: &OutcomeView) -> String {
        let whats: Vec<String> = Self::all(view).into_iter().map(|class| class.what).collect();
        whats.join(", ").chars().take(MAX_CHARS).collect()
    }
}

impl fmt::Display for OutcomeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.what)
    }
}

fn violation(Violation { path, code, .. }: &Violation) -> String {
    match path.as_str() {
        "" => code.clone(),
        path => format!("{}: {code}", without_numbers(path)),
    }
}

/// Returns a path without the numbers of items: `items[2].price` and `items[7].price` are the same place in a schema.
pub(super) fn without_numbers(path: &str) -> String {
    let (mut text, mut is_number) = (String::with_capacity(path.len()), false);
    for c in path.chars() {
        match c {
            '[' => is_number = true,
            c if is_number && c.is_ascii_digit() => continue,
            _ => is_number = false,
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outcome_says_does_not_depend_on_the_entry() {
        let violation = |path: &str, code: &str| Violation {
            path: path.into(),
            code: code.into(),
            message: "at 7".into(),
        };
        let view = OutcomeView::Reject(vec![
            violation("items[12].price", "missing"),
            violation("items[3].price", "missing"),
            violation("", "not_json"),
            violation("a1[x2]", "bad"),
        ]);
        assert_eq!(OutcomeClass::text(&view), "a1[x2]: bad, items[].price: missing, not_json");
        assert_eq!(OutcomeClass::all(&view).len(), 3);
    }
}
