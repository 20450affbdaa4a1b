//! Finds the components that the program carries inside. It builds nothing:
//! `make guests` does.

use std::path::Path;

fn main() {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/wasm32-wasip2/guest");
    for (variable, file) in
        [("SLUICEGATE_GUEST_DEFAULT", "guest_default.wasm"), ("SLUICEGATE_GUEST_STRICT", "guest_strict.wasm")]
    {
        let component = guests.join(file);
        println!("cargo::rerun-if-changed={}", component.display());
        if !component.is_file() {
            println!("cargo::error=the component {} is missing; run: make guests", component.display());
        }
        println!("cargo::rustc-env={variable}={}", component.display());
    }
}
