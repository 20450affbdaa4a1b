//! Tests `rules new`: the projects that it makes are built and tested by the tools of their language.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sluicegate_tests::{builder, guests, new_projects_lock, rules_in as rules};
use tempfile::TempDir;

/// Runs a tool of others in the folder of a project, and expects it to succeed.
fn run(folder: &Path, command: &mut Command) -> Output {
    let output = command.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_project_in_rust_is_built_and_its_tests_pass() {
    let parent = TempDir::with_prefix("sluicegate-test-").unwrap();
    let made = rules(parent.path(), &["new", "my-rules", "--lang", "rust"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let project = parent.path().join("my-rules");
    // The versions of this repository are those that are known to work, and that are here already.
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"), project.join("Cargo.lock"))
        .unwrap();
    let target: PathBuf = guests::program("new-projects");
    let cargo = |arguments: &[&str]| {
        let mut cargo = builder(env!("CARGO"));
        cargo
            .args(arguments)
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTFLAGS")
            .env("CARGO_PROFILE_RELEASE_LTO", "off");
        run(&project, &mut cargo)
    };
    let lock = std::fs::File::create(new_projects_lock()).unwrap();
    lock.lock().unwrap();
    // To cargo it is the project that was built there last, unless its sources are newer.
    let source = std::fs::File::options().write(true).open(project.join("src/lib.rs")).unwrap();
    source.set_modified(std::time::SystemTime::now()).unwrap();
    cargo(&["build", "--release", "--target", "wasm32-wasip2"]);
    std::fs::copy(target.join("wasm32-wasip2/release/my_rules.wasm"), project.join("rules.wasm")).unwrap();
    cargo(&["test"]);
    drop(lock);
    let tested = rules(&project, &["test"]);
    assert_eq!(tested.code, Some(0), "{}{}", tested.out, tested.err);
    assert!(tested.out.contains("4 of 4 as expected"), "{}", tested.out);
}

/// The project needs no tool but this program, and `make`.
#[test]
fn a_project_of_schemas_is_made_and_its_goldens_pass() {
    let parent = TempDir::with_prefix("sluicegate-test-").unwrap();
    let made = rules(parent.path(), &["new", "my-schemas", "--lang", "schema"]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let project = parent.path().join("my-schemas");
    let path = std::env::join_paths([
        guests::program("sluicegate").parent().unwrap(),
        Path::new("/usr/bin"),
        Path::new("/bin"),
    ]);
    let tested = run(&project, Command::new("make").arg("test").env("PATH", path.unwrap()));
    let told = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(told.contains("5 of 5 as expected"), "{told}");
}

#[test]
fn nothing_is_overwritten() {
    let parent = TempDir::with_prefix("sluicegate-test-").unwrap();
    let new = |name: &str| rules(parent.path(), &["new", name, "--lang", "rust"]);
    std::fs::create_dir(parent.path().join("taken")).unwrap();
    assert_eq!(new("taken").code, Some(0), "an empty folder will do");
    let again = new("taken");
    assert_eq!(again.code, Some(2));
    assert!(again.err.contains("the folder taken is not empty"), "{}", again.err);
    assert_eq!(new("../up").code, Some(2));
    assert_eq!(rules(parent.path(), &["new", "other", "--lang", "cobol"]).code, Some(2));
}
