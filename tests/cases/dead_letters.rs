//! Tests `sluicegate dead-letters`: look, replay and purge, as an operator does.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use sluicegate::batch::Digest;
use sluicegate_tests::{
    Database, Event, Fault, Launch, Proxy, Scene, Told, block_on, counted, fields, guests, hold_letter,
    refused_purchases, second_line, told, until, until_within,
};
use sqlx::Connection as _;

fn tell(scene: &Scene, arguments: &[&str]) -> Told {
    told(scene.service(), arguments)
}

/// Returns what the command prints when it succeeds.
fn run(scene: &Scene, arguments: &[&str]) -> String {
    let told = tell(scene, arguments);
    assert_eq!(told.code, Some(0), "{arguments:?}: {told:?}");
    told.out
}

fn number(database: &Database, sql: &str) -> i64 {
    database.value(sql)
}

const SETTLED: &str =
    "SELECT count(*) FROM dead_letters WHERE replay_outcome IN ('stored', 'duplicate', 'discarded')";

#[test]
fn letters_are_listed_and_shown() {
    let scene = Scene::new();
    assert_eq!(run(&scene, &["list"]), "no dead letters\n");
    refused_purchases(&scene, 3);
    let list = run(&scene, &["list"]);
    assert_eq!(list.lines().count(), 6, "a heading and a line each\n{list}");
    assert!(list.contains("undecodable") && list.contains("data: json_syntax"), "{list}");
    assert!(run(&scene, &["list", "--limit", "2"]).ends_with("the newest 2 of 5; --limit shows more\n"));
    for (filter, count) in [
        (vec!["--reason", "undecodable"], 1),
        (vec!["--code", "missing"], 3),
        (vec!["--code", "missing", "--reason", "undecodable"], 0),
        (vec!["--tenant", "default"], 5),
        (vec!["--older", "1h"], 0),
        (vec!["--newer", "1h"], 5),
    ] {
        let json = run(&scene, &[vec!["list", "--json"], filter.clone()].concat());
        let letters: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len(), count, "{filter:?}");
    }
    let id =
        number(&scene.database, "SELECT id FROM dead_letters WHERE violations::text LIKE '%json_syntax%'");
    let shown = run(&scene, &["show", &id.to_string()]);
    assert!(shown.contains("rejected") && shown.contains("never"), "{shown}");
    assert!(shown.contains("data = no \\u{1b}[31mJSON"), "the terminal is left alone\n{shown}");
    for command in [vec!["list"], vec!["summary", "--json"], vec!["replay", "--dry-run"], vec!["purge"]] {
        let unknown = tell(&scene, &[command.clone(), vec!["--tenant", "another"]].concat());
        assert!(unknown.code == Some(1) && unknown.out.is_empty(), "{command:?}: {unknown:?}");
        let wanted = "there is no tenant \"another\" in the settings; wanted one of: default";
        assert!(unknown.err.contains(wanted), "{command:?}: {unknown:?}");
    }
    // One that is gone from the settings has left letters.
    scene.database.execute(&format!("UPDATE dead_letters SET tenant = 'gone' WHERE id = {id}"));
    assert_eq!(run(&scene, &["list", "--tenant", "gone"]).lines().count(), 2);
    let unknown = tell(&scene, &["show", "999999"]);
    assert!(unknown.code == Some(1) && unknown.err.contains("there is no dead letter 999999"), "{unknown:?}");
}

