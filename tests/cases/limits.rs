//! Each limit holds, says its name, and costs nobody but the entry, or the component, that breaks it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Fields, Launch, Scene};

use crate::claiming::{claiming, verdict};
use crate::hostile::{hostile, letters_of, message, reasons};

/// An entry that becomes rows of its own: a test's IDs follow each other, and so do an expansion's.
fn expand(number: usize, count: &str, user: &str) -> Fields {
    let id = format!("00000000-0000-4000-8000-{:012x}", (number + 1) * 10_000);
    verdict("expand", &[("count", count), ("event_id", &id), ("user_id", user)])
}

#[test]
fn output_is_limited_in_one_call_and_in_sum() {
    let scene = Scene::new();
    let launch = hostile(&scene, "huge_rejection").set("GUEST_OUTPUT_BYTES", 4 << 20);
    let (letters, _) = letters_of(&scene, launch, &[provoking(&Event::new(), Some(5))]);
    assert_eq!(reasons(&letters), ["too_much_output"]);
    assert!(message(&letters[0]).contains("4194304 bytes (GUEST_OUTPUT_BYTES)"), "{}", message(&letters[0]));

    // None of these is too much by itself: a megabyte and more each, of an entry of a few bytes.
    scene.database.execute("TRUNCATE dead_letters, events");
    let user = "x".repeat(1_400);
    let mut entries: Vec<Fields> = (0..8).map(|i| expand(i, "1000", &user)).collect();
    entries.extend((0..5).map(|_| Event::new().data()));
    scene.stream.add_all(&entries);
    let service = claiming(&scene).set("GUEST_OUTPUT_BYTES", 4 << 20).start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert!(reasons(&letters).iter().all(|reason| *reason == "too_much_output"), "{letters:?}");
    assert!((1..8).contains(&letters.len()), "{} letters", letters.len());
    assert!(message(&letters[0]).contains("beyond what the entries brought"), "{}", message(&letters[0]));
    let tally = service.stop().metrics().tally();
    assert_eq!(tally[0], 13 - u64::try_from(letters.len()).unwrap(), "the rest is stored");
}

#[test]
fn rows_of_a_batch_are_limited_and_the_largest_entry_pays() {
    let scene = Scene::new();
    let [small, large, medium] = [(1, "400"), (2, "700"), (3, "500")].map(|(i, count)| expand(i, count, "x"));
    let ids = scene.stream.add_all(&[small, large, Event::new().data(), medium]);
    let service = claiming(&scene).set("GUEST_ROWS", 1_000).start();
    scene.until_stored(901);
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["too_much_output"]);
    assert_eq!(letters[0].entry_id, ids[1]);
    assert!(message(&letters[0]).contains("1000 rows (GUEST_ROWS)"), "{}", message(&letters[0]));
    assert_eq!(service.stop().metrics().get("too_much_output"), 1);
}

#[test]
fn strings_and_json_are_limited() {
    let scene = Scene::new();
    let launch = claiming(&scene).set("GUEST_STRING_BYTES", 1_024).set("GUEST_JSON_DEPTH", 3);
    let long = "x".repeat(1_025);
    let properties = format!("{{\"a\":\"{long}\"}}");
    let bad = [
        verdict("accept", &[("user_id", &long)]),
        verdict("accept", &[("event_type", &long)]),
        verdict("accept", &[("properties", &properties)]),
        verdict("accept", &[("properties", "{\"a\":[[[]]]}")]),
        verdict("expand", &[("user_id", &long)]),
    ];
    let (letters, _) = letters_of(&scene, launch, &bad);
    let found: Vec<&str> = letters.iter().map(|letter| letter.codes()[0]).collect();
    assert_eq!(found, ["too_long", "too_long", "too_long", "invalid_properties", "too_long"]);
    assert!(message(&letters[0]).contains("GUEST_STRING_BYTES"), "{}", message(&letters[0]));
    assert!(message(&letters[3]).contains("GUEST_JSON_DEPTH"), "{}", message(&letters[3]));
    assert_eq!(letters[4].violations[0]["path"], "[0].user_id");
}

