//! The default guest: the rules of [`guest_rules`], nothing added, as a component.

use guest_rules::{Entry, Guest, Verdict};

/// What the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        guest_rules::process(&batch)
    }
}

guest_rules::export!(Component);
