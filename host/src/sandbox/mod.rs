//! wasmtime: compiles components, calls them within limits. WIT types never leave this folder.
//!
//! - [`engine`]: how components are compiled, and the clock that stops them
//! - [`limits`]: what an instance may use
//! - [`turns`]: who may run a guest now
//! - [`wasi`]: the little of WASI that a guest sees
//! - [`guest`]: a compiled component and its call, once a batch
//!
//! Every batch gets an instance of its own, which is thrown away after it
//! (invariants 4 and 5). That costs about 20 µs a batch and buys that no state,
//! and no damage, passes from one batch to the next.

mod engine;
mod guest;
mod limits;
mod turns;
mod wasi;

pub use engine::Sandbox;
pub use guest::Guest;
pub use limits::Limits;

/// Why a component is refused, before a byte of it runs.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Too large to compile.
    #[error("the file has {found} bytes; wanted at most {COMPONENT_MAX_BYTES}")]
    TooLarge {
        /// The file's size.
        found: usize,
    },
    /// Not WebAssembly, or not whole.
    #[error("no WebAssembly component: it begins with {found}; wanted `\\0asm` and a component's version")]
    NotWasm {
        /// The first bytes.
        found: String,
    },
    /// A core module.
    #[error(
        "a core module, not a component: build it for wasm32-wasip2, or wrap it by `wasm-tools component new`"
    )]
    CoreModule,
    /// It does not compile: damaged, half-written or beyond the limits.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// It wants something that it is not given.
    #[error(
        "an import that is not granted: {0}; the world `sluicegate:guest/validator` may import WASI 0.2 only"
    )]
    Imports(String),
    /// It does not offer what the service calls.
    #[error("not of the world `sluicegate:guest/validator@0.1.0`: {0}")]
    World(String),
}

/// The largest component that is compiled. Python's and JavaScript's runtimes
/// make components of 12 to 18 MB.
pub const COMPONENT_MAX_BYTES: usize = 64 << 20;
