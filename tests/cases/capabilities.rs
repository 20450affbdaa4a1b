//! Tests that what a guest of the world `pipeline` does happens with its batch, or not at all.

use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;

use sluicegate_tests::{Event, GRANTS, STATEMENTS, Stage, block_on, event_of, purchase_of, until};

fn plan(event: &Event) -> &Value {
    &event.properties.as_ref().unwrap()["plan"]
}

/// PostgreSQL has times that no microseconds can tell, and years that the host's calendar lacks.
#[test]
fn a_time_that_cannot_be_given_is_an_error_of_the_guest() {
    let stage = Stage::new();
    stage.scene.database.execute(
        "CREATE TABLE visits (user_id TEXT, last TIMESTAMPTZ);
         INSERT INTO visits VALUES ('ada', 'infinity'), ('bob', '-infinity'), ('cyd', '294276-12-31 23:59:59 UTC'),
                                   ('gus', '270000-01-01 00:00:00 UTC'),
                                   ('dan', '4713-01-01 00:00:00 UTC BC'), ('eve', now()), ('fay', NULL);",
    );
    let users = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus"];
    stage.add(&users.map(event_of));
    let statements = STATEMENTS.replace("SELECT plan FROM users", "SELECT last FROM visits");
    let service = stage.service(&format!("{GRANTS}{statements}")).start();
    stage.scene.stream.until_drained();
    let letters = stage.scene.database.letters();
    let wanted = ["found infinity", "found -infinity", "found a time that is too far away"];
    assert_eq!(letters.len(), wanted.len());
    for (letter, found) in letters.iter().zip(wanted) {
        let message = letter.violations[0]["message"].as_str().unwrap();
        assert!(message.contains("22008") && message.contains(&format!("last: {found}")), "{message}");
    }
    assert_eq!(service.stop().metrics().tally(), [4, 0, 3, 0, 0]);
}

#[test]
fn a_guest_looks_up_counts_up_and_publishes() {
    let stage = Stage::new();
    stage.add(&[event_of("ada"), purchase_of("ada", 9.5), event_of("bob"), event_of("eve")]);
    let service = stage.service(&format!("{GRANTS}{STATEMENTS}")).start();
    let stored = stage.scene.until_stored(4);
    stage.scene.stream.until_drained();
    let plans: Vec<&Value> = stored.iter().map(plan).collect();
    assert_eq!(plans, ["gold", "gold", "free", "none"]);
    assert_eq!(["ada", "bob", "eve"].map(|user| stage.counted(user)), [2, 1, 1]);
    let purchase = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        stage.purchases(),
        [vec![
            purchase("event_id", &stored[1].event_id.to_string()),
            purchase("user_id", "ada"),
            purchase("plan", "gold"),
            purchase("amount", "9.5")
        ]]
    );
    service.until_logged(&[
        "guest metrics",
        r#"purchase_amount=count:1,sum:9.5,min:9.5,max:9.5 purchases{plan="gold"}=1"#,
    ]);
    assert_eq!(service.stop().metrics().tally(), [4, 0, 0, 0, 0]);
}

#[test]
fn capabilities_that_are_not_granted_are_named_at_start() {
    let stage = Stage::new();
    let ended = stage.service("").run_to_end();
    assert_eq!(ended.code, Some(1));
    for part in [
        "sluicegate:guest/stream@0.1.0 (under [grants]: `stream = true`",
        "sluicegate:guest/store@0.1.0",
        "sluicegate:guest/metrics@0.1.0",
    ] {
        assert!(ended.log.contains(part), "{part}: {}", ended.log);
    }
    let ended = stage.service(GRANTS).run_to_end();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.log.contains(
            "grants.statements is \"user_plan\"; wanted the name of a table [statements.user_plan]"
        ),
        "{}",
        ended.log
    );
    let committing = "[statements.x]\nsql = \"COMMIT\"\n";
    let ended = stage.service(committing).run_to_end();
    assert!(
        ended.log.contains("statements.x.sql is `COMMIT …`; wanted a statement that begins"),
        "{}",
        ended.log
    );
}

