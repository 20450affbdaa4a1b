//! Says why a component is refused, before it is given any entry: what was expected, what was found, what to do.

use serde::{Deserialize, Serialize};
use wasmparser::{ElementItems, ElementKind, Parser, Payload};

use super::Limits;
use crate::judge::Fault;
use crate::retry::Retryable;
use crate::text::printable;

/// Says why a component is refused.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum LoadError {
    /// The file is too large to be compiled.
    #[error("the file has more than {limit_bytes} bytes (GUEST_COMPONENT)")]
    TooLarge {
        /// Holds `GUEST_COMPONENT`.
        limit_bytes: usize,
    },
    /// It is not WebAssembly, or not whole.
    #[error(
        "no WebAssembly component: found {found}, wanted `\\0asm` and a component's version at its beginning"
    )]
    NotWasm { found: String },
    /// It is a core module.
    #[error(
        "a core module, not a component: build it for wasm32-wasip2, or wrap it by `wasm-tools component new`"
    )]
    CoreModule,
    /// It is native code, which would run unchecked.
    #[error("native code, precompiled (`.cwasm`) or a program: hand over the component it was made from")]
    Precompiled,
    /// It does not compile: it is damaged, half-written or beyond the limits.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// It wants more than an instance may have.
    #[error("it wants more than it may have: {0}")]
    DoesNotFit(String),
    /// The file could not be read, or was another one when it was read again.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It takes more native code than a component of its size may have.
    #[error(
        "its native code, with the images of its memories, takes more than {limit_bytes} bytes: {factor} for each of the \
         component's; is there data far apart in a memory?"
    )]
    CodeTooLarge {
        limit_bytes: u64,
        /// Says how many bytes of code there may be for each byte of the component.
        factor: u64,
    },
    /// It takes more native code than there is room for.
    #[error(
        "its native code, with the images of its memories, takes {found}; wanted {share} bytes at most, and {limit} with \
         those of all guests, which take {used} now (GUEST_CODE)"
    )]
    NoRoom {
        /// Says how much it takes, as far as that is known.
        found: String,
        /// Bounds what one component may take.
        share: u64,
        /// Holds `GUEST_CODE`.
        limit: u64,
        /// Says how much the components take that are loaded.
        used: u64,
    },
    /// Something is wrong with the process that compiles, and not with the component.
    #[error("{0}")]
    Compiler(String),
    /// Somebody else ended the process that compiles.
    #[error(
        "the process that compiles was killed, by the kernel for want of memory or by somebody; a component may take \
         GUEST_COMPILE_MEMORY to compile"
    )]
    CompilerKilled,
    /// The machine let the process that compiles wait for too long.
    #[error(
        "it had {used_ms} ms of a processor in {waited_ms} ms to compile, on a busy machine; wanted {limit_ms} ms at most \
         (GUEST_COMPILE_TIME), within ten times as long, or ten seconds"
    )]
    Starved {
        /// Says how much processor time it had.
        used_ms: u128,
        /// Says how long it took by the clock.
        waited_ms: u128,
        /// Holds `GUEST_COMPILE_TIME`.
        limit_ms: u128,
    },
    /// It takes too long to compile.
    #[error("it takes more than {limit_ms} ms of a processor to compile (GUEST_COMPILE_TIME)")]
    TooSlow {
        /// Holds `GUEST_COMPILE_TIME`.
        limit_ms: u128,
    },
    /// It takes too much memory to compile.
    #[error("it takes more than {limit_bytes} bytes to compile (GUEST_COMPILE_MEMORY)")]
    CompilerMemory {
        /// Holds `GUEST_COMPILE_MEMORY`.
        limit_bytes: u64,
    },
    /// It imports something that no guest is given.
    #[error(
        "imports that are not granted: {0}; guests may import WASI 0.2, of which they see nothing, and \
         wasi:config/store: build it without the rest, or without the library that asks for it"
    )]
    Imports(String),
    /// It imports capabilities that the operator has not granted.
    #[error("imports that are not granted: {0}")]
    NotGranted(String),
    /// It does not offer what the service calls.
    #[error("of no world of `sluicegate:guest@0.1.0`: {0}")]
    World(String),
    /// The kernel lacks some of the walls around a worker's process.
    #[error(
        "this kernel lacks walls around a guest's process: {0}; give the service what they need, or accept it by GUEST_WALLS=available"
    )]
    Walls(String),
    /// The worker ended, or was ended, while it loaded the component or while the component started.
    #[error("it ended its process when it started: {0}")]
    Crashed(String),
    /// Something is wrong with the worker, and not with the component.
    #[error("no worker for it: {0}")]
    Worker(String),
    /// Its start-up code breaks a limit or traps, before any entry is there to blame.
    #[error("it does not start: {0}")]
    Start(Fault),
}

