//! Tests that what a guest does in a replay of dead letters happens with its letter, once.

use std::collections::BTreeSet;

use std::process::Stdio;

use serde_json::json;
use sluicegate_tests::{
    Event, GRANTS, Launch, STATEMENTS, Stage, Told, block_on, counted, purchase_of, second_line, told, until,
};

/// Holds letters of purchases that the guest could not count when they came, but can now.
struct Play {
    stage: Stage,
}

impl Play {
    fn new(purchases: &[Event]) -> Self {
        let stage = Stage::new();
        stage.scene.database.execute("ALTER TABLE user_activity RENAME TO away");
        stage.add(purchases);
        let play = Self { stage };
        let service = play.launch().start();
        play.stage.scene.stream.until_drained();
        service.stop();
        play.stage.scene.database.execute("ALTER TABLE away RENAME TO user_activity");
        let letters = play.stage.scene.database.letters();
        assert!(letters.iter().all(|letter| letter.codes() == ["not_enriched"]), "{letters:?}");
        assert_eq!(letters.len(), purchases.len());
        play
    }

    fn of(count: usize) -> Self {
        let purchases: Vec<Event> = (0..count).map(|_| purchase_of("ada", 1.0)).collect();
        Self::new(&purchases)
    }

    fn launch(&self) -> Launch {
        self.stage.service(&format!("{GRANTS}{STATEMENTS}")).set("BATCH_SIZE", 10)
    }

    fn replay(&self) -> Told {
        let told = told(self.launch(), &["replay"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        told
    }

    /// Returns the purchases that were published, and how often in all.
    fn published(&self) -> (BTreeSet<String>, usize) {
        let published = self.stage.purchases();
        (published.iter().map(|fields| fields[0].1.clone()).collect(), published.len())
    }

    fn number(&self, sql: &str) -> i64 {
        self.stage.scene.database.value(sql)
    }

    /// Returns a digest of all that a replay might change.
    fn state(&self) -> String {
        let state = "SELECT md5(concat((SELECT string_agg(l::text, '' ORDER BY id) FROM dead_letters l),
            (SELECT string_agg(a::text, '') FROM user_activity a), (SELECT string_agg(e::text, '') FROM events e),
            (SELECT string_agg(o::text, '') FROM replay_outbox o)))";
        self.stage.scene.database.value(state)
    }
}

/// The statement is another one by then, as the operator wants.
#[test]
fn a_time_that_cannot_be_given_ends_no_replay() {
    let play = Play::of(2);
    let statements =
        STATEMENTS.replace("SELECT plan FROM users WHERE", "SELECT 'infinity'::timestamptz FROM users WHERE");
    let told = told(play.stage.service(&format!("{GRANTS}{statements}")), &["replay", "--force"]);
    assert_eq!((told.code, counted(&told.out, "are dead letters still")), (Some(0), 2), "{told:?}");
    let refusal = play.number("SELECT count(*) FROM dead_letters WHERE replay_outcome = 'rejected'");
    assert_eq!(refusal, 2);
}

const OUTBOX: &str = "SELECT count(*) FROM replay_outbox";

#[test]
fn a_letter_counts_and_is_published_once() {
    let play = Play::of(25);
    let before = play.state();
    let dry = told(play.launch(), &["replay", "--dry-run"]);
    assert_eq!((dry.code, counted(&dry.out, "would be stored")), (Some(0), 25), "{dry:?}");
    assert_eq!(play.state(), before, "a dry run changes nothing");
    assert_eq!(play.published().1, 0);

    assert_eq!(counted(&play.replay().out, "are stored"), 25);
    assert_eq!(play.stage.counted("ada"), 25);
    let stored = play.stage.scene.database.events();
    assert!(stored.iter().all(|event| event.properties == Some(json!({"amount": 1.0, "plan": "gold"}))));
    let (ids, count) = play.published();
    assert_eq!((ids.len(), count), (25, 25));
    assert_eq!(play.number(OUTBOX), 0);
    assert_eq!(play.replay().out, "no dead letters to replay\n");
    assert_eq!((play.stage.counted("ada"), play.published().1), (25, 25));
}

/// Checks that a count that is not idempotent holds under crashes. Returns how many were published.
fn survive(points: &str) -> usize {
    let play = Play::of(100);
    let mut deaths = 0;
    loop {
        let told = told(play.launch().with_failpoints(points), &["replay"]);
        match told.code {
            Some(0) => break,
            _ if deaths > 20 => panic!("{points}: {deaths} deaths: {told:?}"),
            _ => deaths += 1,
        }
    }
    assert!(deaths > 0, "{points}: none");
    assert_eq!(play.stage.scene.database.events().len(), 100, "{points}");
    assert_eq!(play.stage.counted("ada"), 100, "{points}");
    let (ids, count) = play.published();
    assert_eq!(ids.len(), 100, "{points}");
    assert_eq!(play.number(OUTBOX), 0, "{points}");
    count
}

