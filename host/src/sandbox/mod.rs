//! wasmtime: compiles components and calls them within limits, in processes of their own. WIT types never leave this folder.
//!
//! - [`engine`]: how components are compiled and come to run
//! - [`cache`]: what was compiled before
//! - [`code`]: native code, and the room for it
//! - [`compile`]: the process in which strangers' components are compiled
//! - [`load`]: why a component is refused
//! - [`guest`]: a version of the rules, called once a batch
//! - [`process`]: the worker processes, seen from the service
//! - [`channel`]: the frames between the two
//! - [`worker`]: the worker's side: guest code runs there and nowhere else
//! - [`limits`]: what a guest may use
//! - [`print_log`]: what guests print
//! - [`permit`]: waiting on a thread that may block
//!
//! Every batch gets an instance of its own, which is thrown away after it
//! (invariants 4 and 5). That costs about 20 µs a batch and buys that no state,
//! and no damage, passes from one batch to the next.

mod cache;
mod channel;
mod code;
pub mod compile;
mod engine;
mod guest;
mod limits;
mod load;
mod permit;
mod print_log;
mod process;
pub mod worker;

pub use engine::{Sandbox, SandboxEngine, Source};
pub use guest::Guest;
pub use limits::Limits;
pub use load::LoadError;
