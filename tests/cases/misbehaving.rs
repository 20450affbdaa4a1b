//! A hostile guest harms nobody: its entry becomes a dead letter, the rest of the batch is stored.
//!
//! The guest does what the entry's field `do` says: see `tests/guests/hostile`.

use std::collections::BTreeMap;

use serde_json::Value;
use sluicegate::demo::servers::{Options, Postgres};
use sluicegate_tests::{Event, Fields, Launch, Letter, Scene, fields, guests, shared_redis_url};
use uuid::Uuid;

/// An entry that the guest is to accept, with a user of its own.
pub(crate) fn good() -> Fields {
    let event = Event::new();
    fields([("do", "accept"), ("event_id", &event.event_id.to_string()), ("user_id", &event.user_id)])
}

pub(crate) fn told(what: &str, more: &[(&str, &str)]) -> Fields {
    let event_id = Event::new().event_id.to_string();
    let mut told = vec![("do", what)];
    told.extend(more);
    if !more.iter().any(|(name, _)| *name == "event_id") {
        told.push(("event_id", &event_id));
    }
    fields(told)
}

/// With time enough for whatever ends by itself, on a busy machine too.
pub(crate) fn hostile(scene: &Scene) -> Launch {
    scene.service().set("GUEST", guests::hostile().display()).set("GUEST_TIME_LIMIT_MS", 20_000)
}

/// Sends the bad entries, each between good ones, in one batch, and gives their
/// dead letters in the order of the entries. Everything else must be stored.
pub(crate) fn letters_of(scene: &Scene, launch: Launch, bad: &[Fields]) -> Vec<Letter> {
    let mut entries = vec![good()];
    for bad in bad {
        entries.extend([bad.clone(), good()]);
    }
    let ids = scene.stream.add_all(&entries);
    let service = launch.set("BATCH_SIZE", entries.len()).start();
    let rows = scene.until_stored(bad.len() + 1);
    assert_eq!(rows.iter().filter(|row| row.user_id.starts_with("user-")).count(), bad.len() + 1);
    scene.stream.until_drained();

    let mut letters: BTreeMap<String, Letter> =
        scene.database.letters().into_iter().map(|letter| (letter.entry_id.clone(), letter)).collect();
    assert_eq!(letters.len(), bad.len());
    let in_order = ids.iter().zip(&entries).skip(1).step_by(2).map(|(id, fields)| {
        let letter = letters.remove(id).unwrap_or_else(|| panic!("no letter for {id}"));
        assert_eq!(letter.fields.as_ref(), Some(fields), "the entry is kept as it came");
        letter
    });
    let in_order = in_order.collect();
    // It still works.
    scene.stream.add(&good());
    scene.until_stored(bad.len() + 2);
    service.stop();
    in_order
}

pub(crate) fn reasons(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.reason.as_str()).collect()
}

#[test]
fn values_that_postgres_cannot_hold_cost_their_own_entry() {
    let scene = Scene::new();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let cases = [
        ("event_id", "", "invalid_uuid"),
        ("event_id", "not-a-uuid", "invalid_uuid"),
        ("event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e1g", "invalid_uuid"),
        ("time", "-9223372036854775808", "time_out_of_range"),
        ("time", "9223372036854775807", "time_out_of_range"),
        ("time", "-210863520000000001", "time_out_of_range"),
        ("time", "8210266790400000001", "time_out_of_range"),
        ("event_type", "a\0b", "nul_character"),
        ("user_id", "\0", "nul_character"),
        ("properties", "", "invalid_properties"),
        ("properties", "[]", "invalid_properties"),
        ("properties", "null", "invalid_properties"),
        ("properties", "\"text\"", "invalid_properties"),
        ("properties", "{\"a\":1", "invalid_properties"),
        ("properties", "{\"a\":1} {}", "invalid_properties"),
        ("properties", "{\"a\":\"\\u0000\"}", "invalid_properties"),
        ("properties", "{\"\\u0000\":1}", "invalid_properties"),
        ("properties", "{\"a\":[{\"b\":\"\\ud800\"}]}", "invalid_properties"),
        ("properties", "{\"a\":1e400}", "invalid_properties"),
        ("properties", "{\"a\":NaN}", "invalid_properties"),
        ("properties", &deep, "invalid_properties"),
    ];
    let bad: Vec<Fields> = cases.iter().map(|(name, value, _)| told("accept", &[(name, value)])).collect();
    let letters = letters_of(&scene, hostile(&scene), &bad);
    for (letter, (name, value, code)) in letters.iter().zip(cases) {
        let value: String = value.chars().take(40).collect();
        assert_eq!(
            (letter.reason.as_str(), letter.codes()),
            ("bad_verdict", vec![code]),
            "{name} = {value:?}"
        );
        assert_eq!(letter.violations[0]["path"], name, "{name} = {value:?}");
    }
}

