//! Tests `rules new` for JavaScript and Python: the projects that it makes are built and tested by their own `make`, as they come
//! and with rules that use all of the kit (`tests/kits`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sluicegate_tests::{GRANTS, STATEMENTS, builder, guests, kits, rules_in as rules};
use tempfile::TempDir;

/// An entry for which the rules of `tests/kits` fail.
const CRASH: &str = r#"{"name":"an error","fields":{"data":{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"crash","user_id":"ada","timestamp":"2026-01-18T22:17:34.827Z"}},"expect":{"fault":"trapped","message":"the guest trapped: it said: entry 1700000000001-0: {error}"}}"#;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Holds a project that `rules new` has made.
struct New {
    parent: TempDir,
}

impl New {
    /// Makes a project, with the tools of the cache beside it.
    fn project(language: &str) -> Self {
        let parent = TempDir::with_prefix("sluicegate-test-").unwrap();
        let made = rules(parent.path(), &["new", "my-rules", "--lang", language]);
        assert_eq!(made.code, Some(0), "{}", made.err);
        let bin = parent.path().join("bin");
        fs::create_dir(&bin).unwrap();
        kits::provide(&bin);
        Self { parent }
    }

    fn folder(&self) -> PathBuf {
        self.parent.path().join("my-rules")
    }

    /// Runs `make` with the program of this build, and returns what it printed.
    fn make(&self, target: &str) -> String {
        let bin = self.parent.path().join("bin");
        let program = guests::program("sluicegate");
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{path}", bin.display(), program.parent().unwrap().display());
        let mut make = builder("make");
        make.arg(target).current_dir(self.folder()).env("PATH", path).envs([kits::OFFLINE]);
        // Those of the make that runs the tests.
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        let output = make.output().unwrap();
        let told =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(output.status.success(), "{told}");
        told
    }

    /// Adds rules that use all of the kit, with their goldens. `error` is what their dead letter tells of what is thrown.
    fn extend(&self, rules: &str, error: &str, replaced: &[(&str, &str, &str)]) {
        let settings =
            format!("guest = \"rules.wasm\"\n\n[guest_settings]\nregion = \"north\"\n{GRANTS}{STATEMENTS}");
        fs::write(self.folder().join("sluicegate.toml"), settings).unwrap();
        fs::copy(repository("tests/kits").join(rules), self.folder().join("src").join(rules)).unwrap();
        for file in ["more.jsonl", "fakes.toml"] {
            fs::copy(repository("tests/kits").join(file), self.folder().join("tests").join(file)).unwrap();
        }
        fs::write(self.folder().join("tests/error.jsonl"), CRASH.replace("{error}", error)).unwrap();
        for (file, from, to) in [&[("wit/world.wit", "// import ", "import ")], replaced].concat() {
            let file = self.folder().join(file);
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains(from), "{}: {from}", file.display());
            fs::write(&file, text.replace(from, to)).unwrap();
        }
    }
}

/// Runs a kit's own tests.
fn kit_test(command: &mut Command) {
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {told}");
}

#[test]
fn the_kits_pass_their_own_tests() {
    kit_test(Command::new("node").arg("--test").arg(repository("guest/kit-js/tests/kit.test.js")));
    let mut python = Command::new("python3");
    python.args(["-m", "unittest", "discover", "-s", "tests"]).env("PYTHONPATH", ".");
    kit_test(python.current_dir(repository("guest/kit-python")));
}

#[test]
fn a_project_in_javascript_is_built_and_its_tests_pass() {
    let project = New::project("js");
    let told = project.make("test");
    assert!(told.contains("4 of 4 as expected"), "{told}");
    project.extend(
        "more.ts",
        "TypeError: cannot read property 'member' of undefined, at crash (src/more.js:38:12) < judge (src/more.js:11:52)",
        &[
            ("src/component.js", "// import ", "import "),
            ("src/component.js", "./rules.js", "./more.js"),
            (
                "src/component.js",
                "component(judge, {})",
                "component(judge, { config, store, stream, metrics })",
            ),
        ],
    );
    let told = project.make("test");
    assert!(told.contains("12 of 12 as expected"), "{told}");
}

/// A mistake in the types of a project is told before anything runs.
#[test]
fn types_of_the_contract_are_checked() {
    let project = New::project("js");
    project.make("node_modules");
    let rules = project.folder().join("src/rules.js");
    let text = fs::read_to_string(&rules).unwrap();
    fs::write(&rules, text.replace("accept(event)", "accept({ ...event, user_id: 7 })")).unwrap();
    let checked = Command::new("node_modules/.bin/tsc").current_dir(project.folder()).output().unwrap();
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(
        told.contains("src/rules.js(22,") && told.contains("'number' is not assignable to type 'string'"),
        "{told}"
    );
}

#[test]
fn a_project_in_python_is_built_and_its_tests_pass() {
    let project = New::project("python");
    project.extend(
        "more.py",
        "AttributeError: 'Event' object has no attribute 'missing', at crash (src/more.py:50) < judge (src/more.py:18)",
        &[
            ("src/app.py", "# from wit_world", "from wit_world"),
            ("src/app.py", "from rules import", "from more import"),
            (
                "src/app.py",
                "component(judge)",
                "component(judge, config=config, metrics=metrics, store=store, stream=stream)",
            ),
        ],
    );
    let told = project.make("test");
    assert!(told.contains("12 of 12 as expected"), "{told}");
}
