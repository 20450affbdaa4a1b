//! Tests that guest code runs behind walls that hold even when wasmtime does not, and that the death
//! of a worker costs one entry at most.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sluicegate_tests::guests::{self, faulty, provoking};
use sluicegate_tests::{Event, Launch, Load, Scene, Service, fields, message, reasons, until, with_guest};

fn with_faulty(scene: &Scene, fault: &str) -> Launch {
    with_guest(scene, &faulty(fault, false)).with_failpoints("")
}

/// Checks that the provoking entry becomes a dead letter, in the middle of a batch of honest ones.
fn costs_one_entry(fault: &str, reason: &str, words: &[&str]) {
    let scene = Scene::new();
    let entries = [Event::new().data(), provoking(&Event::new(), None), Event::new().data()];
    let ids = scene.stream.add_all(&entries);
    let service = with_faulty(&scene, fault).start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), [reason], "{fault}: {letters:?}");
    assert_eq!(letters[0].entry_id, ids[1]);
    for words in words {
        assert!(message(&letters[0]).contains(words), "{fault}: {}", message(&letters[0]));
    }
    // The guest discards the honest ones, and those of after the fault too.
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(ended.metrics().tally(), [0, 0, 0, 3, 1], "{fault}");
    assert!(ended.metrics().get("guest_restarts") > 0, "{fault}");
    assert!(ended.metrics().get(reason) > 0, "{fault}");
}

#[test]
fn an_abort() {
    costs_one_entry("aborts", "crashed", &["SIGABRT", "it said: these are the last words"]);
}

#[test]
fn an_exit() {
    costs_one_entry("exits", "crashed", &["exit status: 3"]);
}

#[test]
fn memory_beside_that_of_the_guest() {
    costs_one_entry("exhausts-memory", "crashed", &["SIGABRT", "memory allocation of"]);
}

#[test]
fn a_loop_that_no_epoch_ends() {
    costs_one_entry("computes", "timed_out", &["longer than 1000 ms"]);
}

#[test]
fn nonsense_on_the_channel() {
    costs_one_entry("writes-nonsense", "crashed", &["found version 255, wanted version 1"]);
    costs_one_entry(
        "writes-a-long-frame",
        "crashed",
        &["found a message of 4294967295 bytes, wanted at most"],
    );
    costs_one_entry("answers-another-question", "crashed", &["wanted verdicts or a question"]);
    costs_one_entry("returns-many-verdicts", "crashed", &["found a message that cannot be read"]);
}

/// A worker that was taken over can lie of its own guest's entries, and of nothing else.
#[test]
fn what_a_worker_says_of_itself_is_not_believed() {
    costs_one_entry("claims-a-lost-transaction", "crashed", &["found a transaction that is lost"]);
    costs_one_entry("publishes-ungranted", "crashed", &["found what is beyond the limits"]);
    costs_one_entry("sends-samples", "crashed", &["found what is beyond the limits"]);
    let scene = Scene::new();
    scene.stream.add_all(&[Event::new().data(), provoking(&Event::new(), None), Event::new().data()]);
    let service = with_faulty(&scene, "claims-all-time").start();
    scene.stream.until_drained();
    assert_eq!(reasons(&scene.database.letters()), ["rejected"], "as the forged verdict says");
    assert_eq!(service.stop().metrics().tally(), [0, 0, 1, 2, 0]);
}

#[test]
fn a_worker_that_computes_although_nobody_calls_it_is_ended() {
    let scene = Scene::new();
    scene.stream.add(&provoking(&Event::new(), None));
    let service = with_faulty(&scene, "computes-uncalled").start();
    scene.stream.until_drained();
    service.until_logged(&["computes although nobody calls it"]);
    assert_eq!(reasons(&scene.database.letters()), ["rejected"], "as the forged verdict says");
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [0, 0, 1, 1, 0]);
}

fn is_not_waited_for_without_end(fault: &str) {
    let scene = Scene::new();
    scene.stream.add(&provoking(&Event::new(), None));
    let service = with_faulty(&scene, fault).set("GUEST_TIME_LIMIT", "10ms").start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["crashed"]);
    assert!(message(&letters[0]).contains("no answer in time"), "{}", message(&letters[0]));
    service.stop();
}

#[test]
fn silence() {
    is_not_waited_for_without_end("falls-silent");
}

#[test]
fn a_frame_that_comes_byte_by_byte() {
    is_not_waited_for_without_end("trickles");
}

#[test]
fn system_calls_that_reach_beyond_the_process() {
    for call in [
        "reads-a-file",
        "writes-a-file",
        "connects",
        "listens",
        "starts-a-program",
        "starts-a-thread",
        "becomes-a-program",
        "kills-the-service",
    ] {
        costs_one_entry(call, "crashed", &["SIGSYS"]);
    }
}

#[test]
fn a_death_at_load_is_a_refusal() {
    for (fault, words) in [
        ("aborts", "SIGABRT"),
        ("reads-a-file", "SIGSYS"),
        ("writes-nonsense", "version 255"),
        ("refuses-at-length", "a refusal that cannot be shown"),
    ] {
        let scene = Scene::new();
        let ended = with_guest(&scene, &faulty(fault, true)).with_failpoints("").run_to_end();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        let last = ended.log.lines().last().unwrap_or_default();
        assert!(last.contains("it ended its process when it started") && last.contains(words), "{last}");
    }
}

