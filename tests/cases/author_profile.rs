//! Tests where `sluicegate rules profile` says that time goes.

use std::collections::HashMap;
use std::fs;

use serde_json::Value;
use sluicegate_tests::{Project, guests};

/// Makes a project of the scripted guest, which spends its time in one function.
fn busy() -> Project {
    let project = Project::new(&guests::scripted(), "");
    let golden = r#"{"fields":{"verdict":"busy","rounds":200000},"expect":{"discard":""}}"#;
    let fails = r#"{"fields":{"verdict":"expand","count":0},"expect":{"fault":"bad_verdict"}}"#;
    project.write("tests/a.jsonl", &format!("{golden}\n{golden}\n{fails}\n"));
    project
}

/// Returns how many of the samples were in each function: the innermost one, and any.
fn counted(profile: &Value) -> (HashMap<&str, u64>, HashMap<&str, u64>) {
    let [thread] = profile["threads"].as_array().unwrap().as_slice() else { panic!("one thread") };
    let at = |table: &'static str, column: &'static str, place: u64| {
        &thread[table][column][usize::try_from(place).unwrap()]
    };
    let name = |stack: u64| {
        let frame = at("stackTable", "frame", stack).as_u64().unwrap();
        let function = at("frameTable", "func", frame).as_u64().unwrap();
        let name = at("funcTable", "name", function).as_u64().unwrap();
        thread["stringArray"][usize::try_from(name).unwrap()].as_str().unwrap()
    };
    let (mut own, mut with_calls) = (HashMap::new(), HashMap::new());
    for (sample, stack) in thread["samples"]["stack"].as_array().unwrap().iter().enumerate() {
        assert_eq!(thread["samples"]["weight"][sample], 1);
        assert!(thread["samples"]["timeDeltas"][sample].as_f64().unwrap() > 0.0);
        // The service may be at work for the guest, with no function of it on the stack.
        let mut next = stack.as_u64();
        *own.entry(next.map_or("", name)).or_default() += 1;
        while let Some(stack) = next {
            *with_calls.entry(name(stack)).or_default() += 1;
            next = at("stackTable", "prefix", stack).as_u64();
        }
    }
    (own, with_calls)
}

#[test]
fn the_function_that_takes_the_time_is_named() {
    let project = busy();
    project.write("profile.json", "of an earlier run");
    let told = project.rules(&["profile", "--batch", "20"]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{}", told.out);
    assert!(told.out.contains("2 entries, 1 left out because the rules fail for them, in batches of 20\n"));
    let hottest = told.out.lines().find(|line| line.contains(" %")).unwrap();
    assert!(hottest.ends_with("guest_scripted::compute"), "{}", told.out);
    assert!(!told.out.contains("no names of functions"), "{}", told.out);

    let profile: Value = serde_json::from_str(&project.read("profile.json")).unwrap();
    let meta = &profile["meta"];
    assert_eq!((&meta["preprocessedProfileVersion"], &meta["symbolicated"]), (&55.into(), &true.into()));
    assert_eq!(profile["threads"][0]["name"], "rules.wasm");
    let (own, with_calls) = counted(&profile);
    let all: u64 = own.values().sum();
    assert!(all > 200, "about a sample each millisecond: {own:?}");
    let hot = own["guest_scripted::compute"];
    assert!(hot > all * 7 / 10, "{hot} of {all}: {own:?}");
    let callers = with_calls["sluicegate:guest/handler@0.1.0#process"];
    assert!(callers >= hot && callers <= all, "what it calls counts for a function: {with_calls:?}");
}

#[test]
fn functions_without_names_have_numbers() {
    let project = busy();
    let mut component = fs::read(guests::scripted()).unwrap();
    // A section of another name is not read.
    let name = b"\x04name";
    let places: Vec<usize> = (0..component.len()).filter(|at| component[*at..].starts_with(name)).collect();
    for place in places {
        component[place + 1..place + name.len()].copy_from_slice(b"gone");
    }
    fs::write(project.folder().join("nameless.wasm"), component).unwrap();
    let told = project.rules(&["profile", "nameless.wasm", "-o", "other.json", "--batch", "20"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let hottest = told.out.lines().find(|line| line.contains(" %")).unwrap();
    assert!(hottest.contains("%  function "), "{}", told.out);
    assert_eq!(told.out.matches("it has no names of functions").count(), 1, "{}", told.out);
    assert!(project.read("other.json").contains("\"function "));
    assert!(!project.folder().join("profile.json").exists());
}

#[test]
fn the_time_limit_holds_while_samples_are_taken() {
    let project = Project::new(&guests::scripted(), "guest_time_limit = \"20ms\"\n");
    project.write("events.jsonl", r#"{"fields":{"verdict":"busy","rounds":4000000000}}"#);
    let told = project.rules(&["profile", "--events", "events.jsonl"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("the rules fail for all of the 1 entries"), "{}", told.err);
    assert!(!project.folder().join("profile.json").exists());
    let told = project.rules(&["profile", "--events", "missing.jsonl"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
}
