//! Judges by JSON Schema: the component of which `sluicegate rules from-schema` makes others.
//!
//! This component is generic, and comes with the program. `configure` is called once, when a user's rules are made: it
//! compiles the schemas, and the program takes the memory that results as the initial memory of a new component. So an
//! instance has nothing to compile, and judges at once.
//!
//! | file | what it does |
//! |---|---|
//! | `configuration.rs` | what the program hands over, and how it becomes `Rules` |
//! | `dialect.rs` | looks for what is not supported, and names it with its place |
//! | `mapping/` | makes events of entries of other forms |
//! | `rules.rs` | judges an event by the schema of its type |
//! | `breach.rs` | tells what breaks a schema: path, code and message |

mod breach;
mod configuration;
mod dialect;
mod mapping;
mod rules;

use std::sync::OnceLock;

use rules::SchemaRules;
use sluicegate_kit::{Entry, Judged, Rules, violation};

/// Holds what wit-bindgen makes of `wit/`.
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "initialiser" });
}

static RULES: OnceLock<SchemaRules> = OnceLock::new();

/// Implements what the component exports.
#[derive(Default)]
pub struct Component;

impl Rules for Component {
    fn judge(&self, entry: &Entry) -> Judged {
        match RULES.get() {
            Some(rules) => rules.judge(entry),
            None => Err(violation(
                "",
                "no_schemas",
                "found no schemas, expected a component made by `from-schema`",
            )
            .into()),
        }
    }
}

impl bindings::Guest for Component {
    fn configure(configuration: String) -> Result<Vec<String>, Vec<String>> {
        let (rules, notes) = configuration::compile(&configuration)?;
        match RULES.set(rules) {
            Ok(()) => Ok(notes),
            Err(_) => Err(vec!["the rules are made already".to_owned()]),
        }
    }
}

sluicegate_kit::export!(Component);

#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "what exports are made of")]
mod initialiser {
    use super::{Component, RULES, bindings};

    bindings::export!(Component with_types_in bindings);

    /// Starts an instance: a core module's function of this name is called when a component is instantiated. What the settings
    /// lack ends it, so that the service refuses the rules. There are no rules yet when they are made.
    #[unsafe(export_name = "_initialize")]
    extern "C" fn start() {
        sluicegate_kit::settings::__run_constructors();
        if let Some(why) = RULES.get().and_then(|rules| rules.mapping.as_ref()?.lacks_key()) {
            eprintln!("[guest_settings] {why}");
            std::process::abort()
        }
    }
}
