//! What rules in Rust are made with. An author implements [`Rules`] and names the type to [`export!`]:
//!
//! ```
//! use sluicegate_kit::{Document, Entry, Judged, Rules, Verdict, export, read_event};
//!
//! #[derive(Default)]
//! struct MyRules;
//!
//! impl Rules for MyRules {
//!     fn judge(&self, entry: &Entry) -> Judged {
//!         let event = read_event(entry)?;
//!         if event.event_type == "purchase" {
//!             let properties = Document::properties(event.properties.as_deref());
//!             properties.at("amount").number_where("a number greater than 0", |amount| amount > 0.0)?;
//!         }
//!         Ok(Verdict::Accept(event))
//!     }
//! }
//!
//! export!(MyRules);
//! ```
//!
//! Such a crate is a `cdylib`, built for `wasm32-wasip2`; `cargo test` tests the same code without wasm.
//!
//! | for | there is |
//! |---|---|
//! | events as the default rules read them | [`read_event`], [`read_event_with`], [`DefaultRules`] |
//! | entries of another shape | [`Document`], [`Field`] |
//! | naming all that is wrong, not only the first | [`Violations`] |
//! | values of any bytes | [`BytesEntry`], [`export_bytes!`] |
//! | settings of a type of yours, checked at load | [`settings`] |
//! | times, IDs, hashes | [`times`], [`ids`], [`hashes`] |
//! | statements, publishing, metrics, and a fake of them | [`capabilities`] |
//!
//! What a guest must not do, and what would be found out in production:
//!
//! - **A verdict depends on the entry alone.** The clock and the randomness of a guest are those of the first entry of a batch, so
//!   an ID that is made of them differs when the entry comes again, and its row is stored twice: see [`ids`].
//! - **What is made at the start is paid for by every batch**, since each one has a new instance: see [`export!`].
//! - **Times are microseconds.** What looks like another unit is refused: see [`times::epoch`].
#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;
pub mod capabilities;
mod document;
mod entry;
mod event;
mod field;
mod fields;
pub mod hashes;
pub mod ids;
mod jsonb;
mod rules;
pub mod settings;
pub mod times;
mod violation;

pub use bindings::text::sluicegate::guest::types::{BytesEntry, Entry, EntryId, Event, Verdict, Violation};
pub use document::Document;
pub use event::{DefaultRules, read_event, read_event_with};
pub use field::Field;
pub use rules::{Judged, Rules};
pub use uuid::Uuid;
pub use violation::{Code, Violations, member_path, quote, violation};
