//! Why a component is refused, before a byte of it runs: what was expected, what was found, what to do.

use std::fmt::Write as _;

use wasmparser::{ElementItems, ElementKind, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

use super::wasi::GRANTED;
use super::{Limits, host};
use crate::judge::Fault;
use crate::text::printable;

/// Why a component is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Too large to compile.
    #[error("the file has more than {limit_bytes} bytes (GUEST_COMPONENT)")]
    TooLarge {
        /// `GUEST_COMPONENT`.
        limit_bytes: usize,
    },
    /// Not WebAssembly, or not whole.
    #[error("no WebAssembly component: it begins with {found}; wanted `\\0asm` and a component's version")]
    NotWasm { found: String },
    /// A core module.
    #[error(
        "a core module, not a component: build it for wasm32-wasip2, or wrap it by `wasm-tools component new`"
    )]
    CoreModule,
    /// Native code, which would run unchecked.
    #[error("native code, precompiled (`.cwasm`) or a program: hand over the component it was made from")]
    Precompiled,
    /// It does not compile: damaged, half-written or beyond the limits.
    #[error("it does not compile: {0}")]
    Compile(String),
    /// It compiles, but is larger than an instance may be.
    #[error("it wants more than it may have: {0}")]
    DoesNotFit(String),
    /// The file could not be read, or was another one when it was read again.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// More native code than a component of its size may have.
    #[error(
        "its native code, with the images of its memories, takes more than {limit_bytes} bytes: {factor} for each of the \
         component's; is there data far apart in a memory?"
    )]
    CodeTooLarge {
        limit_bytes: u64,
        /// Bytes of code for a byte of the component.
        factor: u64,
    },
    /// More native code than there is room for.
    #[error(
        "its native code, with the images of its memories, takes {found}; wanted {share} bytes at most, and {limit} with \
         those of all guests, which take {used} now (GUEST_CODE)"
    )]
    NoRoom {
        /// As far as it is known.
        found: String,
        /// What one component may take.
        share: u64,
        /// `GUEST_CODE`.
        limit: u64,
        /// By the components that are loaded.
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
    /// The machine let it wait.
    #[error(
        "it had {used_ms} ms of a processor in {waited_ms} ms to compile, on a busy machine; wanted {limit_ms} ms at most \
         (GUEST_COMPILE_TIME), within ten times as long, or ten seconds"
    )]
    Starved {
        /// Processor time that it had.
        used_ms: u128,
        /// By the clock.
        waited_ms: u128,
        /// `GUEST_COMPILE_TIME`.
        limit_ms: u128,
    },
    /// It takes too long to compile.
    #[error("it takes more than {limit_ms} ms of a processor to compile (GUEST_COMPILE_TIME)")]
    TooSlow {
        /// `GUEST_COMPILE_TIME`.
        limit_ms: u128,
    },
    /// It takes too much memory to compile.
    #[error("it takes more than {limit_bytes} bytes to compile (GUEST_COMPILE_MEMORY)")]
    CompilerMemory {
        /// `GUEST_COMPILE_MEMORY`.
        limit_bytes: u64,
    },
    /// It wants something that it is not given.
    #[error(
        "imports that are not granted: {0}; guests may import WASI 0.2, of which they see nothing, and \
         wasi:config/store: build it without the rest, or without the library that asks for it"
    )]
    Imports(String),
    /// Capabilities that the operator has not granted.
    #[error("imports that are not granted: {0}")]
    NotGranted(String),
    /// It does not offer what the service calls.
    #[error("not of the world `sluicegate:guest/validator@0.1.0`: {0}")]
    World(String),
    /// Its start-up code breaks a limit or traps, before any entry is there to blame.
    #[error("it does not start: {0}")]
    Start(Fault),
}