/// Halving alone would take two limits for each entry that loops: 50 s.
#[test]
fn a_batch_full_of_loops_takes_a_bounded_time() {
    let scene = Scene::new();
    let entries: Vec<Fields> = (0..60)
        .map(|i| if i % 6 == 5 { Event::new().data() } else { provoking(&Event::new(), None) })
        .collect();
    let ids = scene.stream.add_all(&entries);
    let start = Instant::now();
    let service = hostile(&scene, "endless_loop").set("GUEST_TIME_LIMIT_MS", 500).start();
    scene.until_stored(10);
    scene.stream.until_drained();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(35), "{took:?}");
    let letters = scene.database.letters();
    assert_eq!(letters.len(), 50);
    for (letter, id) in letters.iter().zip(ids.iter().zip(0..).filter(|(_, i)| i % 6 != 5).map(|(id, _)| id))
    {
        assert_eq!((letter.reason.as_str(), &letter.entry_id), ("timed_out", id));
    }
    assert!(message(&letters[0]).contains("longer than 500 ms"), "{}", message(&letters[0]));
    assert!(message(&letters[49]).contains("replay it alone"), "{}", message(&letters[49]));
    let metrics = service.stop().metrics();
    assert!((50..80).contains(&metrics.get("timed_out")), "{metrics:?}");
}

/// Starts the service with a component written by hand, which it must refuse with these words.
fn refused(scene: &Scene, component: &[u8], set: impl Fn(Launch) -> Launch, parts: &[&str]) {
    let file = scene.folder().join("handmade.wasm");
    fs::write(&file, component).unwrap();
    let ended = set(scene.service().set("GUEST", file.display())).run_to_end();
    assert_eq!(ended.code, Some(1), "wanted {parts:?}; the log:\n{}", ended.log);
    let last = ended.log.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
}

/// What happens before the first entry is nobody's fault but the component's.
#[test]
fn start_up_code_is_held_to_the_limits_at_load() {
    let scene = Scene::new();
    let as_it_is = |launch| launch;
    let idle = guests::handmade(&guests::idle_with(""));
    let file = scene.folder().join("idle.wasm");
    fs::write(&file, &idle).unwrap();
    scene.service().set("GUEST", file.display()).start().stop(); // what follows is refused for its own reason

    let endless = guests::idle_with("(func $f (loop (br 0))) (start $f)");
    refused(
        &scene,
        &guests::handmade(&endless),
        as_it_is,
        &["it does not start", "the guest took longer than 1000 ms"],
    );
    let trap = guests::idle_with("(func $f unreachable) (start $f)");
    refused(&scene, &guests::handmade(&trap), as_it_is, &["it does not start", "unreachable"]);
    let deep = guests::idle_with("(func $f (call $f)) (start $f)");
    refused(&scene, &guests::handmade(&deep), as_it_is, &["it does not start", "GUEST_STACK_BYTES"]);
    let table = guests::idle_with(
        "(table 1 funcref) (func $f (drop (table.grow 0 (ref.null func) (i32.const 100000)))) (start $f)",
    );
    refused(&scene, &guests::handmade(&table), as_it_is, &["it does not start", "GUEST_TABLE_ELEMENTS"]);
}

#[test]
fn several_memories_are_summed() {
    let scene = Scene::new();
    let memories = |count: usize| {
        let module = "(core module $other (memory (export \"memory\") 16))".to_owned();
        let instances = "(core instance (instantiate $other))".repeat(count);
        guests::handmade(&(module + &instances + &guests::idle_with("")))
    };
    let set = |launch: Launch| launch.set("GUEST_MEMORY_BYTES", 4 << 20);
    refused(&scene, &memories(4), set, &["it does not start", "more than 4194304 bytes of memory"]);
    refused(&scene, &memories(20), |launch| launch, &["memories"]);
    let file = scene.folder().join("three.wasm");
    fs::write(&file, memories(3)).unwrap();
    set(scene.service()).set("GUEST", file.display()).start().stop();
}