/// Indexes find the few open letters. A page begins where the one before it ended.
#[test]
fn few_letters_among_many_are_found_without_reading_all() {
    const LETTERS: i64 = 50_000;
    let scene = Scene::new();
    run(&scene, &["list"]);
    scene.database.execute(&format!(
        "INSERT INTO dead_letters (tenant, stream, entry_id, fingerprint, reason, violations, deliveries, component, replay_outcome)
         SELECT 'default', 's', i || '-0', '', 'rejected', '[{{\"path\": \"\", \"code\": \"old\", \"message\": \"\"}}]', 1, '',
                'stored' FROM generate_series(1, {LETTERS}) AS i;
         INSERT INTO dead_letters (tenant, stream, entry_id, fingerprint, reason, violations, fields, deliveries, component)
         SELECT 'default', 's', i || '-1', '', 'rejected', '[{{\"path\": \"\", \"code\": \"new\", \"message\": \"\"}}]',
                ARRAY['data', '?']::bytea[], 1, '' FROM generate_series(1, 1000) AS i"
    ));
    scene.database.execute("VACUUM ANALYZE dead_letters");
    let rows_read = || {
        // A connection tells at its end, at the latest, what it has read.
        until("the ends of the commands' connections", || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sluicegate'";
            match number(&scene.database, sql) {
                0 => Ok(()),
                found => Err(format!("{found} connections")),
            }
        });
        let sql = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'dead_letters'";
        number(&scene.database, sql)
    };
    let before = rows_read();
    for (filter, count) in [
        (vec!["--limit", "10"], 10),
        (vec!["--tenant", "default", "--limit", "1000"], 1_000),
        (vec!["--reason", "trapped"], 0),
        (vec!["--tenant", "default", "--reason", "trapped"], 0),
    ] {
        let json = run(&scene, &[vec!["list", "--json"], filter.clone()].concat());
        assert_eq!(json.lines().count(), count, "{filter:?}");
    }
    let replay = ["replay", "--dry-run", "--force", "--reason", "rejected"];
    assert_eq!(counted(&run(&scene, &replay), "would be dead letters still"), 1_000);
    let found = rows_read() - before;
    assert!(found < LETTERS / 2, "{found} rows were read for 2,010 letters and a replay of 1,000");
}

