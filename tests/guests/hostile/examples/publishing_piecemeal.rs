//! Fails until each entry of a batch is alone, and publishes for each as much as it may. What a
//! batch may publish, in however many calls, stops it.

use hostile::capabilities::{granted_stream, stream};
use hostile::{Entry, Guest, Verdict};

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        match batch.as_slice() {
            [entry] if hostile::is_provoking(entry) => vec![publish(entry)],
            _ if batch.iter().any(hostile::is_provoking) => Vec::new(),
            _ => batch.iter().map(hostile::judge).collect(),
        }
    }
}

hostile::export!(Component);

fn publish(entry: &Entry) -> Verdict {
    let (stream, fields) = (granted_stream(), [("data".to_owned(), "spam".to_owned())]);
    let answers = (0..hostile::amount(entry, 4_000)).map(|_| stream::publish(&stream, &fields));
    hostile::tell_refusal(entry, answers.collect::<Result<(), _>>())
}