#[test]
fn a_statement_that_fails_costs_its_entry_alone() {
    let stage = Stage::new();
    let events = [event_of("ada"), event_of("forbidden"), event_of("bob"), purchase_of("forbidden", 1.0)];
    stage.add(&events);
    let service = stage.service(&format!("{GRANTS}{STATEMENTS}")).start();
    stage.scene.until_stored(2);
    stage.scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 0, 2, 0, 0]);
    let letters = stage.scene.database.letters();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter.codes() == ["not_enriched"]), "{letters:?}");
    assert!(letters[0].violations.to_string().contains("23514"), "{letters:?}");
    assert_eq!([stage.counted("ada"), stage.counted("bob"), stage.counted("forbidden")], [1, 1, 0]);
    assert_eq!(stage.purchases(), Vec::<Vec<(String, String)>>::new());
}

#[test]
fn a_statement_that_takes_too_long_is_ended() {
    let stage = Stage::new();
    let slow = STATEMENTS
        .replace("SELECT plan", "SELECT pg_sleep(CASE $1 WHEN 'slow' THEN 60 ELSE 0 END)::text, plan");
    stage.add(&[event_of("ada"), event_of("slow"), event_of("bob")]);
    stage.scene.database.execute("INSERT INTO users VALUES ('slow', 'free')");
    let start = Instant::now();
    let service = stage.service(&format!("{GRANTS}{slow}")).start();
    stage.scene.until_stored(2);
    stage.scene.stream.until_drained();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    service.stop();
    let letters = stage.scene.database.letters();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].violations.to_string().contains("TimedOut(200)"), "{letters:?}");
}

/// PostgreSQL refuses a row: the batch is split, and what was done for the others happens once.
#[test]
fn a_refused_row_takes_back_what_was_done_for_it() {
    let stage = Stage::new();
    stage.scene.database.execute(
        "CREATE TABLE events (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
             user_id TEXT NOT NULL CHECK (user_id <> 'refused'), properties JSONB, PRIMARY KEY (event_id, time))",
    );
    let mut events: Vec<Event> = (0..20).map(|_| purchase_of("ada", 1.0)).collect();
    events[7].user_id = "refused".to_owned();
    stage.add(&events);
    let service = stage.service(&format!("{GRANTS}{STATEMENTS}")).start();
    stage.scene.until_stored(19);
    stage.scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [19, 0, 0, 0, 1]);
    assert_eq!([stage.counted("ada"), stage.counted("refused")], [19, 0]);
    assert_eq!(stage.purchases().len(), 19);
}

/// Checks that a count that is not idempotent stays exact under crashes at each step.
fn survive(points: &str) {
    let stage = Stage::new();
    let settings = format!("{GRANTS}{STATEMENTS}");
    let launch = || stage.service(&settings).set("BATCH_SIZE", 10).set("PARTIAL_BATCH_DELAY", "0ms");
    let events: Vec<Event> = (0..200).map(|_| purchase_of("ada", 1.0)).collect();
    stage.add(&events);
    let mut deaths = 0;
    let mut service = launch().with_failpoints(points).start_unready();
    let start = Instant::now();
    while !stage.scene.stream.is_drained() {
        let log = || service.log();
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{points}: {deaths} deaths, not drained: {}",
            log()
        );
        std::thread::sleep(Duration::from_millis(20));
        if service.has_ended() {
            deaths += 1;
            service = launch().with_failpoints(points).start_unready();
        }
    }
    assert_eq!(deaths > 0, points.contains("kill"), "{deaths} deaths");
    assert_eq!(stage.scene.database.events().len(), 200);
    assert_eq!(stage.counted("ada"), 200, "{points}");
    // An entry may be published twice, but none is lost.
    let published = stage.purchases();
    let ids: std::collections::BTreeSet<&str> = published.iter().map(|fields| fields[0].1.as_str()).collect();
    assert_eq!(ids.len(), 200, "{points}: {} published", published.len());
}

#[test]
fn what_a_guest_counts_is_counted_once_whatever_fails() {
    survive("before_insert=kill/7");
    survive("before_commit=error/3");
    survive("before_commit=kill/7");
    survive("after_commit=error/3");
    survive("after_commit=kill/7");
    survive("before_ack=kill/7");
    survive("after_ack=error/3");
}

