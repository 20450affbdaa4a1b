//! Lists what a component imports and exports, without running it.

use wasmparser::{Parser, Payload};

use super::channel::Granted;
use super::worker::check;
use crate::config::Grants;
use crate::text::printable;

/// Bounds the names that are listed.
const MAX_NAMES: usize = 1_000;
/// Bounds the characters of a name.
const MAX_NAME_CHARS: usize = 200;

/// Holds what can be known of a component by its bytes.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Says whether a module in it has the names of its functions, which the backtrace of a trap tells.
    pub has_function_names: bool,
}

/// Says what a guest gets for an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gets what it wants.
    Given,
    /// The operator would have to write this under `[grants]`.
    Ungranted(&'static str),
    /// No guest gets it.
    Refused(String),
}

impl Interfaces {
    /// Reads a component. What is damaged ends the lists: it is left to the compiler to say so.
    pub fn read(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        let mut depth = 0_usize;
        for part in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
            match part {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section) if section.name() == "name" && depth > 0 => {
                    found.has_function_names = true;
                }
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    let names =
                        imports.into_iter().map_while(Result::ok).map(|import| shown(import.name.name));
                    found.imports.extend(names.take(MAX_NAMES.saturating_sub(found.imports.len())));
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    let names =
                        exports.into_iter().map_while(Result::ok).map(|export| shown(export.name.name));
                    found.exports.extend(names.take(MAX_NAMES.saturating_sub(found.exports.len())));
                }
                _ => {}
            }
        }
        found
    }

    /// Returns each import with what a guest with these grants gets for it.
    pub fn standings(&self, grants: &Grants) -> Vec<(&str, Standing)> {
        let granted = Granted::from(grants);
        self.imports.iter().map(|import| (import.as_str(), check::standing(import, &granted))).collect()
    }

    /// Returns the name of the world that its names are those of.
    pub fn world(&self) -> &'static str {
        let standings = self.standings(&Grants::default());
        let imports_capabilities =
            standings.iter().any(|(_, standing)| matches!(standing, Standing::Ungranted(_)));
        let takes_bytes = self.exports.iter().any(|name| name.starts_with("sluicegate:guest/bytes-handler@"));
        match (takes_bytes, imports_capabilities) {
            (false, false) => "validator",
            (false, true) => "pipeline",
            (true, false) => "bytes-validator",
            (true, true) => "bytes-pipeline",
        }
    }
}

/// Returns a name of the author's, cut, and safe for a terminal.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(MAX_NAME_CHARS).collect();
    printable(&start).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_the_component_itself_are_listed() {
        let text = r#"(component
            (component (import "inner" (func)) (export "inner-out" (func 0)))
            (core module (func $named))
            (import "wasi:config/store@0.2.0-rc.1" (instance))
            (import "sluicegate:guest/store@0.1.0" (instance))
            (import "wasi:http/types@0.2.0" (instance $http))
            (export "out" (instance $http)))"#;
        let found = Interfaces::read(&wat::parse_str(text).expect("a component"));
        assert_eq!(found.exports, ["out"]);
        assert!(found.has_function_names);
        assert_eq!(found.world(), "pipeline");
        let standings = found.standings(&Grants::default());
        assert_eq!(standings.first(), Some(&("wasi:config/store@0.2.0-rc.1", Standing::Given)));
        let [_, (store, Standing::Ungranted(remedy)), (http, Standing::Refused(why))] = standings.as_slice()
        else {
            panic!("{standings:?}");
        };
        assert_eq!((*store, *http), ("sluicegate:guest/store@0.1.0", "wasi:http/types@0.2.0"));
        assert!(remedy.contains("statements = ") && why.contains("wasi:http/types"), "{standings:?}");
        let granted = Grants { statements: vec!["look".to_owned()], ..Grants::default() };
        assert_eq!(found.standings(&granted)[1].1, Standing::Given);
        let damaged = Interfaces::read(b"\0asm\x0d\0\x01\0\xff\xff");
        assert!(damaged.imports.is_empty() && damaged.exports.is_empty());
    }
}
