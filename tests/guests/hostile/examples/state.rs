//! Counts its calls, to remember one batch in the next. Every batch has an instance of its own, so each is the first.

use std::sync::atomic::{AtomicU32, Ordering};

use hostile::{Entry, Guest, Verdict};

static CALLS: AtomicU32 = AtomicU32::new(0);

/// What the component exports.
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
