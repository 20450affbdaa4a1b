//! Tests rules that are made of JSON Schemas with the JSON-Schema-Test-Suite: the real command, the real sandbox.
//!
//! All schemas of a draft are in one component, each for a type of events of its own, and all that the suite asks is judged
//! in one run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::slice;

use serde_json::{Value, json};
use sluicegate_tests::{Project, cached, guests};

/// Names the folder that `tests/setup/schemas.sh` fills.
const SUITE: &str = "json-schema-test-suite-4.26.0";

/// Says what the command does not do as the suite wants it, by file and description. The manual has the same table.
struct Excluded {
    /// Holds groups whose schema the command refuses.
    refused: &'static [(&'static str, &'static str)],
    /// Holds tests whose answer differs.
    differing: &'static [(&'static str, &'static str)],
}

/// Holds a schema of the suite with what is asked of it.
struct Group {
    file: String,
    description: String,
    schema: Value,
    tests: Vec<Value>,
}

fn suite() -> PathBuf {
    cached(&format!("{SUITE}/README.md"), "schemas").with_file_name("")
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "json")).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Returns the required tests of a draft.
fn groups(draft: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for path in json_files(&suite().join("tests").join(draft)) {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        for group in read(&path).as_array().unwrap() {
            groups.push(Group {
                file: file.clone(),
                description: group["description"].as_str().unwrap().to_owned(),
                schema: group["schema"].clone(),
                tests: group["tests"].as_array().unwrap().clone(),
            });
        }
    }
    groups
}

/// Returns the schema with the draft's URI: the suite leaves it out where the folder tells.
fn of_draft(mut schema: Value, uri: &str) -> Value {
    if let Value::Object(keywords) = &mut schema {
        keywords.entry("$schema").or_insert(uri.into());
    }
    schema
}

/// Writes the schemas of these groups, and returns the command's arguments. Each is asked about the field `data`, since
/// an event's properties are an object, and what the suite asks about may be anything.
fn arguments(project: &Project, groups: &[Group], draft: &str, uri: &str) -> Vec<String> {
    let (mut roots, mut others) = (Vec::new(), Vec::new());
    for (i, group) in groups.iter().enumerate() {
        let data = match &group.schema {
            Value::Object(_) => json!({ "$ref": format!("../schemas/{i}.json") }),
            schema => schema.clone(),
        };
        let root = json!({ "$schema": uri, "properties": { "data": data } });
        project.write(&format!("roots/{i}.json"), &root.to_string());
        roots.push(format!("{i}=roots/{i}.json"));
        if group.schema.is_object() {
            project.write(&format!("schemas/{i}.json"), &of_draft(group.schema.clone(), uri).to_string());
            others.extend(["--with".to_owned(), format!("schemas/{i}.json")]);
        }
    }
    let remotes = suite().join("remotes");
    for folder in ["", "baseUriChange", "baseUriChangeFolder", "baseUriChangeFolderInSubschema", "nested"] {
        for folder in [folder.to_owned(), format!("{draft}/{folder}")] {
            let path = remotes.join(&folder);
            for file in if path.is_dir() { json_files(&path) } else { Vec::new() } {
                let name = file.strip_prefix(&remotes).unwrap().to_str().unwrap().to_owned();
                // What is for all drafts is in the newest.
                let schema = if name.starts_with(draft) { of_draft(read(&file), uri) } else { read(&file) };
                project.write(&format!("remotes/{name}"), &schema.to_string());
                others.extend(["--with".to_owned(), format!("http://localhost:1234/{name}=remotes/{name}")]);
            }
        }
    }
    let output = ["-o".to_owned(), "rules.wasm".to_owned()];
    ["from-schema".to_owned()].into_iter().chain(roots).chain(others).chain(output).collect()
}

/// Returns entries as `sluicegate rules run` reads them.
fn entries(groups: &[Group]) -> String {
    let mut lines = String::new();
    for (i, group) in groups.iter().enumerate() {
        for test in &group.tests {
            let fields = json!({
                "event_id": "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", "event_type": i.to_string(), "user_id": "u",
                "timestamp": "2026-01-18T22:17:34.827Z", "properties": { "data": test["data"] },
            });
            lines.push_str(&json!({ "fields": fields }).to_string());
            lines.push('\n');
        }
    }
    lines
}

