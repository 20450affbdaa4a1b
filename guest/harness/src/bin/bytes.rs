//! The harness for guests that export `bytes-handler`.

use std::process::ExitCode;

use guest_harness::bindings::sluicegate::guest::{bytes_handler, types};
use guest_harness::{Guest, Unreadable};

struct Bytes;

impl Guest for Bytes {
    type Entry = types::BytesEntry;

    fn entry(id: types::EntryId, fields: Vec<(String, Vec<u8>)>) -> Result<types::BytesEntry, Unreadable> {
        Ok(types::BytesEntry { id, fields })
    }

    fn process(batch: &[types::BytesEntry]) -> Vec<types::Verdict> {
        bytes_handler::process(batch)
    }
}

fn main() -> ExitCode {
    guest_harness::run::<Bytes>()
}
