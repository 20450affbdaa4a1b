//! Returns the key of its neighbour in the batch, in whose stead it would be stored. It can steal
//! only from itself, since each tenant has its own batches and its own table.

use hostile::{Entry, Event, Guest, Verdict};

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let neighbours = batch.iter().skip(1).chain(batch.first());
        batch.iter().zip(neighbours).map(|(entry, neighbour)| steal(entry, neighbour)).collect()
    }
}

fn steal(entry: &Entry, neighbour: &Entry) -> Verdict {
    match (hostile::is_provoking(entry), hostile::judge(neighbour)) {
        (true, Verdict::Accept(Event { event_id, time, .. })) => {
            hostile::accept_but(entry, |event| Event { event_id, time, ..event })
        }
        _ => hostile::judge(entry),
    }
}

hostile::export!(Component);
