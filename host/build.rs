//! Finds the default rules, which the program carries inside. It builds nothing: `make guests` does.

use std::path::Path;

fn main() {
    let component = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../target/wasm32-wasip2/guest/guest_default.wasm");
    println!("cargo::rerun-if-changed={}", component.display());
    if !component.is_file() {
        println!("cargo::error=the component {} is missing; run: make guests", component.display());
    }
    println!("cargo::rustc-env=SLUICEGATE_GUEST_DEFAULT={}", component.display());
}