/// This holds for a page of text and for a line of JSON.
#[test]
fn no_letter_writes_to_the_terminal() {
    let scene = Scene::new();
    let forged = "\u{9b}31m\u{202e}\r\u{e0041}";
    let entry = fields([(format!("name{forged}"), format!("value{forged}"))]);
    scene.stream.add(&entry);
    let violations = format!(r#"[{{"path": "p{forged}", "code": "c{forged}", "message": "m{forged}"}}]"#);
    let service = scene.service().start();
    scene.stream.until_drained();
    service.stop();
    scene
        .database
        .execute(&format!("UPDATE dead_letters SET violations = '{}'", violations.replace('\r', r"\r")));
    let id = number(&scene.database, "SELECT id FROM dead_letters").to_string();
    for arguments in [vec!["list"], vec!["show", &id], vec!["list", "--json"]] {
        let out = run(&scene, &arguments);
        assert!(out.contains("c\\u"), "{out:?}");
        assert!(!out.contains(['\u{9b}', '\u{202e}', '\r', '\u{e0041}']), "{out:?}");
    }
    let json: Value = serde_json::from_str(run(&scene, &["list", "--json"]).trim()).unwrap();
    assert_eq!(json["violations"][0]["code"], format!("c{forged}"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let scene = Scene::new();
    refused_purchases(&scene, 1_200);
    let before =
        scene.database.value::<String>("SELECT md5(string_agg(l::text, '' ORDER BY id)) FROM dead_letters l");
    let out = run(&scene, &["replay", "--dry-run"]);
    assert_eq!(counted(&out, "would be stored"), 1_200, "{out}");
    assert_eq!(counted(&out, "would be dead letters still"), 2, "{out}");
    assert_eq!(run(&scene, &["purge", "--dry-run"]), "1,202 dead letters would be deleted\n");
    let after =
        scene.database.value::<String>("SELECT md5(string_agg(l::text, '' ORDER BY id)) FROM dead_letters l");
    assert_eq!(before, after);
    assert_eq!(scene.database.events(), []);
}

#[test]
fn a_replay_stores_what_is_now_accepted_once() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 700);
    let out = run(&scene, &["replay", "--code", "missing"]);
    assert_eq!(counted(&out, "are stored"), 700, "{out}");
    assert_eq!(scene.database.events(), events);
    assert_eq!(number(&scene.database, SETTLED), 700);
    // A second replay does not ask again about what is settled, and what is still refused stays.
    let out = run(&scene, &["replay"]);
    assert_eq!((counted(&out, "are stored"), counted(&out, "are dead letters still")), (0, 2), "{out}");
    assert_eq!(run(&scene, &["list"]).lines().count(), 3, "the open ones only");
    assert!(run(&scene, &["list", "--settled"]).contains("[replayed: stored]"));
    // Somebody else has stored the event meanwhile.
    scene.database.execute(
        "UPDATE dead_letters SET replay_outcome = NULL WHERE id = (SELECT min(id) FROM dead_letters)",
    );
    let out = run(&scene, &["replay"]);
    assert_eq!(counted(&out, "are duplicate"), 1, "{out}");
    assert_eq!(scene.database.events(), events);
}

/// Other rules would judge the letters in a way that nobody has asked for.
#[test]
fn a_replay_judges_by_the_rules_that_are_in_force() {
    let scene = Scene::new();
    refused_purchases(&scene, 3);
    let strict = scene.folder().join("strict.wasm");
    let replay =
        |launch: Launch, more: &[&str]| told(launch, &[&["replay", "--code", "missing"], more].concat());
    let is_refused = |told: &Told, why: &str| {
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.err.contains(why) && told.err.contains("--force"), "{told:?}");
    };
    let by_strict = || scene.service().set("GUEST", strict.display());
    let component = format!("found the component {}", Digest::new(guests::STRICT));
    is_refused(&replay(by_strict(), &[]), &component);
    is_refused(&replay(by_strict(), &["--dry-run"]), &component);
    let same = scene.folder().join("same.wasm");
    fs::write(&same, guests::DEFAULT).expect("a guest is written");
    let other_settings =
        || scene.service().set("GUEST", same.display()).set("GUEST_SETTINGS", "{key = \"pepper\"}");
    let refusal = replay(other_settings(), &[]);
    is_refused(
        &refusal,
        "found other guest settings, grants or statements than replica consumer-1 has put into force at 2",
    );
    assert!(!refusal.err.contains("pepper"), "{refusal:?}");
    let other_table = scene.service().set("EVENTS_TABLE", "elsewhere");
    is_refused(
        &replay(other_table, &[]),
        "found the table elsewhere, wanted events, to which consumer-1 writes",
    );
    assert_eq!(scene.database.events(), []);

    let forced = replay(other_settings(), &["--force", "--dry-run"]);
    assert_eq!((forced.code, counted(&forced.out, "would be stored")), (Some(0), 3), "{forced:?}");
    assert!(forced.err.contains("judged all the same"), "{forced:?}");
    // A larger limit may be what a letter needs.
    let replayed = replay(scene.service().set("GUEST_TIME_LIMIT", "2s"), &[]);
    assert_eq!((replayed.code, counted(&replayed.out, "are stored")), (Some(0), 3), "{replayed:?}");
    assert!(replayed.err.contains("tenant default: judged by the rules "), "{replayed:?}");

    scene.database.execute("DELETE FROM rules_deployments; UPDATE dead_letters SET replay_outcome = NULL");
    is_refused(&replay(scene.service(), &[]), "has never told which rules are in force");
}

