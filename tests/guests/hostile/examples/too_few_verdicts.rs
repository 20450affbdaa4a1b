//! Leaves out a verdict. The host counts them: an entry that is alone in its batch must have one.

use hostile::{Entry, Guest, Verdict};

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let is_provoked = batch.iter().any(hostile::is_provoking);
        batch.iter().map(hostile::judge).skip(usize::from(is_provoked)).collect()
    }
}

hostile::export!(Component);
