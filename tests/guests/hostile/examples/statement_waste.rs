//! Runs four thousand statements and panics, so that its neighbours in the batch are asked again; they run one each.
//! What a call ran that gave no verdicts is undone, and does not count for the statements that a batch may run.
#![expect(clippy::panic, reason = "it is what the guest is for")]

use hostile::capabilities::store;
use hostile::{Entry, Guest, Verdict};

/// What the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        if batch.iter().any(hostile::is_provoking) {
            let ran = (0..4_000).map_while(|_| store::query("one", &[]).ok()).count();
            panic!("ran {ran}");
        }
        batch.iter().map(|entry| hostile::tell_refusal(entry, store::query("one", &[]))).collect()
    }
}

hostile::export!(Component);