impl LoadError {
    /// Whether the same component may be taken another time: the machine was at fault, not the component.
    pub fn may_pass(&self) -> bool {
        match self {
            // Processor time too grows on a busy machine.
            Self::TooSlow { .. }
            | Self::Starved { .. }
            | Self::Compiler(_)
            | Self::CompilerKilled
            | Self::NoRoom { .. }
            | Self::Unreadable(_) => true,
            Self::TooLarge { .. }
            | Self::NotWasm { .. }
            | Self::CoreModule
            | Self::Precompiled
            | Self::Compile(_)
            | Self::DoesNotFit(_)
            | Self::CodeTooLarge { .. }
            | Self::CompilerMemory { .. }
            | Self::Imports(_)
            | Self::NotGranted(_)
            | Self::World(_) => false,
            Self::Start(fault) => matches!(fault, Fault::TimedOut { .. }),
        }
    }
}

/// Without its patch version, which does not matter.
const HANDLER: &str = "sluicegate:guest/handler@0.1.";

/// The type of `process`, spelt out.
const PROCESS: &str = "func(batch: list<record { id: record { milliseconds: u64, sequence: u64 }, \
    fields: list<tuple<string, string>> }>) -> list<variant { \
    accept(record { event-id: string, time: s64, event-type: string, user-id: string, properties: option<string> }), \
    expand(list<record { event-id: string, time: s64, event-type: string, user-id: string, properties: option<string> }>), \
    reject(list<record { path: string, code: string, message: string }>), \
    discard(string) }>";

/// A type that is printed longer than this is cut: its author may have made it as long as a byte is short.
const MAX_TYPE_CHARS: usize = 1_500;
/// Names listed in an error.
const MAX_NAMES: usize = 20;

/// What is known of a component by its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    bytes: usize,
    /// Elements that it keeps for its tables: an instance has all of them in the host's memory.
    passive_elements: usize,
}

impl Form {
    /// Whether a tenant with these limits may have it.
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

/// Tells by the first bytes what a file is, with an error for each common mistake.
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
            Err(LoadError::NotWasm { found: format!("`{}`", found.escape_ascii()) })
        }
    }
}

/// Elements that a component keeps for its tables: an instance has all of them in the host's memory, whether they are in
/// a table or not. What is damaged is left for the compiler to say.
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

/// Looks for imports beyond what is granted, and names them all.
pub(super) fn check_imports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let component = component.component_type();
    let refused: Vec<&str> =
        component.imports(engine).map(|(name, _)| name).filter(|name| !is_granted(name)).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(LoadError::Imports(listed(&refused))),
    }
}

fn is_granted(import: &str) -> bool {
    // The contract's types: names, nothing that could be called. For the others see `host::check`.
    if import.starts_with("sluicegate:guest/types@0.1.") || host::is_interface(import) {
        return true;
    }
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    GRANTED.contains(&interface) && (version.starts_with("0.2.") || version == "0.2")
}

/// Looks for the one function that the service calls, and says what is there instead.
pub(super) fn check_exports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let component = component.component_type();
    let names = || component.exports(engine).map(|(name, _)| name).collect::<Vec<_>>();
    let Some((name, handler)) = component.exports(engine).find(|(name, _)| name.starts_with(HANDLER)) else {
        return Err(LoadError::World(format!(
            "it exports no `sluicegate:guest/handler@0.1.0`; it exports {}",
            listed(&names())
        )));
    };
    let ComponentItem::ComponentInstance(handler) = handler.ty else {
        return Err(LoadError::World(format!("its export {} is not an interface", shown(name))));
    };
    match handler.get_export(engine, "process").map(|export| export.ty) {
        Some(ComponentItem::ComponentFunc(process)) => match function(&process) {
            found if found == PROCESS => Ok(()),
            found => Err(LoadError::World(format!(
                "its function `process` has another type: expected {PROCESS}; found {found}"
            ))),
        },
        _ => {
            let names: Vec<&str> = handler.exports(engine).map(|(name, _)| name).collect();
            Err(LoadError::World(format!(
                "its {} has no function `process`; it has {}",
                shown(name),
                listed(&names)
            )))
        }
    }
}

