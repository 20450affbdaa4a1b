//! An entry as a server-sent event, cut to a bounded size.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::SecondsFormat;
use serde::Serialize;

use crate::batch::{Ended, Judged};
use crate::text::printable_json;
use sluicegate_verdicts::{Event, Field, Outcome, Violation};

/// The largest event.
pub(super) const MAX_BYTES: usize = 8 << 10;
/// The texts that an event shows, in bytes. A byte can become six in JSON, so it is tried with less
/// where that makes the event too large.
const TEXT_BYTES: [usize; 4] = [7_000, 3_500, 1_750, 875];
/// What an item of a list takes beside its texts.
const ITEM_BYTES: usize = 24;

/// Says that the stream is alive.
pub(super) const ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// The entries that a watcher was not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct LeftOut {
    /// Because it reads too slowly.
    pub(super) slow: u64,
    /// Because they were more than it may be given in a second.
    pub(super) rate: u64,
}

/// Tells what was left out.
pub(super) fn dropped(left_out: LeftOut) -> Bytes {
    let json = serde_json::to_string(&left_out).unwrap_or_default();
    format!("event: dropped\ndata: {json}\n\n").into()
}

/// An entry, how it ended and why.
#[derive(Serialize)]
struct EntryView<'a> {
    entry: String,
    outcome: Ended,
    /// Why it became a dead letter, or was discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<ViolationView<'a>>,
    #[serde(flatten)]
    payload: Option<Payload<'a>>,
    /// Whether a text or the end of a list is missing.
    truncated: bool,
}

#[derive(Serialize)]
struct ViolationView<'a> {
    path: &'a str,
    code: &'a str,
    /// It can quote what the entry holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// What an entry holds, and what was made of it.
#[derive(Serialize)]
struct Payload<'a> {
    deliveries: u64,
    /// Names and values, in the order of the producer; null if the entry was deleted.
    fields: Option<Vec<[Cow<'a, str>; 2]>>,
    /// The rows.
    events: Vec<EventView<'a>>,
}

#[derive(Serialize)]
struct EventView<'a> {
    event_id: String,
    time: String,
    event_type: &'a str,
    user_id: &'a str,
    /// A JSON object as text.
    properties: Option<&'a str>,
}

/// Shows an entry that is committed.
pub(super) fn entry(judged: &Judged, ended: Ended, with_payload: bool) -> Bytes {
    let id = judged.entry.id;
    let event = |bytes: usize| {
        let json =
            serde_json::to_string(&EntryView::new(judged, ended, with_payload, bytes)).unwrap_or_default();
        format!("event: entry\nid: {id}\ndata: {}\n\n", printable_json(&json))
    };
    let [most, less @ ..] = TEXT_BYTES;
    let mut shown = event(most);
    for bytes in less {
        if shown.len() <= MAX_BYTES {
            break;
        }
        shown = event(bytes);
    }
    shown.into()
}

impl<'a> EntryView<'a> {
    /// Shows texts of so many bytes in all.
    fn new(judged: &'a Judged, ended: Ended, with_payload: bool, bytes: usize) -> Self {
        let mut text = Text { left: bytes / 4, is_cut: false };
        let (reason, violations): (_, &[Violation]) = match &judged.outcome {
            Outcome::Store(_) => (None, &[]),
            Outcome::DeadLetter(reason, violations) => (Some(reason.as_str()), violations),
            Outcome::Discard(reason) => (Some(text.cut(reason)), &[]),
        };
        let violations = text.list(violations, |text, violation| ViolationView {
            path: text.cut(&violation.path),
            code: text.cut(&violation.code),
            message: with_payload.then(|| text.cut(&violation.message)),
        });
        let payload = with_payload.then(|| {
            let mut of_fields = Text { left: bytes * 3 / 8, is_cut: false };
            let fields = judged.entry.fields.as_deref();
            let fields = fields.map(|fields| {
                of_fields
                    .list(fields, |text, (name, value): &Field| [text.cut_bytes(name), text.cut_bytes(value)])
            });
            let mut of_events = Text { left: bytes * 3 / 8, is_cut: false };
            let events = match &judged.outcome {
                Outcome::Store(events) => of_events.list(events.as_slice(), EventView::new),
                Outcome::DeadLetter(..) | Outcome::Discard(_) => Vec::new(),
            };
            text.is_cut |= of_fields.is_cut || of_events.is_cut;
            Payload { deliveries: judged.entry.deliveries, fields, events }
        });
        Self {
            entry: judged.entry.id.to_string(),
            outcome: ended,
            reason,
            version: judged.version.digest.to_hex(),
            violations,
            payload,
            truncated: text.is_cut,
        }
    }
}

impl<'a> EventView<'a> {
    fn new(text: &mut Text, event: &'a Event) -> Self {
        text.left = text.left.saturating_sub(3 * ITEM_BYTES);
        Self {
            event_id: event.event_id.to_string(),
            time: event.time.to_rfc3339_opts(SecondsFormat::Micros, true),
            event_type: text.cut(&event.event_type),
            user_id: text.cut(&event.user_id),
            properties: event.properties.as_deref().map(|properties| text.cut(properties)),
        }
    }
}

/// Cuts texts, so that they have no more bytes together than this allows.
struct Text {
    left: usize,
    is_cut: bool,
}

impl Text {
    /// Returns as many whole characters as fit.
    fn cut<'a>(&mut self, text: &'a str) -> &'a str {
        let start = text.get(..text.floor_char_boundary(self.left)).unwrap_or_default();
        self.left -= start.len();
        self.is_cut |= start.len() < text.len();
        start
    }

    /// Does the same for bytes. What is not UTF-8 becomes a replacement character.
    fn cut_bytes<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, str> {
        let start = bytes.get(..self.left).unwrap_or(bytes);
        self.is_cut |= start.len() < bytes.len();
        match String::from_utf8_lossy(start) {
            Cow::Borrowed(text) => Cow::Borrowed(self.cut(text)),
            Cow::Owned(text) => Cow::Owned(self.cut(&text).to_owned()),
        }
    }

    /// Returns as many items as there is room for.
    fn list<'a, T, V>(&mut self, items: &'a [T], mut view: impl FnMut(&mut Self, &'a T) -> V) -> Vec<V> {
        let mut views = Vec::new();
        for item in items {
            if self.left < ITEM_BYTES {
                self.is_cut = true;
                break;
            }
            self.left -= ITEM_BYTES;
            views.push(view(self, item));
        }
        views
    }
}
