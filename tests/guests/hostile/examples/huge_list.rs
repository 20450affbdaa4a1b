//! Returns a million verdicts. GUEST_OUTPUT stops it before the verdicts are counted.

use hostile::{Entry, Guest, Verdict};

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
