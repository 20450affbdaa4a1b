//! Runs four thousand statements and panics, so that its neighbours are asked again and run one
//! each. Statements of a call that gives no verdicts are undone, and do not count for the batch.
#![expect(clippy::panic, reason = "it is what the guest is for")]

use hostile::capabilities::store;
use hostile::{Entry, Guest, Verdict};

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
