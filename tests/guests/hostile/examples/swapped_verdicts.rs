//! Returns the verdicts in the wrong order. Nobody can tell, but each entry of the batch has one
//! verdict, and no other entry has any.

use hostile::{Entry, Guest, Verdict};

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = batch.iter().map(hostile::judge).collect();
        if batch.iter().any(hostile::is_provoking) {
            verdicts.reverse();
        }
        verdicts
    }
}

hostile::export!(Component);