#[test]
fn a_death_at_the_load_of_a_new_version_leaves_the_old_one_in_force() {
    let scene = Scene::new();
    let service = with_guest(&scene, &guests::handmade("idle")).with_failpoints("").start();
    fs::write(scene.folder().join("handmade.wasm"), faulty("aborts", true)).unwrap();
    service.until_logged(&["new guest refused", "SIGABRT"]);
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, 1, 0]);
}

fn only_worker(service: &Service) -> Pid {
    until("a worker", || match *service.workers() {
        [only] => Ok(only),
        ref found => Err(format!("found {found:?}")),
    })
}

#[test]
fn a_worker_holds_nothing_and_may_do_little() {
    let scene = Scene::new();
    let service = scene.service().start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    let worker = only_worker(&service).as_raw_nonzero();
    let read = |file: &str| fs::read_to_string(format!("/proc/{worker}/{file}")).unwrap();
    assert_eq!(read("environ"), "");
    let status = read("status");
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
    };
    assert_eq!(value("Seccomp:"), "2", "a filter");
    assert_eq!(value("NoNewPrivs:"), "1");
    // Its channel, its code, and a pipe for its last words.
    for descriptor in fs::read_dir(format!("/proc/{worker}/fd")).unwrap() {
        let descriptor = descriptor.unwrap();
        let target = fs::read_link(descriptor.path()).unwrap().display().to_string();
        let is_expected = match descriptor.file_name().to_str() {
            Some("0") => target.starts_with("socket:"),
            Some("2") => target.starts_with("pipe:"),
            _ => target.starts_with("/memfd:sluicegate-guest"),
        };
        assert!(is_expected, "{} -> {target}", descriptor.path().display());
    }
    let limits = read("limits");
    for (name, limit) in [("Max core file size", "0"), ("Max open files", "0"), ("Max processes", "0")] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(line.trim_start().starts_with(&format!("{limit} ")), "{name}: {line}");
    }
    for name in ["Max data size", "Max address space"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(!line.trim_start().starts_with("unlimited"), "{name}: {line}");
    }
    service.stop();
    until("the worker to end with the service", || {
        match fs::exists(format!("/proc/{worker}/status")).unwrap_or(false) {
            true => Err("it is there".to_owned()),
            false => Ok(()),
        }
    });
}

#[test]
fn workers_that_are_killed_cost_no_entry() {
    let scene = Scene::new();
    let service = scene.service().set("BATCH_SIZE", 20).set("PARTIAL_BATCH_DELAY", "0ms").start();
    let mut load = Load::start(&scene.stream, 7, 10);
    let mut killed = 0;
    while killed < 40 {
        let before = load.sent();
        for worker in service.workers() {
            // It may have ended meanwhile.
            killed += i32::from(kill_process(worker, Signal::KILL).is_ok());
        }
        load.until_sent(before.saturating_sub(load.sent()) + 20);
    }
    load.stop();
    scene.stream.until_drained();
    load.settle(&scene);
    let ended = service.stop();
    assert!(ended.metrics().get("guest_restarts") > 0, "{:?}", ended.metrics());
}

#[test]
fn a_worker_that_stands_still_for_a_while_is_waited_for() {
    let scene = Scene::new();
    let service = scene.service().set("GUEST_TIME_LIMIT", "20ms").start();
    let worker = only_worker(&service);
    kill_process(worker, Signal::STOP).unwrap();
    scene.stream.add_all(&[Event::new().data(), Event::new().data()]);
    until("the entries to be in hand", || match scene.stream.pending().len() {
        2 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    sleep(Duration::from_secs(2)); // a hundred times its limit
    assert_eq!(scene.stream.pending().len(), 2);
    kill_process(worker, Signal::CONT).unwrap();
    scene.until_stored(2);
    let ended = service.stop();
    assert_eq!(ended.metrics().tally(), [2, 0, 0, 0, 0]);
    assert!(!ended.log.contains("guest_restarts"), "{}", ended.log);
}

#[test]
fn a_worker_that_nobody_calls_ends_and_another_is_there_when_it_is_needed() {
    let scene = Scene::new();
    let service = scene.service().set("GUEST_IDLE", "300ms").start();
    for count in 1..=2 {
        scene.stream.add(&Event::new().data());
        scene.until_stored(count);
        until("the worker to end", || match service.workers().len() {
            0 => Ok(()),
            count => Err(format!("{count} workers")),
        });
    }
    let ended = service.stop();
    assert!(!ended.log.contains("guest_restarts"), "an end is no death: {}", ended.log);
}

#[test]
fn an_entry_that_the_guest_could_not_hold_is_not_sent_to_it() {
    let scene = Scene::new();
    let service = scene.service().set("GUEST_MEMORY", "4MiB").start();
    let large = fields([("data", "x".repeat(5 << 20))]);
    scene.stream.add_all(&[Event::new().data(), large, Event::new().data()]);
    scene.stream.until_drained();
    assert_eq!(reasons(&scene.database.letters()), ["out_of_memory"]);
    assert_eq!(service.stop().metrics().tally(), [2, 0, 0, 0, 1]);
}