#[test]
fn verdicts_of_a_wrong_size_cost_their_own_entry() {
    let scene = Scene::new();
    let bad = [
        told("expand", &[("count", "0")]),
        told("expand", &[("count", "1001")]),
        told("expand", &[("count", "100000")]),
        told("expand", &[("count", "3"), ("properties", "[]")]),
        told("reject", &[("count", "0")]),
        told("reject", &[("count", "100000")]),
        told("reject", &[("message", &"long \0 ü ".repeat(100_000))]),
    ];
    let letters = letters_of(&scene, hostile(&scene), &bad);
    let found: Vec<(&str, &str)> =
        letters.iter().map(|letter| (letter.reason.as_str(), letter.codes()[0])).collect();
    let wanted = [
        ("bad_verdict", "expansion_size"),
        ("bad_verdict", "expansion_size"),
        ("bad_verdict", "expansion_size"),
        ("bad_verdict", "invalid_properties"),
        ("bad_verdict", "no_violations"),
        ("rejected", "code"),
        ("rejected", "code"),
    ];
    assert_eq!(found, wanted);
    assert_eq!(letters[3].violations[0]["path"], "[0].properties");
    assert_eq!(letters[5].codes().len(), 100, "the first hundred violations are kept");
    assert!(letters[6].violations[0]["message"].as_str().unwrap().len() <= 1_024, "a message is cut");
}

#[test]
fn traps_and_wrong_counts_cost_their_own_entry() {
    let scene = Scene::new();
    let bad = ["trap", "few", "many", "recurse", "exit"].map(|what| told(what, &[]));
    let letters = letters_of(&scene, hostile(&scene), &bad);
    assert_eq!(reasons(&letters), ["trapped", "bad_verdict", "bad_verdict", "trapped", "trapped"]);
    let message = |i: usize| letters[i].violations[0]["message"].as_str().unwrap().to_owned();
    assert!(message(0).contains("told to trap"), "{}", message(0));
    assert!(message(1).contains("0 verdicts for 1 entries"), "{}", message(1));
    assert!(message(2).contains("2 verdicts for 1 entries"), "{}", message(2));
    assert!(message(3).contains("call stack exhausted"), "{}", message(3));
    assert!(message(3).contains("524288 bytes (GUEST_STACK_BYTES)"), "{}", message(3));
    assert!(message(4).contains("exit"), "{}", message(4));
}

/// Nobody can tell that they are swapped, but each entry has one end, and no row is made up.
#[test]
fn swapped_verdicts_are_one_for_each_entry() {
    let scene = Scene::new();
    let ids = scene.stream.add_all(&[told("swap", &[]), told("reject", &[("code", "a")]), good()]);
    let service = hostile(&scene).start();
    scene.until_stored(2);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 0, 1, 0, 0]);
    assert_eq!(scene.database.letters()[0].entry_id, ids[1], "in the middle of three");
}

#[test]
fn a_guest_that_never_returns_is_stopped() {
    let scene = Scene::new();
    // Long enough for the good entries on a busy machine.
    let launch = hostile(&scene).set("GUEST_TIME_LIMIT_MS", 1_000);
    let letters = letters_of(&scene, launch, &[told("loop", &[])]);
    assert_eq!(reasons(&letters), ["timed_out"]);
    assert_eq!(letters[0].violations[0]["message"], "the guest took longer than 1000 ms");
}

#[test]
fn a_guest_that_takes_all_memory_is_stopped() {
    let scene = Scene::new();
    let letters = letters_of(&scene, hostile(&scene), &[told("grow", &[]), told("grow_at_once", &[])]);
    assert_eq!(reasons(&letters), ["out_of_memory", "out_of_memory"]);
    assert_eq!(letters[0].violations[0]["message"], "the guest wanted more than 134217728 bytes of memory");
}

/// What it returns is little in its own memory, and 4 GiB for a host that copied it all.
#[test]
fn a_guest_cannot_fill_the_hosts_memory() {
    let scene = Scene::new();
    let ids = scene.stream.add_all(&[good(), told("amplify", &[("count", "4096")]), good()]);
    let service = hostile(&scene).start();
    scene.until_stored(2);
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["too_much_output"], "{letters:?}");
    assert_eq!(letters[0].entry_id, ids[1]);
    let most = service.memory_peak_bytes();
    assert!(most < 512 << 20, "{most} bytes resident at the peak");
    service.stop();
}

