//! Rules of one's own: the default ones and two more.
//!
//! - A `purchase` must have a `properties.amount`, a number greater than 0.
//! - A `heartbeat` is discarded.

use sluicegate_kit::{Document, Entry, Judged, Rules, Verdict, export, read_event};

#[derive(Default)]
pub struct MyRules;

impl Rules for MyRules {
    fn judge(&self, entry: &Entry) -> Judged {
        // The five fields, by the default rules. What is wrong with them rejects the entry.
        let event = read_event(entry)?;
        match event.event_type.as_str() {
            "heartbeat" => return Ok(Verdict::discard("heartbeat")),
            "purchase" => {
                let properties = Document::properties(event.properties.as_deref());
                properties.at("amount").number_where("a number greater than 0", |amount| amount > 0.0)?;
            }
            _ => {}
        }
        Ok(Verdict::Accept(event))
    }
}

export!(MyRules);

#[cfg(test)]
mod tests;
