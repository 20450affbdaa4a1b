//! The files of the projects.

/// A file of a project.
pub(super) struct TemplateFile {
    /// Where it is in the project.
    pub(super) path: &'static str,
    pub(super) text: &'static str,
}

/// Names a file of a project, and where its text is from this folder.
macro_rules! file {
    ($path:literal, $from:expr) => {
        TemplateFile { path: $path, text: include_str!($from) }
    };
}

pub(super) const RUST: &[TemplateFile] = &[
    file!("Cargo.toml", "templates/rust/Cargo.toml.in"),
    file!("Makefile", "templates/rust/Makefile"),
    file!("README.md", "templates/rust/README.md"),
    file!("sluicegate.toml", "templates/rust/sluicegate.toml"),
    file!(".gitignore", "templates/rust/gitignore"),
    file!(".github/workflows/rules.yml", "templates/rust/.github/workflows/rules.yml"),
    file!(".cargo/config.toml", "../../../../.cargo/config.toml"),
    file!("tests/rules.jsonl", "templates/rust/tests/rules.jsonl"),
    file!("src/lib.rs", "../../../../guest/strict/src/lib.rs"),
    file!("src/tests.rs", "../../../../guest/strict/src/tests.rs"),
    file!("kit/rules/Cargo.toml", "templates/rust/kit/rules/Cargo.toml.in"),
    file!("kit/rules/src/lib.rs", "../../../../guest/rules/src/lib.rs"),
    file!("kit/rules/src/event.rs", "../../../../guest/rules/src/event.rs"),
    file!("kit/rules/src/fields.rs", "../../../../guest/rules/src/fields.rs"),
    file!("kit/rules/src/jsonb.rs", "../../../../guest/rules/src/jsonb.rs"),
    file!("kit/rules/src/violation.rs", "../../../../guest/rules/src/violation.rs"),
    file!("kit/rules/src/tests/mod.rs", "../../../../guest/rules/src/tests/mod.rs"),
    file!("kit/rules/src/tests/arbitrary.rs", "../../../../guest/rules/src/tests/arbitrary.rs"),
    file!("wit/types.wit", "../../../../wit/types.wit"),
    file!("wit/handler.wit", "../../../../wit/handler.wit"),
    file!("wit/bytes-handler.wit", "../../../../wit/bytes-handler.wit"),
    file!("wit/stream.wit", "../../../../wit/stream.wit"),
    file!("wit/store.wit", "../../../../wit/store.wit"),
    file!("wit/metrics.wit", "../../../../wit/metrics.wit"),
    file!("wit/validator.wit", "../../../../wit/validator.wit"),
    file!("wit/pipeline.wit", "../../../../wit/pipeline.wit"),
];
