//! Makes the rules of [`guest_rules`] a component, with nothing added: the default guest.

use guest_rules::{Entry, Guest, Verdict};

/// Implements what the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        guest_rules::process(&batch)
    }
}

guest_rules::export!(Component);
