//! Checks that a component imports no more than it may, and exports what the service calls.

use std::fmt::Write as _;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};

use super::host;
use super::wasi::GRANTED;
use crate::sandbox::LoadError;
use crate::sandbox::channel::Granted;
use crate::sandbox::interfaces::Standing;
use crate::text::printable;

/// Describes an interface that the service calls.
struct Handler {
    /// Holds its name without the patch version, which does not matter.
    name: &'static str,
    takes_bytes: bool,
    /// Spells out the type of a value in the argument of `process`.
    value: &'static str,
}

const HANDLERS: [Handler; 2] = [
    Handler { name: "sluicegate:guest/handler@0.1.", takes_bytes: false, value: "string" },
    Handler { name: "sluicegate:guest/bytes-handler@0.1.", takes_bytes: true, value: "list<u8>" },
];

/// Spells out the result of `process`.
const VERDICTS: &str = "list<variant { \
    accept(record { event-id: string, time: s64, event-type: string, user-id: string, properties: option<string> }), \
    expand(list<record { event-id: string, time: s64, event-type: string, user-id: string, properties: option<string> }>), \
    reject(list<record { path: string, code: string, message: string }>), \
    discard(string) }>";

/// Bounds the characters of a type that is printed. A longer one is cut: few bytes of a component can make a type of
/// any length.
const MAX_TYPE_CHARS: usize = 1_500;
/// Bounds the names that are listed in an error.
const MAX_NAMES: usize = 20;

/// Looks for imports that no guest may have, and names them.
pub(super) fn imports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let component = component.component_type();
    let refused: Vec<String> = component.imports(engine).filter_map(|(name, _)| refusal(name)).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(LoadError::Imports(listed(refused))),
    }
}

/// Names the one version of `wasi:config` that is linked: it is a proposal still, and its drafts differ.
const CONFIG: &str = "wasi:config/store@0.2.0-rc.1";

/// Returns why this import is refused, if it is: its name, and the version that is wanted if there is another.
fn refusal(import: &str) -> Option<String> {
    // The contract's types are only names: nothing in them could be called. For the other interfaces see `host::check`.
    if import.starts_with("sluicegate:guest/types@0.1.") || host::is_interface(import) {
        return None;
    }
    #[cfg(feature = "failpoints")]
    if import == super::faults::INTERFACE {
        return None;
    }
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let wanted = match interface {
        "wasi:config/store" if import == CONFIG => return None,
        "wasi:config/store" => CONFIG,
        _ if interface.starts_with("sluicegate:guest/") => "version 0.1.0 of this package",
        _ if !GRANTED.contains(&interface) => return Some(shown(import)),
        _ if version.starts_with("0.2.") || version == "0.2" => return None,
        _ => "version 0.2 of WASI",
    };
    Some(format!("{} (wanted {wanted})", shown(import)))
}

/// What a guest with these grants gets for an import.
pub(in crate::sandbox) fn standing(import: &str, granted: &Granted) -> Standing {
    match refusal(import) {
        Some(why) => Standing::Refused(why),
        None => match host::ungranted(import, granted) {
            Some(remedy) => Standing::Ungranted(remedy),
            None => Standing::Given,
        },
    }
}

/// Looks for the one function that the service calls, or says what is there instead. Returns whether it takes bytes.
pub(super) fn exports(engine: &Engine, component: &Component) -> Result<bool, LoadError> {
    let component = component.component_type();
    let names = || component.exports(engine).map(|(name, _)| name).collect::<Vec<_>>();
    let mut found = component.exports(engine).filter_map(|(name, export)| {
        let handler = HANDLERS.iter().find(|handler| name.starts_with(handler.name))?;
        Some((handler, name, export))
    });
    let (Handler { takes_bytes, value, .. }, name, export) = match (found.next(), found.next()) {
        (Some(only), None) => only,
        (found, _) => {
            let number = if found.is_none() { "no" } else { "more than one" };
            return Err(LoadError::World(format!(
                "it exports {number} handler; wanted either `sluicegate:guest/handler@0.1.0`, for values that are text, or \
                 `sluicegate:guest/bytes-handler@0.1.0`; it exports {}",
                listed(names().into_iter().map(shown))
            )));
        }
    };
    let ComponentItem::ComponentInstance(handler) = export.ty else {
        return Err(LoadError::World(format!("its export {} is not an interface", shown(name))));
    };
    let expected = format!(
        "func(batch: list<record {{ id: record {{ milliseconds: u64, sequence: u64 }}, \
         fields: list<tuple<string, {value}>> }}>) -> {VERDICTS}"
    );
    match handler.get_export(engine, "process").map(|export| export.ty) {
        Some(ComponentItem::ComponentFunc(process)) => match function(&process) {
            found if found == expected => Ok(*takes_bytes),
            found => Err(LoadError::World(format!(
                "its function `process` has another type: expected {expected}; found {found}"
            ))),
        },
        _ => {
            let names: Vec<&str> = handler.exports(engine).map(|(name, _)| name).collect();
            Err(LoadError::World(format!(
                "its {} has no function `process`; it has {}",
                shown(name),
                listed(names.into_iter().map(shown))
            )))
        }
    }
}

fn listed(names: impl IntoIterator<Item = String>) -> String {
    let mut names = names.into_iter();
    let mut listed: Vec<String> = names.by_ref().take(MAX_NAMES).collect();
    match names.count() {
        0 if listed.is_empty() => return "nothing".to_owned(),
        0 => {}
        more => listed.push(format!("{more} more")),
    }
    listed.join(", ")
}

/// Returns a name of the author's, cut, and safe for a log.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(200).collect();
    printable(&start).into_owned()
}

/// Returns the type as WIT would have it, but with every type spelt out.
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

/// Adds the type to the text, and gives up where that is long enough: types that are few when shared can be endless
/// when spelt out.
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
        // These are not in the type that is expected, so that the kind says enough.
        Type::Enum(_) => text.push_str("enum"),
        Type::Flags(_) => text.push_str("flags"),
        Type::Result(_) => text.push_str("result"),
        Type::Own(_) | Type::Borrow(_) => text.push_str("resource"),
        _ => text.push_str("another kind of type"),
    }
}
