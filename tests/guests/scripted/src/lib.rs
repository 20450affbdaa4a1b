//! Returns the verdict that an entry's field `verdict` names, unchecked.
//!
//! | `verdict` | what it is made of |
//! |---|---|
//! | `accept` | fields `event_id`, `time` (microseconds), `event_type`, `user_id`, `properties` |
//! | `expand` | `count` events, their IDs counted up from `event_id`, `step` microseconds apart |
//! | `reject` | `count` violations with the fields `path`, `code`, `message` |
//! | `discard` | the field `reason` |
//! | `busy` | a discard, after as many `rounds` of a loop |
//!
//! Missing fields have values that are in order. An entry without the field `verdict` is judged by
//! the default rules.

use std::hint::black_box;

use sluicegate_kit::{Entry, Event, Judged, Rules, Verdict, Violation, export, read_event};

#[derive(Default)]
pub struct Scripted;

impl Rules for Scripted {
    fn judge(&self, entry: &Entry) -> Judged {
        Ok(match entry.field("verdict") {
            Some("accept") => Verdict::Accept(event(entry)),
            Some("expand") => {
                Verdict::Expand((0..number(entry, "count", 3)).map(|i| nth_event(entry, i)).collect())
            }
            // Not by `Violations`, which would take care of what the host must.
            Some("reject") => Verdict::Reject(vec![violation(entry); number(entry, "count", 1)]),
            Some("discard") => Verdict::Discard(text(entry, "reason", "unwanted")),
            Some("busy") => Verdict::Discard(compute(number(entry, "rounds", 1_000)).to_string()),
            _ => Verdict::Accept(read_event(entry)?),
        })
    }
}

export!(Scripted);

/// Takes time.
#[inline(never)]
fn compute(rounds: u32) -> u32 {
    (0..rounds).fold(1, |sum, round| black_box(sum.wrapping_mul(31) ^ round))
}

fn text(entry: &Entry, name: &str, default: &str) -> String {
    entry.field(name).unwrap_or(default).to_owned()
}

fn number<T: std::str::FromStr>(entry: &Entry, name: &str, default: T) -> T {
    entry.field(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn event(entry: &Entry) -> Event {
    Event {
        event_id: text(entry, "event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11"),
        time: number(entry, "time", 1_768_774_674_827_000),
        event_type: text(entry, "event_type", "test"),
        user_id: text(entry, "user_id", "nobody"),
        properties: entry.field("properties").map(str::to_owned),
    }
}

/// Returns the event with `i` added to its event ID's last twelve digits, and `i` steps later.
fn nth_event(entry: &Entry, i: u64) -> Event {
    let event = event(entry);
    let (start, end) = event.event_id.split_at_checked(24).unwrap_or((&event.event_id, ""));
    let id = u64::from_str_radix(end, 16).unwrap_or(0).wrapping_add(i);
    let time = event.time.wrapping_add_unsigned(i.wrapping_mul(number(entry, "step", 0)));
    Event { event_id: format!("{start}{id:012x}"), time, ..event }
}

fn violation(entry: &Entry) -> Violation {
    let named = |name| text(entry, name, name);
    Violation { path: named("path"), code: named("code"), message: named("message") }
}
