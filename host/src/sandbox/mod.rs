//! wasmtime: compiles components, calls them within limits. WIT types never leave this folder.
//!
//! - [`engine`]: how components are compiled, and the clock that stops them
//! - [`cache`]: what was compiled before
//! - [`code`]: what comes of it, and the room for it
//! - [`compile`]: the process in which strangers' components are compiled
//! - [`load`]: why a component is refused, before a byte of it runs
//! - [`limits`]: what an instance may use
//! - [`wasi`]: the little of WASI that a guest sees
//! - [`host`]: what else it may do, as far as it is granted
//! - [`permit`]: waiting on a thread that may block
//! - [`output`]: what a guest prints
//! - [`guest`]: a compiled component and its call, once a batch
//!
//! Every batch gets an instance of its own, which is thrown away after it
//! (invariants 4 and 5). That costs about 20 µs a batch and buys that no state,
//! and no damage, passes from one batch to the next.

mod cache;
mod code;
pub mod compile;
mod engine;
mod guest;
mod host;
mod limits;
mod load;
mod output;
mod permit;
mod wasi;

pub use engine::{Sandbox, SandboxEngine, Source};
pub use guest::Guest;
pub use limits::Limits;
pub use load::LoadError;
