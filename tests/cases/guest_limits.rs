//! Tests that each limit holds, says its name, and costs only the entry or component at fault.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{
    Event, Fields, Scene, hostile, letters_of, message, reasons, refused, scripted, verdict,
};

/// Makes an entry of rows of its own: a test's IDs follow each other, as an expansion's do.
fn expand(number: usize, count: &str, user: &str) -> Fields {
    let id = format!("00000000-0000-4000-8000-{:012x}", (number + 1) * 10_000);
    verdict("expand", &[("count", count), ("event_id", &id), ("user_id", user)])
}

#[test]
fn output_is_limited_in_one_call_and_in_sum() {
    let scene = Scene::new();
    let launch = hostile(&scene, "huge_rejection").set("GUEST_OUTPUT", "4MiB");
    let (letters, _) = letters_of(&scene, launch, &[provoking(&Event::new(), Some(5))]);
    assert_eq!(reasons(&letters), ["too_much_output"]);
    assert!(message(&letters[0]).contains("4194304 bytes (GUEST_OUTPUT)"), "{}", message(&letters[0]));

    // None of these is too much by itself: each makes a megabyte and more, of an entry of 1.5 kB.
    scene.database.execute("TRUNCATE dead_letters, events");
    let user = "x".repeat(1_400);
    let mut entries: Vec<Fields> = (0..8).map(|i| expand(i, "1000", &user)).collect();
    entries.extend((0..5).map(|_| Event::new().data()));
    scene.stream.add_all(&entries);
    let service = scripted(&scene).set("GUEST_OUTPUT", "4MiB").start();
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
    let service = scripted(&scene).set("GUEST_ROWS", 1_000).start();
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
    let launch = scripted(&scene).set("GUEST_STRING", "1KiB").set("GUEST_JSON_DEPTH", 3);
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
    assert!(message(&letters[0]).contains("GUEST_STRING"), "{}", message(&letters[0]));
    assert!(message(&letters[3]).contains("GUEST_JSON_DEPTH"), "{}", message(&letters[3]));
    assert_eq!(letters[4].violations[0]["path"], "[0].user_id");
}

/// Halving alone would take two time limits for each entry that loops: 50 s.
#[test]
fn a_batch_full_of_loops_takes_a_bounded_time() {
    let scene = Scene::new();
    let entries: Vec<Fields> = (0..60)
        .map(|i| if i % 6 == 5 { Event::new().data() } else { provoking(&Event::new(), None) })
        .collect();
    // The first two batches are small, and the third has all of the entries that loop.
    scene.stream.add_all(&(0..8 + 32).map(|_| Event::new().data()).collect::<Vec<Fields>>());
    let ids = scene.stream.add_all(&entries);
    let start = Instant::now();
    let service = hostile(&scene, "endless_loop").set("GUEST_TIME_LIMIT", "200ms").start();
    scene.until_stored(8 + 32 + 10);
    scene.stream.until_drained();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(35), "{took:?}");
    let letters = scene.database.letters();
    assert_eq!(letters.len(), 50);
    for (letter, id) in letters.iter().zip(ids.iter().zip(0..).filter(|(_, i)| i % 6 != 5).map(|(id, _)| id))
    {
        assert_eq!((letter.reason.as_str(), &letter.entry_id), ("timed_out", id));
    }
    assert!(message(&letters[0]).contains("longer than 200 ms"), "{}", message(&letters[0]));
    assert!(message(&letters[49]).contains("replay it alone"), "{}", message(&letters[49]));
    let metrics = service.stop().metrics();
    assert!((50..80).contains(&metrics.get("timed_out")), "{metrics:?}");
}

