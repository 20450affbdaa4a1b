//! Tests the promise of wit/README.md: what a released version is never changes, and its components are judged for as long as
//! its folder is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sluicegate::batch::Digest;
use sluicegate_tests::{Project, guests};

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

/// Returns the versions that have a folder.
fn released() -> Vec<String> {
    let entries = fs::read_dir(wit()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let versions: Vec<String> = folders.map(|folder| folder.file_name().into_string().unwrap()).collect();
    assert!(!versions.is_empty());
    versions
}

/// Returns the files of a version by their names.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "wit"));
    files
        .map(|file| {
            (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&file).unwrap())
        })
        .collect()
}

/// Returns the version that a file of the contract names.
fn version_of(file: &str) -> &str {
    let line = file.lines().next().unwrap();
    let version = line.strip_prefix("package sluicegate:guest@").and_then(|rest| rest.strip_suffix(';'));
    version.unwrap_or_else(|| panic!("found {line:?}, wanted the package with its version"))
}

#[test]
fn a_released_version_is_never_edited() {
    for version in released() {
        let folder = wit().join(&version);
        let files = files(&folder);
        for (name, text) in &files {
            assert_eq!(version_of(text), version, "{version}/{name}");
        }
        let digests: String = files
            .iter()
            .map(|(name, text)| format!("{}  {name}\n", Digest::new(text.as_bytes()).to_hex()))
            .collect();
        let recorded = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        assert_eq!(
            digests, recorded,
            "wit/{version} is released, and was edited: a change is a new version, see wit/README.md"
        );
    }
}

/// What is being worked on is a version that has no folder yet, or the last one as it is.
#[test]
fn the_contract_at_hand_is_that_of_its_version() {
    let current = files(&wit());
    let version = version_of(current.values().next().unwrap());
    assert!(current.values().all(|file| version_of(file) == version), "the files name several versions");
    if released().iter().any(|released| released == version) {
        let changed = "wit/ differs from its released version: raise the version, see wit/README.md";
        assert!(current == files(&wit().join(version)), "{changed}");
    }
}

const SETTINGS: &str = r#"
[grants]
stream = true
publish = { purchases = 1000 }
statements = ["look", "touch", "refused"]
metrics = true

[statements.look]
sql = "SELECT 1"
parameters = ["text", "boolean", "integer", "number", "text", "uuid", "timestamp", "json", "bytes"]

[statements.touch]
sql = "SELECT 1"

[statements.refused]
sql = "SELECT 1"
"#;

const FAKES: &str = r#"
lag = 12

[[statements.look]]
rows = [[{ null = true }, true, 7, 0.5, "a", { uuid = "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11" }, 2026-01-18T22:17:34.827Z, { json = "{}" }, { bytes = "/w==" }]]

[[statements.touch]]
changed = 3

[[statements.refused]]
error = { refused = { code = "23514", message = "no" } }
"#;

const GOLDENS: &str = r#"
{"id":"1-0","fields":{"do":"accept"},"expect":{"accept":{"event_id":"00000000-0000-0001-0000-000000000000","user_id":"ada","properties":{"lag":12,"deliveries":1,"found":"null boolean integer number text uuid timestamp json bytes","changed":3,"refused":"refused: 23514","ungranted":"not granted: none","published":"published"}}},"publish":[{"stream":"purchases","fields":{"plan":"gold"}}],"metrics":[{"name":"asked","labels":{"plan":"gold"},"add":1},{"name":"asked_seconds","observe":0.5}]}
{"id":"2-0","fields":{"do":"expand"},"expect":{"expand":[{"event_id":"00000000-0000-0002-0000-000000000000","properties":null},{"event_id":"00000000-0000-0002-0000-000000000001"}]}}
{"id":"3-0","fields":{"do":"reject"},"expect":{"reject":[{"path":"do","code":"unwanted","message":"found reject, wanted another"}]}}
{"id":"4-0","fields":{},"expect":{"discard":"nothing to do"}}
"#;

const GOLDENS_OF_BYTES: &str = r#"{"fields":{"a":{"base64":"/w=="},"b":"ü"},"expect":{"discard":"3 bytes"}}"#;

/// A component that was built of the version's own folder is judged as when it was new.
#[test]
fn components_of_each_released_version_are_judged() {
    for version in released() {
        let name = format!("released_{}", version.replace('.', "_"));
        for (name, goldens) in [(name.clone(), GOLDENS), (format!("{name}_bytes"), GOLDENS_OF_BYTES)] {
            let guest = guests::built(&format!("examples/{name}.wasm"));
            let project = Project::new(&guest, SETTINGS);
            project.write("tests/fakes.toml", FAKES);
            project.write("tests/all.jsonl", goldens);
            let told = project.rules(&["test"]);
            assert_eq!(told.code, Some(0), "{name}: {}{}", told.out, told.err);
        }
    }
}
