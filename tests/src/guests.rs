//! Components for the tests.

use std::path::{Path, PathBuf};

pub use sluicegate::guests::{DEFAULT, STRICT};

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

/// The guest that does what an entry's field `do` says: see `tests/guests/hostile`.
pub fn hostile() -> PathBuf {
    built("guest_hostile.wasm")
}

/// A component of the world of commands: it has a `main` and judges nothing.
pub fn command() -> Vec<u8> {
    std::fs::read(built("command.wasm")).expect("a component is read")
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
