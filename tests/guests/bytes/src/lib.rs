//! Accepts entries of any bytes, and tells in `properties` which it was given: a list of pairs, each of a field's name
//! and its value in hexadecimal digits. An entry with the field `provoke` makes it panic.

use std::fmt::Write as _;

use bindings::exports::sluicegate::guest::bytes_handler::Guest;
use bindings::sluicegate::guest::types::{BytesEntry, Event, Verdict};

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "bytes-validator" });
}

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<BytesEntry>) -> Vec<Verdict> {
        batch.iter().map(judge).collect()
    }
}

#[cfg(target_family = "wasm")]
#[allow(unsafe_code, reason = "generated")]
mod exported {
    use super::{Component, bindings};

    bindings::export!(Component with_types_in bindings);
}

fn judge(entry: &BytesEntry) -> Verdict {
    #[expect(clippy::panic, reason = "this is what the entry provokes")]
    if entry.fields.iter().any(|(name, _)| name == "provoke") {
        panic!("provoked");
    }
    let given: Vec<(&str, String)> =
        entry.fields.iter().map(|(name, value)| (name.as_str(), hex(value))).collect();
    Verdict::Accept(Event {
        // The same for the same entry, whatever it is among.
        event_id: format!("{:016x}{:016x}", entry.id.milliseconds, entry.id.sequence),
        time: 1_768_774_674_827_000,
        event_type: "bytes".to_owned(),
        user_id: "nobody".to_owned(),
        properties: Some(serde_json::json!({ "given": given }).to_string()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // into a string
        text
    })
}
