//! Tests that each value of a guest is checked: what cannot be stored costs its own entry.
//!
//! The guest is `tests/guests/scripted`, whose verdict an entry's field `verdict` names.

use serde_json::Value;
use sluicegate_demo::servers::{Options, Postgres};
use sluicegate_tests::{Fields, Scene, block_on, letters_of, reasons, scripted, shared_redis_url, verdict};
use uuid::Uuid;

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
    let bad: Vec<Fields> = cases.iter().map(|(name, value, _)| verdict("accept", &[(name, value)])).collect();
    let (letters, _) = letters_of(&scene, scripted(&scene), &bad);
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
        verdict("expand", &[("count", "0")]),
        verdict("expand", &[("count", "1001")]),
        verdict("expand", &[("count", "100000")]),
        verdict("expand", &[("count", "3"), ("properties", "[]")]),
        verdict("reject", &[("count", "0")]),
        verdict("reject", &[("count", "100000")]),
        verdict("reject", &[("message", &"long \0 ü ".repeat(100_000))]),
    ];
    let (letters, _) = letters_of(&scene, scripted(&scene), &bad);
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
fn an_entry_may_become_several_rows_or_none() {
    let scene = Scene::new();
    let id = Uuid::parse_str("00000000-0000-4000-8000-000000000000").unwrap();
    let at = |offset: u64| Uuid::from_u128(id.as_u128() + u128::from(offset)).to_string();
    scene.stream.add_all(&[
        verdict("expand", &[("count", "1000"), ("event_id", &at(0))]),
        verdict("discard", &[("reason", "a bot")]),
        verdict("expand", &[("count", "3"), ("event_id", &at(5_000))]),
        // Every event of this entry is there already, from this very batch.
        verdict("expand", &[("count", "2"), ("event_id", &at(5_001))]),
        verdict("accept", &[("event_id", &at(5_002))]),
        // One row of two is new.
        verdict("expand", &[("count", "2"), ("event_id", &at(999))]),
    ]);
    let service = scripted(&scene).start();
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

    // Somebody else holds nearly all locks that the server has.
    scripted(&scene).start().stop(); // there are tables now
    let mut greedy = scene.database.connect();
    let mut run = |sql: &'static str| block_on(sqlx::raw_sql(sql).execute(&mut greedy)).unwrap();
    run("DO $$ BEGIN FOR i IN 1..1000000 LOOP PERFORM pg_advisory_lock(i); END LOOP;
         EXCEPTION WHEN out_of_memory THEN NULL; END $$");
    run("SELECT pg_advisory_unlock(i) FROM generate_series(1, 150) AS i");
    let (letters, _) = letters_of(
        &scene,
        scripted(&scene),
        &[verdict("expand", &[("count", "64"), ("step", &week.to_string())])],
    );
    assert_eq!(reasons(&letters), ["refused"]);
    drop(greedy);

    // Together the entries are more than the server can do at once, but each is in order.
    let weeks: Vec<Fields> =
        (1..=200).map(|i| verdict("accept", &[("time", &(i * week).to_string())])).collect();
    scene.stream.add_all(&weeks);
    let service = scripted(&scene).set("BATCH_SIZE", 1_000).set("COMMITS_IN_FLIGHT", 1).start();
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
        .add(&verdict("accept", &[("user_id", &text), ("event_type", &text), ("properties", &properties)]));
    let service = scripted(&scene).start();
    let rows = scene.until_stored(1);
    assert_eq!((rows[0].user_id.len(), rows[0].event_type.len()), (1_000_000, 1_000_000));
    assert_eq!(rows[0].properties, Some(serde_json::from_str::<Value>(&properties).unwrap()));
    service.stop();
}