/// Code looks at the clock where it loops and where a function begins. This code does neither, and
/// each of its calls takes the host milliseconds.
#[test]
fn calls_to_the_host_in_a_straight_line_are_limited() {
    let calls = "(call $get (i32.const 0) (i32.const 30000000) (i32.const 63000000))".repeat(3_000);
    let component = guests::handmade_of(&format!(
        r#"(import "wasi:config/store@0.2.0-rc.1" (instance $config
               (type $e (variant (case "upstream" string) (case "io" string)))
               (export "error" (type $error (eq $e)))
               (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
           (core module $room (memory (export "memory") 1000)
               (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
           (core instance $r (instantiate $room))
           (core func $get (canon lower (func $config "get")
               (memory $r "memory") (realloc (func $r "realloc")) string-encoding=utf16))
           (core module $calling (import "config" "get" (func $get (param i32 i32 i32))) (func $f {calls}) (start $f))
           (core instance (instantiate $calling (with "config" (instance (export "get" (func $get))))))"#
    ));
    let begun = Instant::now();
    refused(&component, |launch| launch, &["it does not start", "longer than 1000 ms (GUEST_TIME_LIMIT)"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// What an instance wants at first or keeps in the host's memory is refused with the limit's name.
#[test]
fn what_is_larger_than_its_limits_is_refused() {
    let with = |more: &str| guests::handmade_of(&format!("(func $provoked (param i32)) {more}"));
    let does_not_fit = |more: &str, words: &str| {
        refused(&with(more), |launch| launch, &["it wants more than it may have", words])
    };
    does_not_fit("(table 200000 funcref)", "(GUEST_TABLE_ELEMENTS)");
    let elements = "$provoked ".repeat(100_001);
    does_not_fit(
        &format!("(elem func {elements})"),
        "more than 100000 elements for its tables (GUEST_TABLE_ELEMENTS)",
    );
    let large =
        guests::handmade_of("(core module $large (memory 4096)) (core instance (instantiate $large))");
    refused(&large, |launch| launch, &["it wants more than it may have", "(GUEST_MEMORY)"]);
}

/// The compiler is a process of its own, which ends with its limits; the service says why.
#[test]
fn compilation_is_limited() {
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(400_000);
    let slow = guests::handmade_of(&format!("(func (local i32) {sum}) (func $provoked (param i32))"));
    refused(
        &slow,
        |launch| launch.set("GUEST_COMPILE_TIME", "100ms"),
        &["it takes more than 100 ms of a processor to compile (GUEST_COMPILE_TIME)"],
    );
    refused(
        &slow,
        |launch| launch.set("GUEST_COMPILE_MEMORY", "256MiB"),
        &["it takes more than 268435456 bytes to compile (GUEST_COMPILE_MEMORY)"],
    );
    refused(
        &slow,
        |launch| launch.set("GUEST_COMPONENT", "1MiB"),
        &["more than 1048576 bytes (GUEST_COMPONENT)"],
    );
}

/// Native code, with wasmtime's images of memories, is limited per byte of component and in sum.
#[test]
fn native_code_is_limited() {
    refused(
        &guests::sparse(guests::DEFAULT, 4),
        |launch| launch,
        &[
            "its native code, with the images of its memories, takes more than",
            "32 for each of the component's",
        ],
    );
    // The component is large enough that the first limit does not stop it.
    let large = guests::padded(&guests::sparse(guests::DEFAULT, 4), 4 << 20);
    refused(
        &large,
        |launch| launch.set("GUEST_CODE", "32MiB"),
        &["takes more than is left; wanted 33554432 bytes at most", "(GUEST_CODE)"],
    );
    // Code that is accepted is in memory once: in a file there, and not in the process besides.
    let scene = Scene::new();
    let file = scene.folder().join("large.wasm");
    fs::write(&file, &large).unwrap();
    let service = scene.service().set("GUEST", file.display()).start();
    let peak = service.memory_peak_bytes();
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    let held = service.held_in_memory_files();
    assert!((64 << 20..80 << 20).contains(&held), "{} MiB", held >> 20);
    service.stop();
}

/// wasmtime's own limit for an instance, 1 MiB or 32,768 functions, has no setting of ours.
#[test]
fn a_table_may_hold_as_many_functions_as_the_setting_says() {
    let scene = Scene::new();
    let functions: String = (0..33_000).map(|i| format!("(func $f{i})")).collect();
    let names: String = (0..33_000).map(|i| format!(" $f{i}")).collect();
    let component = guests::handmade_of(&format!(
        "{functions} (table 33000 funcref) (elem (i32.const 0) func{names}) (func $provoked (param i32))"
    ));
    let file = scene.folder().join("functions.wasm");
    fs::write(&file, &component).unwrap();
    scene.service().set("GUEST", file.display()).start().stop();
}

#[test]
fn compiled_components_are_kept_where_only_the_service_writes() {
    let scene = Scene::new();
    let cache = scene.folder().join("cache");
    let launch = || scripted(&scene).set("GUEST_CACHE", cache.display());
    launch().start().stop();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    // A file that is made anew replaces the other one, and has another inode.
    let (file, used) =
        (|| fs::metadata(&files[0]).unwrap().ino(), || fs::metadata(&files[0]).unwrap().modified().unwrap());
    let (first, first_used) = (file(), used());
    launch().start().stop();
    assert_eq!(file(), first, "used, not made again");
    assert!(used() > first_used, "and it is known that it was used");

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

/// The service says what it expected and found, and what to do, before a byte of it runs.
#[test]
fn a_component_of_another_form_is_told_what_is_wrong() {
    let as_it_is = |launch| launch;
    let program = fs::read("/proc/self/exe").unwrap(); // ELF, as precompiled components are
    refused(&program[..4_096], as_it_is, &["native code", "hand over the component it was made from"]);
    refused(&guests::command(), as_it_is, &["it exports no handler", "it exports wasi:cli/run@0.2"]);
    let handlers = ["sluicegate:guest/handler@0.1.0", "sluicegate:guest/handler@0.1.3"];
    refused(
        &guests::with_handlers(&handlers),
        as_it_is,
        &["it exports more than one handler", "handler@0.1.3"],
    );
    let asking =
        guests::importing(&["acme:vault/keys@1.0.0", "wasi:cli/stdout@0.2.0", "wasi:http/types@0.2.3"]);
    refused(
        &asking,
        as_it_is,
        &["imports that are not granted: acme:vault/keys@1.0.0, wasi:http/types@0.2.3; guests may import"],
    );
    for (found, wanted) in [
        ("wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1"),
        ("wasi:clocks/monotonic-clock@0.3.0", "version 0.2 of WASI"),
        ("sluicegate:guest/store@0.2.0", "version 0.1.0 of this package"),
    ] {
        refused(&guests::importing(&[found]), as_it_is, &[&format!("{found} (wanted {wanted})")]);
    }
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
