//! Compiles components with wasmtime and calls them within limits, in processes of their own. WIT types never leave
//! this folder.
//!
//! - [`engine`]: compiles components and makes guests of them
//! - [`cache`]: keeps what was compiled before
//! - [`code`]: holds native code, and counts the room for it
//! - [`compile`]: compiles strangers' components in a process of its own
//! - [`load`]: says why a component is refused
//! - [`interfaces`]: lists what a component imports and exports, without running it
//! - [`guest`]: calls a version of the rules, as a rule once a batch
//! - [`process`]: starts, calls and ends the worker processes, on the service's side
//! - [`channel`]: sends and receives the frames between the two sides
//! - [`worker`]: makes up the worker's side: guest code runs there and nowhere else
//! - [`world`]: names what a component imports and exports of the contract
//! - [`preinitialise`]: makes a component of the generic one and what its initialiser leaves behind
//! - [`limits`]: bounds what a guest may use
//! - [`print_log`]: logs what guests print
//! - [`permit`]: waits for a permit on a thread that may block
//!
//! Every call of a guest gets an instance of its own, which is thrown away after it (invariants 4 and 5). That costs
//! about 20 µs a batch. In return, no state and no damage passes from one batch to the next.

mod cache;
mod channel;
mod code;
pub mod compile;
mod engine;
mod guest;
mod interfaces;
mod limits;
mod load;
mod permit;
pub mod preinitialise;
mod print_log;
mod process;
pub mod worker;
mod world;

pub use cache::check_cache;
pub use engine::{Sandbox, SandboxEngine, Source};
pub use guest::Guest;
pub use interfaces::{Interfaces, Standing};
pub use limits::Limits;
pub use load::LoadError;
pub use process::children_time;
pub use world::World;
