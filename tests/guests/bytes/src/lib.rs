//! Accepts entries of any bytes, and tells in `properties` which it was given: a list of pairs, each of a field's name
//! and its value in hexadecimal digits. An entry with the field `provoke` makes it panic.

use std::fmt::Write as _;

use sluicegate_kit::{BytesEntry, Event, Judged, Rules, Verdict, export_bytes};

#[derive(Default)]
pub struct Bytes;

impl Rules<BytesEntry> for Bytes {
    fn judge(&self, entry: &BytesEntry) -> Judged {
        Ok(judge(entry))
    }
}

export_bytes!(Bytes);

fn judge(entry: &BytesEntry) -> Verdict {
    #[expect(clippy::panic, reason = "this is what the entry provokes")]
    if entry.field("provoke").is_some() {
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