#[test]
fn a_guest_sees_nothing_of_the_world_and_the_same_each_time() {
    let scene = Scene::new();
    let ids = scene.stream.add_all(&[told("world", &[]), told("world", &[])]);
    let one = hostile(&scene).set("BATCH_SIZE", 1).set("SECRET", "hunter2").start();
    let rows = scene.until_stored(2);
    one.stop();

    // The same entries, for another group into another database, later.
    let again = Scene::new();
    let two = hostile(&again).set("BATCH_SIZE", 1).set("STREAM_NAME", &scene.stream.name).start();
    assert_eq!(again.until_stored(2), rows);
    two.stop();

    for (row, id) in rows.iter().zip(&ids) {
        let world = row.properties.as_ref().unwrap();
        let milliseconds: u64 = id.split('-').next().unwrap().parse().unwrap();
        assert_eq!(world["clock"], milliseconds * 1_000, "the clock stands at the entry's ID");
        for name in ["elapsed", "environment", "arguments", "files"] {
            assert_eq!(world[name], 0, "{name}");
        }
        assert_eq!(world["network"], false);
        assert_eq!(world["calls"], 1, "no state survives a batch");
    }
    let random = |i: usize| rows[i].properties.as_ref().unwrap()["random"].clone();
    assert_ne!(random(0), random(1), "seeded by the entry's ID, not by a constant");
}

#[test]
fn an_entry_may_become_several_rows_or_none() {
    let scene = Scene::new();
    let id = Uuid::parse_str("00000000-0000-4000-8000-000000000000").unwrap();
    let at = |offset: u64| Uuid::from_u128(id.as_u128() + u128::from(offset)).to_string();
    scene.stream.add_all(&[
        told("expand", &[("count", "1000"), ("event_id", &at(0))]),
        told("discard", &[("reason", "a bot")]),
        told("expand", &[("count", "3"), ("event_id", &at(5_000))]),
        // Everything in it is there already, from this very batch.
        told("expand", &[("count", "2"), ("event_id", &at(5_001))]),
        told("accept", &[("event_id", &at(5_002))]),
        // One row of two is new.
        told("expand", &[("count", "2"), ("event_id", &at(999))]),
    ]);
    let service = hostile(&scene).start();
    let rows = scene.until_stored(1_004);
    assert_eq!(rows.len(), 1_004);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [3, 2, 0, 1, 0]);
    assert_eq!(scene.database.letters(), []);
}

/// Each week is a chunk, and each chunk takes locks until the transaction ends.
#[test]
fn more_weeks_than_the_server_can_lock_cost_their_own_entry() {
    let settings = [("max_locks_per_transaction", "10"), ("max_connections", "20")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let postgres = Postgres::start(&Options { settings }).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let week = 7 * 86_400_000_000_u64;
    let letters = letters_of(
        &scene,
        hostile(&scene),
        &[told("expand", &[("count", "1000"), ("step", &week.to_string())])],
    );
    assert_eq!(reasons(&letters), ["refused"]);

    // Too many for one transaction as well, but each entry is in order. To count the rows would take as many locks.
    let weeks: Vec<Fields> =
        (1..=200).map(|i| told("accept", &[("time", &(i * week).to_string())])).collect();
    scene.stream.add_all(&weeks);
    let service = hostile(&scene).set("BATCH_SIZE", 1_000).set("COMMITS_IN_FLIGHT", 1).start();
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!(metrics.tally(), [200, 0, 0, 0, 0]);
    assert!(metrics.get("batches") > 1, "it was split: {metrics:?}");
}

#[test]
fn large_values_pass() {
    let scene = Scene::new();
    let text = "ü".repeat(500_000);
    let properties = serde_json::json!({ "text": text }).to_string();
    scene
        .stream
        .add(&told("accept", &[("user_id", &text), ("event_type", &text), ("properties", &properties)]));
    let service = hostile(&scene).start();
    let rows = scene.until_stored(1);
    assert_eq!((rows[0].user_id.len(), rows[0].event_type.len()), (1_000_000, 1_000_000));
    assert_eq!(rows[0].properties, Some(serde_json::from_str::<Value>(&properties).unwrap()));
    service.stop();
}
