//! Gives this guest more memory than the others have (`.cargo/config.toml`): it carries a library and, later, schemas.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").as_deref() == Ok("wasm") {
        // Schemas may be nested, and refer to themselves.
        println!("cargo::rustc-link-arg-cdylib=-zstack-size=524288");
        println!("cargo::rustc-link-arg-cdylib=--initial-memory=2097152");
    }
}