fn listed(names: &[&str]) -> String {
    let mut shown: Vec<String> = names.iter().take(MAX_NAMES).map(|name| shown(name)).collect();
    match names.len().saturating_sub(MAX_NAMES) {
        0 if shown.is_empty() => return "nothing".to_owned(),
        0 => {}
        more => shown.push(format!("{more} more")),
    }
    shown.join(", ")
}

/// A name of the author's, cut, and safe for a log.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(200).collect();
    printable(&start).into_owned()
}

/// The type as WIT would have it, but with every type spelt out.
fn function(function: &ComponentFunc) -> String {
    let mut text = String::from("func(");
    for (i, (name, ty)) in function.params().enumerate() {
        separate(&mut text, i);
        let _ = write!(text, "{name}: ");
        spell(&ty, &mut text);
    }
    text.push(')');
    for ty in function.results() {
        text.push_str(" -> ");
        spell(&ty, &mut text);
    }
    if text.chars().count() > MAX_TYPE_CHARS {
        text = text.chars().take(MAX_TYPE_CHARS).chain(['…']).collect();
    }
    printable(&text).into_owned()
}

fn separate(text: &mut String, i: usize) {
    if i > 0 {
        text.push_str(", ");
    }
}

/// Gives up where the text is long enough: types that are few when shared can be endless when spelt out.
fn spell(ty: &Type, text: &mut String) {
    if text.len() > MAX_TYPE_CHARS {
        return;
    }
    let list = |types: &mut dyn Iterator<Item = Type>, text: &mut String| {
        for (i, ty) in types.enumerate() {
            separate(text, i);
            spell(&ty, text);
        }
    };
    match ty {
        Type::List(list) => {
            text.push_str("list<");
            spell(&list.ty(), text);
            text.push('>');
        }
        Type::Option(option) => {
            text.push_str("option<");
            spell(&option.ty(), text);
            text.push('>');
        }
        Type::Tuple(tuple) => {
            text.push_str("tuple<");
            list(&mut tuple.types(), text);
            text.push('>');
        }
        Type::Record(record) => {
            text.push_str("record { ");
            for (i, field) in record.fields().take(MAX_TYPE_CHARS).enumerate() {
                separate(text, i);
                let _ = write!(text, "{}: ", field.name);
                spell(&field.ty, text);
            }
            text.push_str(" }");
        }
        Type::Variant(variant) => {
            text.push_str("variant { ");
            for (i, case) in variant.cases().take(MAX_TYPE_CHARS).enumerate() {
                separate(text, i);
                text.push_str(case.name);
                if let Some(ty) = case.ty {
                    text.push('(');
                    spell(&ty, text);
                    text.push(')');
                }
            }
            text.push_str(" }");
        }
        Type::Bool => text.push_str("bool"),
        Type::S8 => text.push_str("s8"),
        Type::U8 => text.push_str("u8"),
        Type::S16 => text.push_str("s16"),
        Type::U16 => text.push_str("u16"),
        Type::S32 => text.push_str("s32"),
        Type::U32 => text.push_str("u32"),
        Type::S64 => text.push_str("s64"),
        Type::U64 => text.push_str("u64"),
        Type::Float32 => text.push_str("f32"),
        Type::Float64 => text.push_str("f64"),
        Type::Char => text.push_str("char"),
        Type::String => text.push_str("string"),
        // Not in the type that is expected, so that the kind says enough.
        Type::Enum(_) => text.push_str("enum"),
        Type::Flags(_) => text.push_str("flags"),
        Type::Result(_) => text.push_str("result"),
        Type::Own(_) | Type::Borrow(_) => text.push_str("resource"),
        _ => text.push_str("another kind of type"),
    }
}

/// The whole chain of an error in one line. It can repeat names that are the author's.
pub(super) fn describe(error: &wasmtime::Error) -> String {
    printable(&format!("{error:#}").replace('\n', " ")).into_owned()
}
