//! A guest of the world `bytes-validator` in version 0.1.0. It discards each entry, and tells how many bytes its values have.

use bindings::exports::sluicegate::guest::bytes_handler::Guest;
use bindings::sluicegate::guest::types::{BytesEntry, Verdict};

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/0.1.0", world: "bytes-validator" });
}

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<BytesEntry>) -> Vec<Verdict> {
        let bytes = |entry: &BytesEntry| entry.fields.iter().map(|(_, value)| value.len()).sum::<usize>();
        batch.iter().map(|entry| Verdict::Discard(format!("{} bytes", bytes(entry)))).collect()
    }
}

#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "what wit-bindgen makes of an export")]
mod exported {
    use super::{Component, bindings};

    bindings::export!(Component with_types_in bindings);
}