#[test]
fn a_letter_counts_once_whatever_kills_the_replay() {
    assert_eq!(survive("before_insert=kill/4"), 100);
    assert_eq!(survive("before_commit=kill/4"), 100, "what did not commit is not published");
    assert_eq!(survive("before_commit=error/4"), 100);
    assert_eq!(survive("after_commit=kill/4"), 100, "what did commit is, by the next replay");
    assert_eq!(survive("after_commit=error/4"), 100);
    let published = survive("after_publish=kill/4");
    assert!(published > 100, "{published}: what is published may come twice");
}

/// Nobody replays again, so the service does the rest.
#[test]
fn the_service_publishes_what_a_killed_replay_has_left() {
    let play = Play::of(10);
    let told = told(play.launch().with_failpoints("after_commit=kill/1"), &["replay"]);
    assert_eq!(told.code, None, "{told:?}");
    assert_eq!((play.stage.counted("ada"), play.published().1, play.number(OUTBOX)), (10, 0, 1));
    let service = play.launch().start();
    until("the outbox to be empty", || match play.number(OUTBOX) {
        0 => Ok(()),
        found => Err(format!("{found} rows")),
    });
    service.stop();
    assert_eq!((play.published().0.len(), play.published().1), (10, 10));
}

/// PostgreSQL refuses a row. What was done is taken back, and the others are asked one by one.
#[test]
fn a_refused_row_takes_back_what_was_done_for_it() {
    let mut purchases: Vec<Event> = (0..20).map(|_| purchase_of("ada", 1.0)).collect();
    purchases[13].user_id = "refused".to_owned();
    let play = Play::new(&purchases);
    let refuse = "ALTER TABLE events ADD CONSTRAINT refuse CHECK (user_id <> 'refused')";
    play.stage.scene.database.execute(refuse);
    let before = play.state();
    let dry = told(play.launch(), &["replay", "--dry-run"]);
    assert_eq!(counted(&dry.out, "would be stored"), 19, "{dry:?}");
    assert_eq!(play.state(), before);
    for stored in [19, 0] {
        let told = play.replay();
        assert_eq!(
            (counted(&told.out, "are stored"), counted(&told.out, "are dead")),
            (stored, 1),
            "{told:?}"
        );
        assert!(told.out.contains("still: refused"), "{told:?}");
        assert_eq!(["ada", "refused"].map(|user| play.stage.counted(user)), [19, 0]);
        assert_eq!(play.published().1, 19);
    }
    play.stage.scene.database.execute("ALTER TABLE events DROP CONSTRAINT refuse");
    assert_eq!(counted(&play.replay().out, "are stored"), 1);
    assert_eq!(["ada", "refused"].map(|user| play.stage.counted(user)), [19, 1]);
    assert_eq!(play.published().1, 20);
}

/// The guest accepts what the host then finds too deep: the letter stays one in each replay.
#[test]
fn what_is_done_for_a_letter_that_stays_one_is_taken_back() {
    let mut purchases: Vec<Event> = (0..20).map(|_| purchase_of("ada", 1.0)).collect();
    purchases[7].properties = Some(json!({"a": {"b": {"c": 1}}}));
    let play = Play::new(&purchases);
    for stored in [19, 0, 0] {
        let told = told(play.launch().set("GUEST_JSON_DEPTH", 2), &["replay"]);
        assert_eq!(
            (counted(&told.out, "are stored"), counted(&told.out, "are dead")),
            (stored, 1),
            "{told:?}"
        );
        assert!(told.out.contains("still: bad_verdict"), "{told:?}");
        assert_eq!((play.stage.counted("ada"), play.published().1), (19, 19));
    }
    assert_eq!(counted(&play.replay().out, "are stored"), 1);
    assert_eq!((play.stage.counted("ada"), play.published().1), (20, 20));
}

/// The service writes to the same rows as the replay.
#[test]
fn a_row_that_somebody_holds_is_waited_for() {
    let play = Play::of(10);
    play.stage.scene.database.execute("INSERT INTO user_activity VALUES ('ada', 5, now())");
    let mut other = play.stage.scene.database.connect();
    let hold = "BEGIN; UPDATE user_activity SET events = events + 1";
    block_on(async { sqlx::raw_sql(hold).execute(&mut other).await.unwrap() });
    let given_up = told(play.launch(), &["replay", "--wait", "1s"]);
    assert_eq!(given_up.code, Some(1), "{given_up:?}");
    assert!(
        given_up.err.contains("held rows that the rules write to for longer than --wait"),
        "{given_up:?}"
    );
    assert_eq!(given_up.out, "");

    let mut replay = play.launch().tool(&["dead-letters", "replay"]);
    let mut replay = replay.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(second_line(&mut replay), "waiting for rows that somebody else holds");
    block_on(async { sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap() });
    let output = replay.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((play.stage.counted("ada"), play.published().1), (16, 10));
}
