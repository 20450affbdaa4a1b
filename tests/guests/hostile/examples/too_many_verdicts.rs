//! Returns a verdict for nobody. The host counts them: an entry alone in its batch must have one.

use hostile::{Entry, Guest, Verdict};

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let is_provoked = batch.iter().any(hostile::is_provoking);
        let surplus = is_provoked.then(|| Verdict::Discard("one too many".to_owned()));
        batch.iter().map(hostile::judge).chain(surplus).collect()
    }
}

hostile::export!(Component);
