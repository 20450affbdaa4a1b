//! Provides what the hostile guests share. Each guest is one file of `examples`, and obeys the
//! default rules until an entry has the field `provoke`.

use std::fmt::Debug;

pub use sluicegate_kit::bindings::text::{self as bindings, Guest};
use sluicegate_kit::read_event;
pub use sluicegate_kit::{Entry, Event, Verdict, Violation};

/// Holds what the standard library does not show of WASI.
pub mod wasi {
    pub use generated::wasi::clocks::monotonic_clock;
    pub use generated::wasi::config::store as config;
    pub use generated::wasi::io::poll;
    pub use generated::wasi::random::random;

    mod generated {
        #![allow(missing_docs, reason = "generated")]
        wit_bindgen::generate!({ path: "wit", world: "sluicegate:hostile/more", generate_all });
    }
}

/// Holds what the world `pipeline` has beyond `validator`.
pub mod capabilities {
    pub use generated::sluicegate::guest::{metrics, store, stream};

    mod generated {
        #![allow(missing_docs, reason = "generated")]
        wit_bindgen::generate!({
            path: "../../../wit",
            inline: "
                package sluicegate:hostile;
                world capabilities {
                    import sluicegate:guest/%stream@0.1.0;
                    import sluicegate:guest/store@0.1.0;
                    import sluicegate:guest/metrics@0.1.0;
                }
            ",
            generate_all,
            with: { "sluicegate:guest/types@0.1.0": sluicegate_kit::bindings::text::sluicegate::guest::types },
        });
    }

    /// Returns the stream that the guest may publish to, from its setting `stream`.
    pub fn granted_stream() -> String {
        super::wasi::config::get("stream").ok().flatten().unwrap_or_default()
    }
}

/// Makes a type the export of the component, whatever it does: the kit would see to it that there is a verdict for each entry.
#[macro_export]
macro_rules! export {
    ($guest:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::export!($guest with_types_in $crate::bindings);
    };
}

/// Makes a component of a function from an entry with the field `provoke` to its verdict, if any.
#[macro_export]
macro_rules! provoked {
    ($misbehave:expr) => {
        pub struct Component;

        impl $crate::Guest for Component {
            fn process(batch: Vec<$crate::Entry>) -> Vec<$crate::Verdict> {
                const MISBEHAVE: fn(&$crate::Entry) -> $crate::Verdict = $misbehave;
                let judge =
                    |entry| if $crate::is_provoking(entry) { MISBEHAVE } else { $crate::judge }(entry);
                batch.iter().map(judge).collect()
            }
        }

        $crate::export!(Component);
    };
}

/// Judges an entry by the default rules.
pub fn judge(entry: &Entry) -> Verdict {
    read_event(entry).map_or_else(Verdict::from, Verdict::Accept)
}

/// Returns whether the entry makes a guest misbehave.
pub fn is_provoking(entry: &Entry) -> bool {
    provocation(entry).is_some()
}

/// Returns how much the entry asks for, or `default` if its text is no number.
pub fn amount(entry: &Entry, default: usize) -> usize {
    provocation(entry).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn provocation(entry: &Entry) -> Option<&str> {
    entry.fields.iter().find(|(name, _)| name == "provoke").map(|(_, value)| value.as_str())
}

/// Accepts the entry's own event, but changed.
pub fn accept_but(entry: &Entry, change: impl FnOnce(Event) -> Event) -> Verdict {
    match judge(entry) {
        Verdict::Accept(event) => Verdict::Accept(change(event)),
        other => other,
    }
}

/// Accepts the entry's own event, with what was found out as its properties, a JSON object.
pub fn tell(entry: &Entry, found: String) -> Verdict {
    accept_but(entry, |event| Event { properties: Some(found), ..event })
}

/// Rejects the entry with the host's own words, if the host refused.
pub fn tell_refusal<T, E: Debug>(entry: &Entry, answer: Result<T, E>) -> Verdict {
    match answer {
        Ok(_) => judge(entry),
        Err(error) => Verdict::Reject(vec![violation("refused", format!("{error:?}"))]),
    }
}

/// Makes a violation of the entry as a whole.
pub fn violation(code: &str, message: String) -> Violation {
    Violation { path: String::new(), code: code.to_owned(), message }
}
