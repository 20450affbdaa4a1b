//! The harness for guests that export `handler`.

use std::process::ExitCode;

use guest_harness::bindings::sluicegate::guest::{handler, types};
use guest_harness::{Guest, Unreadable};

struct Text;

impl Guest for Text {
    type Entry = types::Entry;

    fn entry(id: types::EntryId, fields: Vec<(String, Vec<u8>)>) -> Result<types::Entry, Unreadable> {
        let fields = fields.into_iter().map(|(name, value)| match String::from_utf8(value) {
            Ok(value) => Ok((name, value)),
            Err(error) => Err(Unreadable(name, error.utf8_error().valid_up_to())),
        });
        Ok(types::Entry { id, fields: fields.collect::<Result<_, _>>()? })
    }

    fn process(batch: &[types::Entry]) -> Vec<types::Verdict> {
        handler::process(batch)
    }
}

fn main() -> ExitCode {
    guest_harness::run::<Text>()
}
