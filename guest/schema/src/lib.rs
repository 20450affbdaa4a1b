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
#[expect(unsafe_code, reason = "what wit-bindgen makes of an export")]
mod initialiser {
    use super::{Component, bindings};

    bindings::export!(Component with_types_in bindings);
}
