//! Provides components for the tests.

use std::path::{Path, PathBuf};

pub use sluicegate::rules::DEFAULT;
pub use sluicegate_demo::STRICT;

use crate::events::{Event, Fields, fields};

/// Builds all components, also those that only the tests need.
const BUILD: &str = "make hostile";

/// Returns cargo's target folder: that in which this program was built.
pub(crate) fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program has a path");
    let release = program.ancestors().find(|folder| folder.ends_with("release"));
    release.and_then(Path::parent).expect("target/release/program, or a folder deeper").to_owned()
}

/// Returns a program that cargo built.
pub fn program(name: &str) -> PathBuf {
    target_folder().join("release").join(name)
}

/// Returns the folder of the components that cargo built.
pub fn folder() -> PathBuf {
    target_folder().join("wasm32-wasip2/guest")
}

/// Returns a component file that cargo built.
pub fn built(file: &str) -> PathBuf {
    let path = folder().join(file);
    assert!(path.is_file(), "{} is missing; run: {BUILD}", path.display());
    path
}

/// Returns the guest that gives the verdict which an entry names: see `tests/guests/scripted`.
pub fn scripted() -> PathBuf {
    built("guest_scripted.wasm")
}

/// Returns the guest that takes values of any bytes: see `tests/guests/bytes`.
pub fn bytes() -> PathBuf {
    built("guest_bytes.wasm")
}

/// Calls a macro with the names of all hostile guests: those of `tests/guests/hostile/examples`.
///
/// Each guest obeys the default rules until an entry is [`provoking`]. The test of the same name in
/// `tests/cases/hostile/` shows which limit stops it.
#[macro_export]
macro_rules! hostile_guests {
    ($call:ident) => {
        $call! {
            // These misuse what they compute with.
            endless_loop deep_recursion memory_by_steps memory_at_once handle_flood random_flood
            sleep poll endless_poll panic exit
            // These misuse what they return.
            too_few_verdicts too_many_verdicts swapped_verdicts
            huge_list huge_expansion huge_reasons huge_rejection huge_string deep_json many_rows
            scattered_times scattered_rows refused_rows
            invalid_ids same_id stolen_ids
            // These misuse what they print.
            long_line many_lines control_characters
            // These look for what is not theirs.
            files network environment clock randomness state
            // These misuse what they were granted: see `capabilities`.
            ungranted_stream publishing_flood publishing_piecemeal publishing_apart publishing_and_failing
            ungranted_statement wrong_parameters statement_flood statement_waste endless_statement too_many_rows
            huge_answer huge_parameters
            swallowed_error noted_rows noted_rejection metric_flood metric_names
        }
    };
}

macro_rules! names {
    ($($name:ident)*) => { &[$(stringify!($name)),*] };
}

pub const HOSTILE: &[&str] = hostile_guests!(names);

/// Returns the component file of the hostile guest of this name.
pub fn hostile(name: &str) -> PathBuf {
    assert!(HOSTILE.contains(&name), "{name} is no hostile guest; there are: {}", HOSTILE.join(", "));
    built(&format!("examples/{name}.wasm"))
}

/// Makes an entry that is in order and provokes a hostile guest, by this much or its own default.
pub fn provoking(event: &Event, amount: Option<usize>) -> Fields {
    let amount = amount.map_or_else(String::new, |amount| amount.to_string());
    [event.flat(), fields([("provoke", amount)])].concat()
}

/// Returns the settings in `sluicegate.toml` for hostile guests that want capabilities. The prefix
/// is empty or `tenants.NAME.`, and the stream is one to publish to. The statement `note` wants a
/// table `notes (text TEXT)`.
pub fn grants(prefix: &str, stream: &str) -> String {
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
timeout = "5s"
"#
    )
}

/// Returns a component of the world of commands: it has a `main` and judges nothing.
pub fn command() -> Vec<u8> {
    std::fs::read(built("examples/command.wasm")).expect("a component is read")
}

/// Calls a macro with the names of all guests that are written by hand, for what no compiler makes:
/// those of `tests/guests/handmade`. A guest that gets as far as a batch discards its entries until
/// one is [`provoking`].
///
/// The test of the same name in `tests/cases/handmade.rs` shows what stops it.
#[macro_export]
macro_rules! handmade_guests {
    ($call:ident) => {
        $call! {
            idle denied_growth
            // These are refused at load.
            start_loops start_traps start_recurses start_grows_table
            memories_in_parts many_memories many_tables many_instances
            greedy another_type
            open_type_call open_type_call_in_start ref_cast_open forged_import_name
            // These are stopped in a batch.
            table_growth memory_growth
            wrong_utf8 wrong_case wrong_pointer wrong_length wrong_alignment
            wrong_allocation endless_allocation
        }
    };
}

