//! Provides the default rules as a library, of which guest components are made.
//!
//! A guest is a `cdylib` that implements [`Guest`] and names its type to [`export!`];
//! `guest/default` is the shortest one. A guest with rules of its own calls [`judge`] first, and
//! looks at the events that [`judge`] accepts; `guest/strict` shows how.
//!
//! The rules are here, and not in `guest/default`, because only the crate that becomes the
//! component may export: two exports in one component would clash. So they compile natively too,
//! for tests and benchmarks.
//!
//! The modules follow an entry's way: [`judge`], `fields` (which form the entry has, and its five
//! fields in it), `event` (what each field must be), `jsonb` (what the column `properties` can
//! hold), `violation` (how a refusal is told).
#![warn(missing_docs)]

mod event;
mod fields;
mod jsonb;
mod violation;

pub use bindings::exports::sluicegate::guest::handler::Guest;
pub use bindings::sluicegate::guest::types::{Entry, EntryId, Event, Verdict, Violation};
pub use violation::{Code, quote, violation};

/// Holds what wit-bindgen makes of `wit/`. It is public only because [`export!`] expands to paths
/// into it: use the names at the root.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "validator",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        default_bindings_module: "guest_rules::bindings",
    });
}

/// Makes a type that implements [`Guest`] the export of the component.
///
/// It does so only for wasm: elsewhere a linker takes the export's name,
/// `sluicegate:guest/handler@0.1.0#process`, for a symbol with a version.
#[macro_export]
macro_rules! export {
    ($guest:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::export!($guest);
    };
}

/// Judges each entry of a batch by the default rules, in order.
#[must_use]
pub fn process(batch: &[Entry]) -> Vec<Verdict> {
    batch.iter().map(judge).collect()
}

/// Judges one entry by the default rules: accepts its event, or rejects the entry with everything
/// that is wrong with it.
///
/// The entry has one field `data`, a JSON object, or flat fields with the names of the object's
/// members. If `data` is there, flat fields are ignored. Unknown names are ignored in either form.
///
/// | field | what it must be |
/// |---|---|
/// | `event_id` | a UUID, 36 characters with hyphens, of either case |
/// | `event_type` | a string that is not empty |
/// | `user_id` | a string that is not empty |
/// | `timestamp` | RFC 3339 with an offset; cut to microseconds, not rounded |
/// | `properties` | a JSON object that `jsonb` can hold; may be left out |
///
/// No field may be given twice, and none may be null. The event's properties
/// are the producer's text, byte for byte, without the whitespace around it.
#[must_use]
pub fn judge(entry: &Entry) -> Verdict {
    judge_further(entry, |_, _| Vec::new())
}

/// Judges one entry like [`judge`], and has its properties looked at further.
///
/// `further` gets the event's type and its properties, a JSON object in text form, as soon as these two are sound. The
/// violations that it returns are added to those of the other fields, so that the entry is rejected with everything
/// that is wrong with it.
#[must_use]
pub fn judge_further(entry: &Entry, further: impl FnOnce(&str, Option<&str>) -> Vec<Violation>) -> Verdict {
    let judged = fields::read(entry)
        .map_err(|violation| vec![violation])
        .and_then(|fields| event::check(&fields, further));
    match judged {
        Ok(event) => Verdict::Accept(event),
        Err(violations) => Verdict::Reject(violations),
    }
}

#[cfg(test)]
mod tests;