/// The note of the rules is for replays alone: events are stored without it, and it is tried again.
#[test]
fn a_service_that_cannot_tell_its_rules_starts_all_the_same() {
    let scene = Scene::new();
    scene.start().stop(); // makes the tables
    scene
        .database
        .execute("DELETE FROM rules_replicas; ALTER TABLE rules_replicas ADD CONSTRAINT never CHECK (false)");
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    service.until_logged(&["what is in force not told; trying again", "rules_replicas"]);
    scene.database.execute("ALTER TABLE rules_replicas DROP CONSTRAINT never; DELETE FROM rules_replicas");
    until("the rules noted", || match number(&scene.database, "SELECT count(*) FROM rules_replicas") {
        1 => Ok(()),
        found => Err(format!("{found} rows")),
    });
    // A service that begins again with the same rules has had them in force since then.
    let since = "SELECT since::text FROM rules_replicas";
    let before: String = scene.database.value(since);
    service.stop();
    scene.start().stop();
    assert_eq!(scene.database.value::<String>(since), before);
    // A time that no clock shows is an error, and no panic.
    scene.stream.add(&fields([("data", "no JSON")]));
    let service = scene.service().start();
    scene.stream.until_drained();
    service.stop();
    scene.database.execute("UPDATE rules_replicas SET since = 'infinity'");
    let told = tell(&scene, &["replay"]);
    assert!(told.code == Some(1) && told.err.contains("found infinity, wanted a time"), "{told:?}");
}

/// The service tells the database of a swap as soon as it can.
#[test]
fn a_replay_knows_of_a_swap() {
    let scene = Scene::new();
    let file = scene.folder().join("guest.wasm");
    fs::write(&file, guests::STRICT).unwrap();
    let launch = || scene.service().set("GUEST", file.display());
    let service = launch().start();
    scene.stream.add(&Event { properties: None, ..Event::of_type("purchase") }.data());
    scene.stream.until_drained();
    let new = file.with_extension("new");
    fs::write(&new, guests::DEFAULT).unwrap();
    fs::rename(&new, &file).unwrap();
    until("the swap noted", || match told(launch(), &["replay"]) {
        Told { code: Some(0), out, .. } if counted(&out, "are stored") == 1 => Ok(()),
        told => Err(format!("{told:?}")),
    });
    service.stop();
}

#[test]
fn letters_are_counted_by_cause_and_found_by_what_they_have_in_common() {
    let scene = Scene::new();
    refused_purchases(&scene, 5);
    let table = run(&scene, &["summary"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(1).unwrap().trim_start().starts_with("5  "), "{table}");
    assert!(table.contains("properties.amount: missing") && table.contains("undecodable"), "{table}");
    let version: String = scene.database.value("SELECT DISTINCT encode(version, 'hex') FROM dead_letters");
    assert!(table.contains(&version[..12]), "as `rules status` names them: {table}");
    let lines = run(&scene, &["summary", "--json", "--limit", "1"]);
    let cause: Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((&cause["letters"], &cause["code"]), (&Value::from(5), &Value::from("missing")), "{cause}");
    assert_eq!(cause["version"], version[..12], "{cause}");

    let digest = Digest::new(guests::STRICT).to_string();
    for (filter, found) in [
        (["--guest", digest.as_str()], 7),
        (["--guest", "0000"], 0),
        (["--stream", scene.stream.name.as_str()], 7),
        (["--stream", "another"], 0),
    ] {
        let list = run(&scene, &[&["list", "--json"], &filter[..]].concat());
        assert_eq!(list.lines().count(), found, "{filter:?}");
    }
    let told = tell(&scene, &["list", "--guest", "no digest"]);
    assert!(told.err.contains("wanted 1 to 64 hexadecimal digits"), "{told:?}");
    let purged = run(&scene, &["purge", "--stream", &scene.stream.name]);
    assert_eq!(purged, "7 dead letters are deleted\n");
}

#[test]
fn replays_side_by_side_share_the_work() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 3_000);
    let replay = || {
        let mut command = scene.service().tool(&["dead-letters", "replay", "--code", "missing"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let stored: u64 = [replay(), replay()]
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            counted(&String::from_utf8(output.stdout).unwrap(), "are stored")
        })
        .sum();
    assert_eq!(stored, 3_000);
    assert_eq!(scene.database.events(), events);
    assert_eq!(number(&scene.database, SETTLED), 3_000);
}

