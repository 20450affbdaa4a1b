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

pub(super) const JAVASCRIPT: &[TemplateFile] = &[
    file!("package.json", "templates/js/package.json"),
    file!("package-lock.json", "templates/js/package-lock.json"),
    file!("tsconfig.json", "templates/js/tsconfig.json"),
    file!("Makefile", "templates/js/Makefile"),
    file!("README.md", "templates/js/README.md"),
    file!("sluicegate.toml", "templates/rust/sluicegate.toml"),
    file!(".gitignore", "templates/js/gitignore"),
    file!(".github/workflows/rules.yml", "templates/js/.github/workflows/rules.yml"),
    file!("src/component.js", "templates/js/src/component.js"),
    file!("src/rules.js", "templates/js/src/rules.js"),
    file!("tests/rules.jsonl", "templates/rust/tests/rules.jsonl"),
    file!("tests/rules.test.js", "templates/js/tests/rules.test.js"),
    file!("kit/build.mjs", "../../../../guest/kit-js/build.mjs"),
    file!("kit/capabilities.js", "../../../../guest/kit-js/capabilities.js"),
    file!("kit/component.d.ts", "../../../../guest/kit-js/component.d.ts"),
    file!("kit/component.js", "../../../../guest/kit-js/component.js"),
    file!("kit/event.js", "../../../../guest/kit-js/event.js"),
    file!("kit/fakes.d.ts", "../../../../guest/kit-js/fakes.d.ts"),
    file!("kit/fakes.js", "../../../../guest/kit-js/fakes.js"),
    file!("kit/handler.js", "../../../../guest/kit-js/handler.js"),
    file!("kit/json.js", "../../../../guest/kit-js/json.js"),
    file!("kit/sluicegate.d.ts", "../../../../guest/kit-js/sluicegate.d.ts"),
    file!("kit/sluicegate.js", "../../../../guest/kit-js/sluicegate.js"),
    file!("kit/time.js", "../../../../guest/kit-js/time.js"),
    file!("kit/uuid.js", "../../../../guest/kit-js/uuid.js"),
    file!("kit/verdict.js", "../../../../guest/kit-js/verdict.js"),
    file!("kit/violations.js", "../../../../guest/kit-js/violations.js"),
    file!("kit/wit.d.ts", "../../../../guest/kit-js/wit.d.ts"),
    file!("wit/world.wit", "templates/js/wit/world.wit"),
    file!("wit/deps/wasi-cli/cli.wit", "../../../../guest/wasi/cli.wit"),
    file!("wit/deps/wasi-config/config.wit", "../../../../guest/wasi/config.wit"),
    file!("wit/deps/wasi-io/io.wit", "../../../../guest/wasi/io.wit"),
    file!("wit/deps/sluicegate/types.wit", "../../../../wit/types.wit"),
    file!("wit/deps/sluicegate/handler.wit", "../../../../wit/handler.wit"),
    file!("wit/deps/sluicegate/stream.wit", "../../../../wit/stream.wit"),
    file!("wit/deps/sluicegate/store.wit", "../../../../wit/store.wit"),
    file!("wit/deps/sluicegate/metrics.wit", "../../../../wit/metrics.wit"),
];

pub(super) const PYTHON: &[TemplateFile] = &[
    file!("requirements.txt", "templates/python/requirements.txt"),
    file!("Makefile", "templates/python/Makefile"),
    file!("README.md", "templates/python/README.md"),
    file!("sluicegate.toml", "templates/rust/sluicegate.toml"),
    file!(".gitignore", "templates/python/gitignore"),
    file!(".github/workflows/rules.yml", "templates/python/.github/workflows/rules.yml"),
    file!("src/app.py", "templates/python/src/app.py"),
    file!("src/rules.py", "templates/python/src/rules.py"),
    file!("tests/rules.jsonl", "templates/rust/tests/rules.jsonl"),
    file!("tests/test_rules.py", "templates/python/tests/test_rules.py"),
    file!("kit/sluicegate/__init__.py", "../../../../guest/kit-python/sluicegate/__init__.py"),
    file!("kit/sluicegate/component.py", "../../../../guest/kit-python/sluicegate/component.py"),
    file!("kit/sluicegate/event.py", "../../../../guest/kit-python/sluicegate/event.py"),
    file!("kit/sluicegate/fakes.py", "../../../../guest/kit-python/sluicegate/fakes.py"),
    file!("kit/sluicegate/host.py", "../../../../guest/kit-python/sluicegate/host.py"),
    file!("kit/sluicegate/times.py", "../../../../guest/kit-python/sluicegate/times.py"),
    file!("kit/sluicegate/types.py", "../../../../guest/kit-python/sluicegate/types.py"),
    file!("kit/sluicegate/violations.py", "../../../../guest/kit-python/sluicegate/violations.py"),
    file!("wit/world.wit", "templates/python/wit/world.wit"),
    file!("wit/deps/wasi-config/config.wit", "../../../../guest/wasi/config.wit"),
    file!("wit/deps/sluicegate/types.wit", "../../../../wit/types.wit"),
    file!("wit/deps/sluicegate/handler.wit", "../../../../wit/handler.wit"),
    file!("wit/deps/sluicegate/stream.wit", "../../../../wit/stream.wit"),
    file!("wit/deps/sluicegate/store.wit", "../../../../wit/store.wit"),
    file!("wit/deps/sluicegate/metrics.wit", "../../../../wit/metrics.wit"),
];

pub(super) const SCHEMA: &[TemplateFile] = &[
    file!("Makefile", "templates/schema/Makefile"),
    file!("README.md", "templates/schema/README.md"),
    file!("sluicegate.toml", "templates/schema/sluicegate.toml"),
    file!(".gitignore", "templates/schema/gitignore"),
    file!(".github/workflows/rules.yml", "templates/schema/.github/workflows/rules.yml"),
    file!("schemas/purchase.json", "templates/schema/schemas/purchase.json"),
    file!("schemas/others.json", "templates/schema/schemas/others.json"),
    file!("tests/rules.jsonl", "templates/schema/tests/rules.jsonl"),
];