/// In a process of its own, which ends with its limits; the service goes on or says why not.
#[test]
fn compilation_is_limited() {
    let scene = Scene::new();
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(400_000);
    let slow = guests::handmade(&guests::idle_with(&format!("(func (local i32) {sum})")));
    refused(
        &scene,
        &slow,
        |launch| launch.set("GUEST_COMPILE_MS", 100),
        &["it takes longer than 100 ms to compile (GUEST_COMPILE_MS)"],
    );
    refused(
        &scene,
        &slow,
        |launch| launch.set("GUEST_COMPILE_MEMORY_BYTES", 256 << 20),
        &["it takes more than 268435456 bytes to compile (GUEST_COMPILE_MEMORY_BYTES)"],
    );
    refused(
        &scene,
        &slow,
        |launch| launch.set("GUEST_COMPONENT_BYTES", 1 << 20),
        &["more than 1048576 bytes (GUEST_COMPONENT_BYTES)"],
    );
}

#[test]
fn compiled_components_are_kept_where_only_the_service_writes() {
    let scene = Scene::new();
    let cache = scene.folder().join("cache");
    let launch = || claiming(&scene).set("GUEST_CACHE", cache.display());
    launch().start().stop();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let written = || fs::metadata(&files[0]).unwrap().modified().unwrap();
    let first = written();
    launch().start().stop();
    assert_eq!(written(), first, "used, not made again");

    let mut code = fs::read(&files[0]).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    fs::write(&files[0], &code).unwrap();
    let log = launch().start().stop().log;
    assert!(log.contains("found a damaged file"), "{log}");
    assert_ne!(fs::read(&files[0]).unwrap(), code, "made anew");

    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    let service = launch().start();
    service.until_logged(&["the cache of compiled guests is not used", "with the mode 755; wanted a folder"]);
    service.stop();
}

/// Each with what was expected, what was found and what to do, before a byte of it runs.
#[test]
fn a_component_of_another_form_is_told_what_is_wrong() {
    let scene = Scene::new();
    let as_it_is = |launch| launch;
    let program = fs::read("/proc/self/exe").unwrap(); // ELF, as precompiled components are
    refused(
        &scene,
        &program[..4_096],
        as_it_is,
        &["native code", "hand over the component it was made from"],
    );
    refused(
        &scene,
        &guests::of_another_type(),
        as_it_is,
        &[
            "its function `process` has another type",
            "expected func(batch: list<record",
            "found func() -> list<",
        ],
    );
    refused(
        &scene,
        &guests::command(),
        as_it_is,
        &["it exports no `sluicegate:guest/handler@0.1.0`; it exports wasi:cli/run@0.2"],
    );
    let asking =
        guests::importing(&["acme:vault/keys@1.0.0", "wasi:cli/stdout@0.2.0", "wasi:http/types@0.2.3"]);
    refused(
        &scene,
        &asking,
        as_it_is,
        &["imports that are not granted: acme:vault/keys@1.0.0, wasi:http/types@0.2.3; guests may import"],
    );
}

#[test]
fn instances_are_limited() {
    let scene = Scene::new();
    let instances = "(core module $other) ".to_owned() + &"(core instance (instantiate $other))".repeat(100);
    let component = guests::handmade(&(instances + &guests::idle_with("")));
    refused(&scene, &component, |launch| launch, &["instances"]);
}

#[test]
fn settings_reach_the_guest_and_nothing_else_does() {
    let scene = Scene::new();
    fs::write(
        scene.folder().join("sluicegate.toml"),
        "[guest_settings]\nzone = \"north\"\nlimit = \"5\"\nalpha = \"1\"\n",
    )
    .unwrap();
    let service = hostile(&scene, "environment").start();
    scene.stream.add(&provoking(&Event::new(), None));
    let rows = scene.until_stored(1);
    service.stop();
    let wanted = serde_json::json!([["alpha", "1"], ["limit", "5"], ["zone", "north"]]);
    assert_eq!(rows[0].properties.as_ref().unwrap()["settings"], wanted);
}