/// The third chunk waits for a row that the test holds, and there the replay is killed.
#[test]
fn a_replay_that_is_killed_goes_on_where_it_was() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 2_600);
    let mut other = hold_letter(&scene.database, &events, 1_300);
    let mut replay =
        scene.service().set("BATCH_SIZE", 500).tool(&["dead-letters", "replay", "--code", "missing"]);
    let mut replay = replay.stdout(Stdio::null()).spawn().unwrap();
    until("two parts done", || match number(&scene.database, SETTLED) {
        1_000 => Ok(()),
        found => Err(format!("{found}")),
    });
    replay.kill().unwrap();
    replay.wait().unwrap();
    // The dead one's third part may be locked still, and must not be passed over in silence.
    let mut again = scene.service().tool(&["dead-letters", "replay", "--code", "missing"]);
    let again = again.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    block_on(async {
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    });
    let output = again.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!((counted(&out, "are stored"), counted(&out, "are duplicate")), (1_600, 0), "{out}");
    assert_eq!(scene.database.events(), events);
    assert_eq!(number(&scene.database, SETTLED), 2_600);
}

/// A replay waits for what another one holds, and reports what is not given back.
#[test]
fn letters_that_are_held_are_not_passed_over() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 700);
    let mut other = scene.database.connect();
    let hold = "BEGIN; SELECT id FROM dead_letters WHERE reason = 'rejected' ORDER BY id LIMIT 10 FOR UPDATE";
    block_on(async { sqlx::raw_sql(hold).execute(&mut other).await.unwrap() });
    let code = ["--code", "missing"];
    let told = tell(&scene, &[&["replay", "--wait", "1s"], &code[..]].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.err.contains("10 dead letters were not replayed"), "{told:?}");
    assert_eq!(counted(&told.out, "are stored"), 690, "{told:?}");
    let dry = run(&scene, &[&["replay", "--dry-run"], &code[..]].concat());
    assert_eq!(counted(&dry, "would be stored"), 10, "{dry}");

    let mut replay = scene.service().tool(&[&["dead-letters", "replay"], &code[..]].concat());
    let mut replay = replay.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(second_line(&mut replay), "waiting for 10 dead letters that another replay holds");
    // The other replay has judged some letters, which are dead letters still, and left the rest.
    let judge = "UPDATE dead_letters SET replay_outcome = 'rejected', replayed_at = clock_timestamp()
                 WHERE id IN (SELECT id FROM dead_letters WHERE reason = 'rejected' ORDER BY id LIMIT 4); COMMIT";
    block_on(async { sqlx::raw_sql(judge).execute(&mut other).await.unwrap() });
    let output = replay.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(counted(&String::from_utf8(output.stdout).unwrap(), "are stored"), 6);
    assert_eq!(counted(&run(&scene, &[&["replay"], &code[..]].concat()), "are stored"), 4);
    assert_eq!(scene.database.events(), events);
}

/// The database refuses one row of a chunk, and the others are stored.
#[test]
fn a_replayed_row_that_postgres_refuses_costs_its_own_letter() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 600);
    let bad = &events[321];
    scene.database.execute(&format!(
        "ALTER TABLE events ADD CONSTRAINT refuse CHECK (user_id <> '{}') NOT VALID",
        bad.user_id
    ));
    for dry_run in [&["replay", "--dry-run"][..], &["replay"]] {
        let out = run(&scene, dry_run);
        assert!(out.lines().any(|line| line.trim().starts_with("599  ") && line.contains("stored")), "{out}");
        assert!(out.contains("refused"), "{out}");
    }
    let marked = "SELECT count(*) FROM dead_letters
                  WHERE replay_outcome = 'refused' AND replayed_at IS NOT NULL AND replay_component IS NOT NULL";
    assert_eq!(number(&scene.database, marked), 1, "the letter says so");
    let again = run(&scene, &["replay"]);
    assert_eq!(
        counted(&again, "are dead letters still"),
        3,
        "it stays open, as the two that nobody accepts\n{again}"
    );
    assert_eq!(number(&scene.database, marked), 1);
    assert_eq!(scene.database.events().len(), 599);
    assert_eq!(number(&scene.database, SETTLED), 599);
    scene.database.execute("ALTER TABLE events DROP CONSTRAINT refuse");
    assert_eq!(counted(&run(&scene, &["replay"]), "are stored"), 1);
    assert_eq!(scene.database.events(), events);
}