#[test]
fn a_database_that_goes_away_in_the_middle_blames_nobody() {
    let stage = Stage::new();
    stage.add(&(0..500).map(|_| event_of("ada")).collect::<Vec<Event>>());
    let service = stage.service(&format!("{GRANTS}{STATEMENTS}")).set("BATCH_SIZE", 50).start();
    let mut cuts = 0;
    until("all to be done", || {
        if cuts < 10 {
            cuts += stage.scene.database.value::<i64>(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'sluicegate' AND datname = current_database() AND state <> 'idle'",
            );
        }
        match stage.scene.stream.is_drained() {
            true => Ok(()),
            false => Err(format!("{cuts} connections cut")),
        }
    });
    assert!(cuts > 0, "none was cut");
    service.stop();
    assert_eq!(stage.scene.database.letters(), []);
    assert_eq!(stage.counted("ada"), 500);
}

/// What the server answers is told to the guest, and the batch is not judged again for ever.
#[test]
fn a_statement_that_can_never_work_is_told_to_the_guest() {
    let stage = Stage::new();
    stage.scene.database.execute("CREATE SEQUENCE numbers");
    let never =
        STATEMENTS.replace("SELECT plan FROM users WHERE user_id = $1", "SELECT $1 || currval('numbers')");
    let service = stage.service(&format!("{GRANTS}{never}")).start();
    stage.add(&[Event::new()]);
    stage.scene.stream.until_drained();
    let letters = stage.scene.database.letters();
    assert_eq!(letters.len(), 1);
    let message = letters[0].violations[0]["message"].as_str().unwrap();
    assert!(message.contains("55000") && message.contains("currval"), "{message}");
    service.stop();
}

/// All tenants share the connections, so the session must be left as it was.
#[test]
fn what_a_statement_leaves_in_the_session_is_gone_with_the_batch() {
    let stage = Stage::new();
    let leaving =
        STATEMENTS.replace("SELECT plan FROM users WHERE user_id = $1", "SELECT $1 || pg_advisory_lock(7)");
    let service = stage.service(&format!("{GRANTS}{leaving}")).start();
    for _ in 0..3 {
        stage.add(&[Event::new()]);
        stage.scene.stream.until_drained();
    }
    let held = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                WHERE locktype = 'advisory' AND datname = current_database()";
    assert_eq!(stage.scene.database.value::<i64>(held), 0);
    assert_eq!(service.stop().metrics().tally(), [3, 0, 0, 0, 0]);
}

/// A server that is out of memory takes some entries and refuses others, time and again.
#[test]
fn what_redis_has_no_memory_for_is_published_once_and_holds_up_no_others() {
    let stage = Stage::new();
    let service = stage.service(&format!("{GRANTS}{STATEMENTS}")).set("BATCH_SIZE", 50).start();
    let set_memory = |bytes: u64| {
        stage.scene.stream.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes));
    };
    let used = || -> u64 {
        let info: String = stage.scene.stream.run(cmd("INFO").arg("memory"));
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().to_owned();
        line.parse().unwrap()
    };
    let mut lock = stage.scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut lock).await.unwrap() });
    let purchases: Vec<Event> = (0..300).map(|i| purchase_of("ada", f64::from(i))).collect();
    stage.add(&purchases);
    stage.add(&(0..100).map(|_| event_of("bob")).collect::<Vec<_>>());
    set_memory(1);
    block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap() });
    service.until_logged(&["acknowledging failed; trying again", "OOM"]);
    // Entries that have nothing to publish are acknowledged all the same.
    until("the others to be acknowledged", || match stage.scene.stream.pending().len() {
        ..=300 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    let begun = Instant::now();
    while !stage.scene.stream.is_drained() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", service.log_tail());
        set_memory(used() + 30_000); // for some of them
        sleep(Duration::from_millis(50));
    }
    set_memory(0);
    stage.scene.until_stored(400);
    service.stop();
    assert_eq!(stage.purchases().len(), 300);
    assert_eq!((stage.counted("ada"), stage.counted("bob")), (300, 100));
}
