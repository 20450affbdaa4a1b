//! Letters, causes and jobs as JSON, for the command line and the admin API alike.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::rules::view::second;
use crate::store::{Cause, Job, Letter};
use sluicegate_verdicts::Violation;

/// What is told of the data of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disclosure {
    /// Nothing: places and codes of violations, which are names, and no more.
    Names,
    /// The messages of violations, which may quote values.
    Messages,
    /// The messages, and the entry's fields.
    All,
}

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub struct LetterView {
    id: i64,
    tenant: String,
    /// The stream that the entry came from.
    stream: String,
    entry_id: String,
    /// Why it was not stored: `rejected`, `undecodable`, `trapped`, …
    #[schema(example = "rejected")]
    reason: String,
    /// Of a list, the first ten of each letter.
    violations: Vec<ViolationView>,
    /// How often the entry had been delivered.
    deliveries: i64,
    /// The component that judged it, by the first digits of its digest.
    component: String,
    /// The version of the rules, by its first digits.
    version: Option<String>,
    #[schema(format = DateTime)]
    recorded_at: String,
    /// What became of it in its last replay; `stored`, `duplicate` and `discarded` settle it.
    replay_outcome: Option<String>,
    #[schema(format = DateTime)]
    replayed_at: Option<String>,
    /// The entry as it came; null when it was deleted before it was read. Only where one letter is shown, to those who may
    /// see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<FieldView>>)]
    fields: Option<Option<Vec<FieldView>>>,
    /// What the caller's role may not see.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    withheld: &'static [&'static str],
}

#[derive(Debug, Serialize, ToSchema)]
struct ViolationView {
    /// The place in the entry, empty for the whole of it.
    path: String,
    code: String,
    /// Missing where the caller's role may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// A field of an entry. What is no UTF-8 is in base64, under the name that says so.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct FieldView {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// What letters have in common.
#[derive(Debug, Serialize, ToSchema)]
pub struct CauseView {
    letters: i64,
    tenant: String,
    stream: String,
    reason: String,
    /// The place in the entry, empty for the whole of it.
    path: Option<String>,
    code: Option<String>,
    /// The component that judged them, by the first digits of its digest.
    component: String,
    /// The version of the rules, by the first digits of its digest, if it is known.
    version: Option<String>,
    #[schema(format = DateTime)]
    first: String,
    #[schema(format = DateTime)]
    last: String,
}

/// Long work on a tenant's letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    id: i64,
    tenant: String,
    /// `replay` or `purge`.
    #[schema(example = "replay")]
    kind: String,
    /// What was asked for.
    #[schema(value_type = Object)]
    request: Value,
    /// Who has asked for it.
    by: String,
    /// `queued`, `running`, `done`, `failed` or `cancelled`.
    #[schema(example = "running")]
    state: &'static str,
    #[schema(format = DateTime)]
    asked_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    ended_at: Option<String>,
    /// The replica that works on it, or did so last.
    replica: Option<String>,
    /// The letters done.
    done: u64,
    /// The letters that it is about; null until that is known.
    in_total: Option<u64>,
    /// How many letters ended how, or would; 50 ways at most by name.
    outcomes: BTreeMap<String, u64>,
    /// What it does, or waits for.
    note: Option<String>,
    error: Option<String>,
}

impl LetterView {
    pub fn new(letter: &Letter, disclosure: Disclosure) -> Self {
        let has_messages = disclosure != Disclosure::Names;
        let violation = |Violation { path, code, message }: &Violation| ViolationView {
            path: path.clone(),
            code: code.clone(),
            message: has_messages.then(|| message.clone()),
        };
        let fields =
            || letter.fields.as_ref().map(|fields| fields.chunks(2).filter_map(FieldView::new).collect());
        Self {
            id: letter.id,
            tenant: letter.tenant.clone(),
            stream: letter.stream.clone(),
            entry_id: letter.entry_id.clone(),
            reason: letter.reason.clone(),
            violations: letter.violations.iter().map(violation).collect(),
            deliveries: letter.deliveries,
            component: letter.component.clone(),
            version: letter.version.clone(),
            recorded_at: second(letter.recorded_at),
            replay_outcome: letter.replay_outcome.clone(),
            replayed_at: letter.replayed_at.map(second),
            fields: (disclosure == Disclosure::All).then(fields),
            withheld: if has_messages { &[] } else { &["fields", "violations.message"] },
        }
    }
}

impl FieldView {
    fn new(pair: &[Vec<u8>]) -> Option<Self> {
        let [name, value] = pair else { return None };
        let read = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(bytes))),
        };
        let ((name, name_base64), (value, value_base64)) = (read(name), read(value));
        Some(Self { name, name_base64, value, value_base64 })
    }
}

impl CauseView {
    pub fn new(cause: &Cause) -> Self {
        Self {
            letters: cause.letters,
            tenant: cause.tenant.clone(),
            stream: cause.stream.clone(),
            reason: cause.reason.clone(),
            path: cause.path.clone(),
            code: cause.code.clone(),
            component: cause.component.clone(),
            version: cause.version.clone(),
            first: second(cause.first),
            last: second(cause.last),
        }
    }
}

impl JobView {
    pub fn new(job: &Job) -> Self {
        Self {
            id: job.id,
            tenant: job.tenant.clone(),
            kind: job.kind.clone(),
            request: serde_json::from_str(&job.request).unwrap_or_default(),
            by: job.author.clone(),
            state: job.state.as_str(),
            asked_at: second(job.asked_at),
            started_at: job.started_at.map(second),
            ended_at: job.ended_at.map(second),
            replica: job.replica.clone(),
            done: job.progress.done,
            in_total: job.in_total,
            outcomes: job.progress.outcomes.clone(),
            note: job.note.clone(),
            error: job.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_in_base64() {
        let view = |name: &[u8], value: &[u8]| {
            let view = FieldView::new(&[name.to_vec(), value.to_vec()]).expect("a pair");
            serde_json::to_string(&view).expect("JSON")
        };
        assert_eq!(view(b"data", b"{}"), r#"{"name":"data","value":"{}"}"#);
        assert_eq!(view(b"\xfe", b"\xff"), r#"{"name_base64":"/g==","value_base64":"/w=="}"#);
        assert_eq!(FieldView::new(&[Vec::new()]), None);
    }
}
