//! Holds what wit-bindgen makes of `wit/`. It is public only because [`export!`](crate::export) expands to paths into it: use the
//! names at the root.

/// A guest that is given text. What it does not use of the capabilities, the component does not import.
pub mod text {
    wit_bindgen::generate!({
        path: "wit",
        world: "pipeline",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        default_bindings_module: "sluicegate_kit::bindings::text",
    });

    pub use exports::sluicegate::guest::handler::Guest;
}

/// A guest that is given bytes.
pub mod bytes {
    wit_bindgen::generate!({
        path: "wit",
        world: "bytes-validator",
        pub_export_macro: true,
        default_bindings_module: "sluicegate_kit::bindings::bytes",
        with: { "sluicegate:guest/types@0.1.0": crate::bindings::text::sluicegate::guest::types },
    });

    pub use exports::sluicegate::guest::bytes_handler::Guest;
}

/// The settings. This version of `wasi:config` is the one that the service links.
pub mod config {
    wit_bindgen::generate!({
        inline: "
            package wasi:config@0.2.0-rc.1;
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
            world imports { import store; }
        ",
        world: "wasi:config/imports",
    });
}