/// Returns whether the schema takes the event, or why there is no telling.
fn is_valid(outcome: &Value) -> Result<bool, String> {
    if outcome.get("accept").is_some() {
        return Ok(true);
    }
    let violations = outcome["reject"].as_array().ok_or(outcome.to_string())?;
    let is_schemas = |violation: &Value| violation["path"].as_str().unwrap().starts_with("properties.data");
    if violations.iter().all(is_schemas) { Ok(false) } else { Err(outcome.to_string()) }
}

fn run(draft: &str, uri: &str, excluded: &Excluded) {
    let project = Project::new(&guests::scripted(), "");
    let make = |groups: &[Group]| {
        let arguments = arguments(&project, groups, draft, uri);
        project.rules(&arguments.iter().map(String::as_str).collect::<Vec<&str>>())
    };
    let all = groups(draft);
    let is_refused =
        |group: &Group| excluded.refused.contains(&(group.file.as_str(), group.description.as_str()));
    let (refused, groups): (Vec<Group>, Vec<Group>) = all.into_iter().partition(is_refused);
    assert_eq!(refused.len(), excluded.refused.len(), "{draft} has other groups");
    for group in &refused {
        let told = make(slice::from_ref(group));
        assert_eq!(told.code, Some(3), "{draft}, {}: {}", group.description, told.err);
        assert!(told.err.contains("/0.json: at `#"), "{draft}, {}: {}", group.description, told.err);
    }

    let told = make(&groups);
    assert_eq!(told.code, Some(0), "{draft}: {}", told.err);
    let told = project.rules_reading(&entries(&groups), &["run"]);
    assert_eq!(told.code, Some(0), "{draft}: {}", told.err);
    let mut outcomes = told.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (mut differing, mut expected) = (BTreeSet::new(), BTreeSet::new());
    for group in &groups {
        for test in &group.tests {
            let name = test["description"].as_str().unwrap();
            let description = format!("{}, {}, {name}", group.file, group.description);
            let found = is_valid(&outcomes.next().unwrap());
            if found != Ok(test["valid"].as_bool().unwrap()) {
                eprintln!("{description}: {found:?}");
                differing.insert(description.clone());
            }
            if excluded.differing.iter().any(|(file, end)| group.file == *file && name.ends_with(end)) {
                expected.insert(description);
            }
        }
    }
    assert_eq!(outcomes.next(), None);
    assert_eq!(differing, expected, "{draft}: what differs, and what the manual says of it");

    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules-without-code.md");
    let manual = fs::read_to_string(manual).unwrap();
    for (file, name) in excluded.refused.iter().chain(excluded.differing) {
        let row = format!("| `{}` | {name} |", file.trim_end_matches(".json"));
        assert!(manual.contains(&row), "the manual lacks a line {row}");
    }
}

const NUL: (&str, &str) = ("enum.json", "match string with nul");

/// The schema of schemas is no file that was given.
const META: [(&str, &str); 2] = [
    ("definitions.json", "validate definition against metaschema"),
    ("ref.json", "remote ref, containing refs itself"),
];

#[test]
fn draft_4_passes_its_suite() {
    let excluded = Excluded { refused: &META, differing: &[NUL] };
    run("draft4", "http://json-schema.org/draft-04/schema#", &excluded);
}

#[test]
fn draft_7_passes_its_suite() {
    let excluded = Excluded {
        refused: &[
            META[0],
            META[1],
            ("format.json", "idn-email format"),
            ("format.json", "idn-hostname format"),
        ],
        differing: &[NUL, ("const.json", "match string with nul")],
    };
    run("draft7", "http://json-schema.org/draft-07/schema#", &excluded);
}

#[test]
fn draft_2020_12_passes_its_suite() {
    let excluded = Excluded {
        refused: &[
            ("format.json", "idn-email format"),
            ("format.json", "idn-hostname format"),
            ("vocabulary.json", "schema that uses custom metaschema with with no validation vocabulary"),
            ("vocabulary.json", "ignore unrecognized optional vocabulary"),
        ],
        differing: &[
            ("format.json", "string is only an annotation by default"),
            NUL,
            ("const.json", "match string with nul"),
        ],
    };
    run("draft2020-12", "https://json-schema.org/draft/2020-12/schema", &excluded);
}
