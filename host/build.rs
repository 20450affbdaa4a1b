//! Finds the components that the program carries inside. It builds nothing: `make guests` does.

use std::path::Path;

/// Holds the name of each component's file, with the variable by which the code includes it.
const COMPONENTS: [(&str, &str); 2] =
    [("guest_default", "SLUICEGATE_GUEST_DEFAULT"), ("guest_schema", "SLUICEGATE_GUEST_SCHEMA")];

fn main() {
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../target/wasm32-wasip2/guest");
    for (name, variable) in COMPONENTS {
        let component = folder.join(name).with_extension("wasm");
        println!("cargo::rerun-if-changed={}", component.display());
        if !component.is_file() {
            println!("cargo::error=the component {} is missing; run: make guests", component.display());
        }
        println!("cargo::rustc-env={variable}={}", component.display());
    }
}
