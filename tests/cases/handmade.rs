//! Tests that a guest that no compiler made is refused at load, or that its entry becomes a letter.
//!
//! There is one test for each file of `tests/guests/handmade`, of the same name.

use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Fields, Launch, Scene, files_of, message, refused, with_guest};

macro_rules! each_has_a_test {
    ($($name:ident)*) => { $(#[expect(unused_imports, reason = "it must be there, no more")] use self::$name as _;)* };
}
sluicegate_tests::handmade_guests!(each_has_a_test);

#[test]
fn every_file_is_in_the_list() {
    let mut listed = guests::HANDMADE.to_vec();
    listed.sort_unstable();
    assert_eq!(files_of("handmade", ".wat"), listed);
}

fn is_refused(name: &str, parts: &[&str]) {
    refused(&guests::handmade(name), |launch| launch, parts);
}

/// Checks that the guest does not start: only the component is to blame before the first entry.
fn does_not_start(name: &str, why: &str) {
    is_refused(name, &["it does not start", why]);
}

/// Checks that the provoking entry becomes a dead letter. The guest discards the others.
fn is_stopped(name: &str, reason: &str, words: &str) {
    let scene = Scene::new();
    let entries = [Event::new().data(), provoking(&Event::new(), None), Event::new().data()];
    let ids = scene.stream.add_all(&entries);
    let service = with_guest(&scene, &guests::handmade(name)).start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].reason.as_str(), &letters[0].entry_id), (reason, &ids[1]), "{letters:?}");
    assert!(message(&letters[0]).contains(words), "{}", message(&letters[0]));
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, 2, 1]);
}

/// Checks that the guest discards all of its entries.
fn goes_on(name: &str) {
    let scene = Scene::new();
    let entries: Vec<Fields> = (0..5).map(|_| provoking(&Event::new(), None)).collect();
    scene.stream.add_all(&entries);
    let service = with_guest(&scene, &guests::handmade(name)).start();
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, 5, 0]);
}

#[test]
fn idle() {
    goes_on("idle");
}

#[test]
fn denied_growth() {
    goes_on("denied_growth");
}

#[test]
fn start_loops() {
    does_not_start("start_loops", "the guest took longer than 1000 ms (GUEST_TIME_LIMIT)");
}

#[test]
fn start_traps() {
    does_not_start("start_traps", "unreachable");
}

#[test]
fn start_recurses() {
    does_not_start("start_recurses", "more than 524288 bytes of stack (GUEST_STACK)");
}

#[test]
fn start_grows_table() {
    does_not_start("start_grows_table", "more than 100000 table elements (GUEST_TABLE_ELEMENTS)");
}

#[test]
fn memories_in_parts() {
    let component = guests::handmade("memories_in_parts");
    let set = |launch: Launch, mebibytes: u32| launch.set("GUEST_MEMORY", format!("{}B", mebibytes << 20));
    let words = ["it does not start", "more than 4194304 bytes of memory (GUEST_MEMORY)"];
    refused(&component, |launch| set(launch, 4), &words);
    let scene = Scene::new();
    set(with_guest(&scene, &component), 5).start().stop(); // with that of the guest itself, a page
}

#[test]
fn many_memories() {
    is_refused("many_memories", &["memories", "limit of 8"]);
}

#[test]
fn many_tables() {
    is_refused("many_tables", &["tables", "limit of 64"]);
}

#[test]
fn many_instances() {
    is_refused("many_instances", &["101 core module instances", "maximum of 64", "(GUEST_INSTANCES)"]);
}

#[test]
fn greedy() {
    is_refused("greedy", &["imports that are not granted: sluicegate:test/secrets"]);
}

#[test]
fn another_type() {
    let words = [
        "its function `process` has another type",
        "expected func(batch: list<record",
        "found func() -> list<string>",
    ];
    is_refused("another_type", &words);
}

/// Checks that code for a part of wasmtime that is not built in is refused. If it ran, it would end
/// the process, and all tenants with it.
fn is_of_no_proposal(name: &str) {
    is_refused(name, &["it does not compile", "gc proposal must be enabled"]);
}

#[test]
fn open_type_call() {
    is_of_no_proposal("open_type_call");
}

#[test]
fn open_type_call_in_start() {
    is_of_no_proposal("open_type_call_in_start");
}

#[test]
fn ref_cast_open() {
    is_of_no_proposal("ref_cast_open");
}

#[test]
fn forged_import_name() {
    let words = ["it does not compile", r"x\r INFO forged \u{202e}"];
    refused(&guests::handmade("forged_import_name"), |launch| launch, &words);
}

#[test]
fn table_growth() {
    is_stopped("table_growth", "too_many_elements", "more than 100000 table elements (GUEST_TABLE_ELEMENTS)");
}

#[test]
fn memory_growth() {
    is_stopped("memory_growth", "out_of_memory", "more than 134217728 bytes of memory (GUEST_MEMORY)");
}

#[test]
fn wrong_utf8() {
    is_stopped("wrong_utf8", "trapped", "utf-8");
}

#[test]
fn wrong_case() {
    is_stopped("wrong_case", "trapped", "discriminant");
}

#[test]
fn wrong_pointer() {
    is_stopped("wrong_pointer", "trapped", "out of bounds");
}

#[test]
fn wrong_length() {
    is_stopped("wrong_length", "trapped", "out of bounds");
}

#[test]
fn wrong_alignment() {
    is_stopped("wrong_alignment", "trapped", "aligned");
}

/// Checks that every entry becomes a dead letter, since none can be handed over.
fn takes_no_entry(name: &str, reason: &str, words: &str) {
    let scene = Scene::new();
    scene.stream.add_all(&[Event::new().data(), Event::new().data()]);
    let service = with_guest(&scene, &guests::handmade(name)).set("GUEST_TIME_LIMIT", "100ms").start();
    scene.stream.until_drained();
    for letter in scene.database.letters() {
        assert_eq!(letter.reason, reason);
        assert!(message(&letter).contains(words), "{}", message(&letter));
    }
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, 0, 2]);
}

#[test]
fn wrong_allocation() {
    takes_no_entry("wrong_allocation", "trapped", "realloc");
}

#[test]
fn endless_allocation() {
    takes_no_entry("endless_allocation", "timed_out", "100 ms (GUEST_TIME_LIMIT)");
}