impl Retryable for LoadError {
    /// Returns whether the same component would be refused another time. It might not be if the machine was at fault.
    fn is_permanent(&self) -> bool {
        match self {
            // Processor time too grows on a busy machine.
            Self::TooSlow { .. }
            | Self::Starved { .. }
            | Self::Compiler(_)
            | Self::Worker(_)
            // Somebody else may have ended the process.
            | Self::Crashed(_)
            | Self::CompilerKilled
            | Self::NoRoom { .. }
            | Self::Unreadable(_) => false,
            Self::TooLarge { .. }
            | Self::NotWasm { .. }
            | Self::CoreModule
            | Self::Precompiled
            | Self::Compile(_)
            | Self::DoesNotFit(_)
            | Self::CodeTooLarge { .. }
            | Self::CompilerMemory { .. }
            | Self::Walls(_)
            | Self::Imports(_)
            | Self::NotGranted(_)
            | Self::World(_) => true,
            Self::Start(fault) => !matches!(fault, Fault::TimedOut { .. }),
        }
    }
}

/// Holds what is known of a component by its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    bytes: usize,
    /// Counts the elements that it keeps for its tables: an instance has all of them in the host's memory.
    passive_elements: usize,
}

impl Form {
    /// Checks whether a tenant with these limits may have it.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), LoadError> {
        if self.bytes > limits.component_bytes {
            return Err(LoadError::TooLarge { limit_bytes: limits.component_bytes });
        }
        match self.passive_elements > limits.table_elements {
            true => Err(LoadError::DoesNotFit(format!(
                "more than {} elements for its tables (GUEST_TABLE_ELEMENTS)",
                limits.table_elements
            ))),
            false => Ok(()),
        }
    }
}

/// Tells by the first bytes what a file is, and returns an error for each common mistake.
pub(super) fn form(bytes: &[u8], limits: &Limits) -> Result<Form, LoadError> {
    if bytes.len() > limits.component_bytes {
        return Err(LoadError::TooLarge { limit_bytes: limits.component_bytes });
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => {
            let form = Form { bytes: bytes.len(), passive_elements: passive_elements(bytes) };
            form.check(limits).map(|()| form)
        }
        [0x7f, b'E', b'L', b'F', ..] => Err(LoadError::Precompiled),
        _ => {
            let found = bytes.get(..bytes.len().min(8)).unwrap_or_default();
            let found =
                if found.is_empty() { "nothing".to_owned() } else { format!("`{}`", found.escape_ascii()) };
            Err(LoadError::NotWasm { found })
        }
    }
}

/// Counts the elements that a component keeps for its tables: an instance has all of them in the host's memory, whether
/// they are in a table or not. It is left to the compiler to say what is damaged.
fn passive_elements(bytes: &[u8]) -> usize {
    let mut sum = 0_usize;
    for part in Parser::new(0).parse_all(bytes) {
        let Ok(Payload::ElementSection(segments)) = part else {
            match part {
                Ok(_) => continue,
                Err(_) => break,
            }
        };
        for segment in segments.into_iter().map_while(Result::ok) {
            let count = match segment.items {
                ElementItems::Functions(items) => items.count(),
                ElementItems::Expressions(_, items) => items.count(),
            };
            if matches!(segment.kind, ElementKind::Passive) {
                sum = sum.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
    }
    sum
}

/// Returns the whole chain of an error in one line. It can repeat names that are the author's.
pub(super) fn describe(error: &wasmtime::Error) -> String {
    printable(&format!("{error:#}").replace('\n', " ")).into_owned()
}
