//! Components for the tests.

use std::path::{Path, PathBuf};

pub use sluicegate::guests::{DEFAULT, STRICT};

use crate::events::{Event, Fields, fields};

/// Builds all components, those that only the tests need too.
const BUILD: &str = "make hostile";

/// cargo's target folder: that in which this program was built.
pub(crate) fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let release = program.ancestors().find(|folder| folder.ends_with("release"));
    release.and_then(Path::parent).expect("target/release/program, or a folder deeper").to_owned()
}

/// A component file that cargo built.
pub fn built(file: &str) -> PathBuf {
    let path = target_folder().join("wasm32-wasip2/guest").join(file);
    assert!(path.is_file(), "{} is missing; run: {BUILD}", path.display());
    path
}

/// The guest that returns the verdict which an entry's field `verdict` names: see `tests/guests/claims`.
pub fn claims() -> PathBuf {
    built("guest_claims.wasm")
}

/// Calls a macro with the names of all hostile guests: those of `tests/guests/hostile/examples`.
///
/// Each obeys the default rules until an entry is [`provoking`]. The test of
/// the same name in `tests/cases/hostile.rs` shows which limit stops it.
#[macro_export]
macro_rules! hostile_guests {
    ($call:ident) => {
        $call! {
            // What they compute with.
            endless_loop deep_recursion memory_by_steps memory_at_once handle_flood random_flood
            sleep poll endless_poll panic exit
            // What they return.
            too_few_verdicts too_many_verdicts swapped_verdicts
            huge_list huge_expansion huge_rejection huge_string deep_json many_rows
            invalid_ids same_id stolen_ids
            // What they print.
            long_line many_lines control_characters
            // What they look for.
            files network environment clock randomness state
            // What they do with powers that they were granted: see `powers`.
            ungranted_stream publishing_flood publishing_piecemeal publishing_and_failing
            ungranted_statement wrong_parameters statement_flood endless_statement too_many_rows huge_answer
            swallowed_error metric_flood
        }
    };
}

macro_rules! names {
    ($($name:ident)*) => { &[$(stringify!($name)),*] };
}

/// The names of all hostile guests.
pub const HOSTILE: &[&str] = hostile_guests!(names);

/// The hostile guest of this name.
pub fn hostile(name: &str) -> PathBuf {
    assert!(HOSTILE.contains(&name), "{name} is no hostile guest; there are: {}", HOSTILE.join(", "));
    built(&format!("examples/{name}.wasm"))
}

/// An entry that is in order, and makes a hostile guest misbehave: so much, or as much as it likes.
pub fn provoking(event: &Event, amount: Option<usize>) -> Fields {
    let amount = amount.map_or_else(String::new, |amount| amount.to_string());
    [event.flat(), fields([("provoke", amount)])].concat()
}

/// What is granted to hostile guests that want powers, for `sluicegate.toml`: under this prefix, which is empty or
/// `tenants.NAME.`, with this stream to publish to. The statement `note` wants a table `notes (text TEXT)`.
pub fn powers(prefix: &str, stream: &str) -> String {
    format!(
        r#"
[{prefix}guest_settings]
stream = "{stream}"

[{prefix}grants]
stream = true
publish = {{ "{stream}" = 100_000 }}
statements = ["one", "note", "sleep", "count_to", "repeat"]
metrics = true

[statements.one]
sql = "SELECT 1"

[statements.note]
sql = "INSERT INTO notes VALUES ($1)"
parameters = ["text"]

[statements.sleep]
sql = "SELECT pg_sleep($1)::text"
parameters = ["number"]

[statements.count_to]
sql = "SELECT generate_series(1, $1)"
parameters = ["integer"]

[statements.repeat]
sql = "SELECT repeat('x', $1::int)"
parameters = ["integer"]
"#
    )
}

/// A component of the world of commands: it has a `main` and judges nothing.
pub fn command() -> Vec<u8> {
    std::fs::read(built("examples/command.wasm")).expect("a component is read")
}

/// A component that imports what nobody has granted, written by hand because it
/// is so small: `(component (import "sluicegate:test/secrets" (instance (export "reveal" (func)))))`.
pub fn greedy() -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    // Types, 19 bytes, one: an instance of two declarations, a function's type (nothing in, nothing out) ...
    bytes.extend([7, 19, 1, 0x42, 2, 1, 0x40, 0, 1, 0]);
    // ... and the export of a function of that type.
    bytes.extend(b"\x04\0\x06reveal\x01\0");
    // Imports, 28 bytes, one: of the instance type 0.
    bytes.extend(b"\x0a\x1c\x01\0\x17sluicegate:test/secrets\x05\0");
    bytes
}

/// A guest written by hand, for what no compiler makes: `modules` are core modules and their instances in
/// the text format, one of which is named `$main` and exports `memory`, `realloc` and `process`.
pub fn handmade(modules: &str) -> Vec<u8> {
    component(modules, "(param \"batch\" (list $entry)) (result (list $verdict))")
}

/// Its `process` gets no batch.
pub fn of_another_type() -> Vec<u8> {
    component(&idle_with(""), "(result (list $verdict))")
}

/// A component that imports an interface of each of these names, with a function in it.
pub fn importing(interfaces: &[&str]) -> Vec<u8> {
    let imports =
        interfaces.iter().map(|name| format!("(import \"{name}\" (instance (export \"f\" (func))))"));
    wat::parse_str(format!("(component {})", imports.collect::<String>())).expect("a component")
}

/// The core module `$main` of a guest that returns no verdict, with more in it.
pub fn idle_with(more: &str) -> String {
    format!(
        r#"(core module $m
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
            (func (export "process") (param i32 i32) (result i32) i32.const 8)
            (func (export "nothing") (result i32) i32.const 8)
            {more})
        (core instance $main (instantiate $m))"#
    )
}

fn component(modules: &str, process: &str) -> Vec<u8> {
    let core = if process.contains("param") { "process" } else { "nothing" };
    let text = format!(
        r#"(component
        (import "sluicegate:guest/types@0.1.0" (instance $types
            (type $i (record (field "milliseconds" u64) (field "sequence" u64)))
            (export "entry-id" (type $id (eq $i)))
            (type $e (record (field "id" $id) (field "fields" (list (tuple string string)))))
            (export "entry" (type $entry (eq $e)))
            (type $v (record (field "event-id" string) (field "time" s64) (field "event-type" string)
                (field "user-id" string) (field "properties" (option string))))
            (export "event" (type $event (eq $v)))
            (type $w (record (field "path" string) (field "code" string) (field "message" string)))
            (export "violation" (type $violation (eq $w)))
            (type $x (variant (case "accept" $event) (case "expand" (list $event))
                (case "reject" (list $violation)) (case "discard" string)))
            (export "verdict" (type $verdict (eq $x)))))
        (alias export $types "entry" (type $entry))
        (alias export $types "verdict" (type $verdict))
        {modules}
        (func $process {process} (canon lift (core func $main "{core}")
            (memory $main "memory") (realloc (func $main "realloc"))))
        (instance $handler (export "process" (func $process)))
        (export "sluicegate:guest/handler@0.1.0" (instance $handler)))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The smallest core module.
pub const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// The same rules under another digest: a custom section changes nothing else.
pub fn relabelled(component: &[u8], label: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.extend([0, 7, 5]); // custom: 7 bytes, of which a name of 5
    bytes.extend(b"label");
    bytes.push(label);
    bytes
}