#[test]
fn letters_are_purged_by_what_they_are() {
    let scene = Scene::new();
    refused_purchases(&scene, 1_100);
    let refusal = tell(&scene, &["purge"]);
    assert!(refusal.code == Some(1) && refusal.err.contains("--all"), "{refusal:?}");
    assert_eq!(run(&scene, &["purge", "--older", "1h"]), "0 dead letters are deleted\n");
    assert_eq!(run(&scene, &["purge", "--code", "missing"]), "1,100 dead letters are deleted\n");
    assert_eq!(scene.database.letters().len(), 2);
    assert_eq!(run(&scene, &["purge", "--all"]), "2 dead letters are deleted\n");
    assert_eq!(scene.database.letters(), []);
}

/// The network falls silent in the middle of the replay's transaction.
#[test]
fn a_network_that_falls_silent_ends_a_replay_in_its_midst() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 10);
    let url = scene.database.url();
    let proxy = Proxy::start(&url);
    let mut lock = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut lock).await.unwrap() });
    let mut replay = scene.service().set("POSTGRES_URL", proxy.url(&url)).tool(&["dead-letters", "replay"]);
    let replay = replay.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until_waiting(&scene.database, 1);
    proxy.set(Fault::HalfOpen);
    block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap() });
    ends_by_itself(replay, "no answer to storing what was replayed within 30s");
    // The server ends the session whose client is silent, and then its letters are free.
    until_within(Duration::from_secs(90), "the letters to be free", || {
        match counted(&run(&scene, &["replay", "--code", "missing", "--wait", "30s"]), "are stored") {
            10 => Ok(()),
            found => Err(format!("{found} stored")),
        }
    });
    assert_eq!(scene.database.events(), events);
}

/// Each command waits for a lock when the network falls silent, and the answer never comes.
#[test]
fn a_network_that_falls_silent_ends_each_command() {
    let scene = Scene::new();
    refused_purchases(&scene, 10);
    let url = scene.database.url();
    let proxy = Proxy::start(&url);
    let mut lock = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE dead_letters").execute(&mut lock).await.unwrap() });
    let commands: [&[&str]; 6] = [
        &["list"],
        &["show", "1"],
        &["replay"],
        &["replay", "--dry-run"],
        &["purge", "--all"],
        &["purge", "--dry-run"],
    ];
    let children: Vec<Child> = commands
        .into_iter()
        .map(|command| {
            let tool = scene.service().set("POSTGRES_URL", proxy.url(&url));
            let mut tool = tool.tool(&[&["dead-letters"], command].concat());
            tool.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    until_waiting(&scene.database, 6);
    proxy.set(Fault::HalfOpen);
    block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap() });
    children.into_iter().for_each(|child| ends_by_itself(child, "no answer to"));
}

fn until_waiting(database: &Database, count: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'sluicegate' AND wait_event_type = 'Lock'";
    until("those that wait for the lock", || match number(database, waiting) {
        found if found == count => Ok(()),
        found => Err(format!("{found}")),
    });
}

fn ends_by_itself(mut child: Child, with: &str) {
    until_within(Duration::from_secs(50), "the command's end", || match child.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("it waits".to_owned()),
    });
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("postgres: ") && told.contains(with), "{told}");
}
