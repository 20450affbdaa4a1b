//! Counts its calls, to remember batches. Each has an instance of its own, and so a first call.

use std::sync::atomic::{AtomicU32, Ordering};

use hostile::{Entry, Guest, Verdict};

static CALLS: AtomicU32 = AtomicU32::new(0);

pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        let tell = |entry| hostile::tell(entry, format!("{{\"call\":{call}}}"));
        batch
            .iter()
            .map(|entry| if hostile::is_provoking(entry) { tell(entry) } else { hostile::judge(entry) })
            .collect()
    }
}

hostile::export!(Component);