pub const HANDMADE: &[&str] = handmade_guests!(names);

/// Returns the component of the handmade guest of this name.
pub fn handmade(name: &str) -> Vec<u8> {
    let text = text_of(name);
    if text.contains("(component") { parsed(&text) } else { handmade_of(&text) }
}

/// Makes a handmade guest of this text. If there are core modules in the text, it is parts of the
/// component, else of the component's one module.
pub fn handmade_of(text: &str) -> Vec<u8> {
    let (parts, more) =
        if text.contains("(core module") { (text, "(func $provoked (param i32))") } else { ("", text) };
    let mut honest = text_of("frame/honest");
    if more.contains("(export \"realloc\")") {
        honest = honest.replace("(export \"realloc\" (func $reallocate))", "");
    }
    let parts = format!("{parts}\n{}", honest.replace("{more}", more));
    parsed(&text_of("frame/component").replace("{parts}", &parts))
}

/// Makes a handmade guest that exports its handler by each of these names.
pub fn with_handlers(names: &[&str]) -> Vec<u8> {
    let honest = text_of("frame/honest").replace("{more}", "(func $provoked (param i32))");
    let component = text_of("frame/component").replace("{parts}", &honest);
    let name = "sluicegate:guest/handler@0.1.0";
    let export = format!("(export \"{name}\" (instance $handler))");
    let exports: String = names.iter().map(|other| export.replace(name, other)).collect();
    parsed(&component.replace(&export, &exports))
}

/// Makes a handmade guest that breaks out of wasmtime in this way: at the provoking entry, or when it starts. Only the
/// program with failpoints lets it. See `host/src/sandbox/worker/faults.rs`.
pub fn faulty(fault: &str, at_start: bool) -> Vec<u8> {
    let module = "(core module $honest (import \"faults\" \"fault\" (func $fault))";
    let provoked = match at_start {
        true => "(start $fault) (func $provoked (param i32))",
        false => "(func $provoked (param i32) (call $fault))",
    };
    let honest = text_of("frame/honest").replace("(core module $honest", module).replace("{more}", provoked);
    let import = format!(
        "(import \"sluicegate:test/faults@0.1.0\" (instance $faults (export \"{fault}\" (func))))
         (core func $fault (canon lower (func $faults \"{fault}\")))"
    );
    let with = "(instantiate $honest (with \"faults\" (instance (export \"fault\" (func $fault)))))";
    let component = text_of("frame/component").replace("(instantiate $honest)", with);
    parsed(&component.replace("{parts}", &format!("{import}\n{honest}")))
}

fn text_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/handmade").join(name).with_extension("wat");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Makes a component that imports an interface of each of these names, with a function in it.
pub fn importing(interfaces: &[&str]) -> Vec<u8> {
    let imports =
        interfaces.iter().map(|name| format!("(import \"{name}\" (instance (export \"f\" (func))))"));
    parsed(&format!("(component {})", imports.collect::<String>()))
}

/// Holds the smallest core module.
pub const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Returns the same rules in about `bytes` bytes: a custom section of zeros changes nothing else.
pub fn padded(component: &[u8], bytes: usize) -> Vec<u8> {
    let mut padded = component.to_vec();
    section(&mut padded, 0, &vec![0; bytes.saturating_sub(component.len())]);
    padded
}

/// Adds `modules` core modules that nobody uses to the component. Each has two bytes of data that
/// lie 16 MiB apart, and wasmtime keeps an image of all that is between.
pub fn sparse(component: &[u8], modules: usize) -> Vec<u8> {
    let module = |i: usize| {
        let text = format!(
            r#"(module (memory 257) (data (i32.const 0) "\{:02x}") (data (i32.const 16700000) "\{:02x}"))"#,
            1 + i % 250,
            1 + i / 250
        );
        wat::parse_str(text).expect("a module")
    };
    let mut sparse = component.to_vec();
    (0..modules).for_each(|i| section(&mut sparse, 1, &module(i)));
    sparse
}

/// Appends a section: 0 for a custom one, which begins with its name's length, 1 for a core module.
fn section(component: &mut Vec<u8>, kind: u8, content: &[u8]) {
    component.push(kind);
    let mut length = content.len();
    while length >= 128 {
        component.push(u8::try_from(length % 128).expect("seven bits") | 128);
        length /= 128;
    }
    component.push(u8::try_from(length).expect("seven bits"));
    component.extend(content);
}

/// Returns the same rules under another digest: a custom section changes nothing else.
pub fn relabelled(component: &[u8], label: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.extend([0, 7, 5]); // custom: 7 bytes, of which a name of 5
    bytes.extend(b"label");
    bytes.push(label);
    bytes
}
