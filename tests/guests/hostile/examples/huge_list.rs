//! Returns a million verdicts. Stopped by GUEST_OUTPUT, before they are counted.

use hostile::{Entry, Guest, Verdict};

/// What the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let is_provoked = batch.iter().any(hostile::is_provoking);
        let surplus = if is_provoked { 1_000_000 } else { 0 };
        let verdicts = batch.iter().map(hostile::judge);
        verdicts.chain((0..surplus).map(|_| Verdict::Discard(String::new()))).collect()
    }
}

hostile::export!(Component);
