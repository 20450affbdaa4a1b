//! Tests guests that were granted capabilities, and misuse them.

use std::fs;

use redis::cmd;
use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Fields, Scene, Stream, check_metrics};

use super::{becomes_a_letter, hostile, letters_of, message, provocation, reasons};

/// Holds a scene for a guest with grants: a table and a stream of its own.
struct Stage {
    scene: Scene,
    published: Stream,
}

impl Stage {
    fn new() -> Self {
        let scene = Scene::new();
        let published = scene.stream.sibling("published");
        fs::write(scene.folder().join("sluicegate.toml"), guests::grants("", &published.name)).unwrap();
        scene.database.execute("CREATE TABLE notes (text TEXT CHECK (text <> 'forbidden'))");
        Self { scene, published }
    }

    /// Checks that the provoking entry becomes a dead letter that holds the host's refusal.
    fn is_refused(name: &str, words: &str) -> Self {
        let stage = Self::new();
        becomes_a_letter(&stage.scene, hostile(&stage.scene, name), "rejected", words);
        stage
    }

    fn published(&self) -> usize {
        self.published.run(cmd("XLEN").arg(&self.published.name))
    }

    fn notes(&self) -> Option<Vec<String>> {
        self.scene.database.value("SELECT array_agg(text) FROM notes")
    }
}

#[test]
pub(super) fn ungranted_stream() {
    Stage::is_refused("ungranted_stream", "NotGranted(\"analytics_events\")");
}

/// The guest publishes what it may, though its entry is rejected: that is its verdict.
#[test]
pub(super) fn publishing_flood() {
    let stage = Stage::is_refused("publishing_flood", "TooMuch(10000)");
    assert_eq!(stage.published(), 10_000);

    let stage = Stage::new();
    let launch = hostile(&stage.scene, "publishing_flood");
    let (letters, _) = letters_of(&stage.scene, launch, &[provoking(&Event::new(), Some(1 << 20))]);
    assert!(message(&letters[0]).contains("TooMuch(4194304)"), "{}", message(&letters[0]));
    assert_eq!(stage.published(), 3, "a mebibyte each, and a little");
}

#[test]
pub(super) fn publishing_piecemeal() {
    let stage = Stage::new();
    let provocations: Vec<Fields> = (0..5).map(|_| provocation()).collect();
    let launch = hostile(&stage.scene, "publishing_piecemeal");
    stage.scene.stream.add_all(&provocations);
    let service = launch.start();
    stage.scene.stream.until_drained();
    let letters = stage.scene.database.letters();
    assert_eq!(letters.len(), 3, "two entries publish 8,000: {letters:?}");
    assert!(letters.iter().all(|letter| message(letter).contains("TooMuch(10000)")), "{letters:?}");
    service.stop();
    assert_eq!(stage.published(), 10_000);
}

#[test]
pub(super) fn publishing_apart() {
    let stage = Stage::new();
    stage.scene.stream.add_all(&(0..6).map(|_| provocation()).collect::<Vec<Fields>>());
    let service = hostile(&stage.scene, "publishing_apart").start();
    stage.scene.stream.until_drained();
    let letters = stage.scene.database.letters();
    assert_eq!(reasons(&letters), ["rejected"; 3], "{letters:?}");
    assert!(letters.iter().all(|letter| message(letter).contains("TooMuch(4194304)")), "{letters:?}");
    service.stop();
    assert_eq!(stage.published(), 3, "a mebibyte each, and a little");
}

#[test]
pub(super) fn publishing_and_failing() {
    let stage = Stage::new();
    let launch = hostile(&stage.scene, "publishing_and_failing").set("MONITORING_INTERVAL", "100ms");
    let ended = becomes_a_letter(&stage.scene, launch, "trapped", "published: Ok(()), noted: Ok(1)");
    assert_eq!((stage.published(), stage.notes()), (0, None));
    assert!(!ended.log.contains("spam="), "{}", ended.log);
}

#[test]
pub(super) fn ungranted_statement() {
    Stage::is_refused("ungranted_statement", "NotGranted(\"DROP TABLE events\")");
}

#[test]
pub(super) fn wrong_parameters() {
    Stage::is_refused("wrong_parameters", "WrongParameters(\"wanted (text)\")");
}

#[test]
pub(super) fn statement_flood() {
    let stage = Stage::new();
    let launch = hostile(&stage.scene, "statement_flood").set("GUEST_TIME_LIMIT", "1m");
    becomes_a_letter(&stage.scene, launch, "rejected", "TooManyStatements(10000)");
    // The time for which the database works is not the guest's.
    let stage = Stage::new();
    let launch = hostile(&stage.scene, "statement_flood").set("GUEST_TIME_LIMIT", "600ms");
    becomes_a_letter(&stage.scene, launch, "rejected", "TooManyStatements(10000)");
}

#[test]
pub(super) fn statement_waste() {
    let stage = Stage::new();
    let launch = hostile(&stage.scene, "statement_waste");
    becomes_a_letter(&stage.scene, launch, "trapped", "ran 4000");
}

#[test]
pub(super) fn endless_statement() {
    Stage::is_refused("endless_statement", "TimedOut(100)");
}

#[test]
pub(super) fn too_many_rows() {
    Stage::is_refused("too_many_rows", "TooMuch(100)");
}

#[test]
pub(super) fn huge_answer() {
    Stage::is_refused("huge_answer", "TooMuch(4194304)");
}

#[test]
pub(super) fn huge_parameters() {
    Stage::is_refused("huge_parameters", "TooMuch(4194304)");
}

#[test]
pub(super) fn noted_rejection() {
    let stage = Stage::new();
    stage.scene.database.execute(
        "CREATE TABLE allowed (text TEXT PRIMARY KEY);
         ALTER TABLE notes ADD FOREIGN KEY (text) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED",
    );
    becomes_a_letter(
        &stage.scene,
        hostile(&stage.scene, "noted_rejection"),
        "rejected",
        "noted, and not wanted",
    );
    assert_eq!(stage.notes(), None);
}

#[test]
pub(super) fn swallowed_error() {
    let stage = Stage::new();
    let event = Event::new();
    stage.scene.stream.add(&provoking(&event, None));
    let service = hostile(&stage.scene, "swallowed_error").start();
    assert_eq!(stage.scene.until_stored(1), [event]);
    stage.scene.stream.until_drained();
    service.stop();
    assert_eq!(stage.notes(), Some(vec!["before".to_owned(), "after".to_owned()]));
}

/// The guest may do that: rows that are written bit by bit are one transaction all the same.
#[test]
pub(super) fn noted_rows() {
    let stage = Stage::new();
    let [twice, once] = [provocation(), provocation()];
    stage.scene.stream.add_all(&[twice.clone(), once, twice, Event::new().data()]);
    let service = hostile(&stage.scene, "noted_rows").start();
    stage.scene.until_stored(2_001);
    stage.scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [3, 1, 0, 0, 0]);
    assert_eq!(stage.notes().map(|notes| notes.len()), Some(3));
    let transactions = "SELECT count(DISTINCT xmin::text) FROM events";
    assert_eq!(stage.scene.database.value::<i64>(transactions), 1);
}

#[test]
pub(super) fn metric_flood() {
    let stage = Stage::new();
    stage.scene.stream.add(&provocation());
    let service = hostile(&stage.scene, "metric_flood").set("MONITORING_INTERVAL", "100ms").start();
    stage.scene.stream.until_drained();
    let line = service.until_logged(&["guest metrics", "flood"]);
    service.stop();
    assert_eq!(line.matches("flood{").count(), 100, "series of a tenant: {line}");
    assert!(line.contains("dropped=19902"), "every one of 20,002 is counted or dropped: {line}");
}

/// Whatever rules count under, what they wrote stays theirs, and the page reads.
#[test]
pub(super) fn metric_names() {
    let stage = Stage::new();
    stage.scene.stream.add(&provocation());
    let service = hostile(&stage.scene, "metric_names").start();
    stage.scene.stream.until_drained();
    let admin = service.admin();
    let page = admin.get("/metrics").body;
    check_metrics(&page);
    let ours: Vec<&str> = page.lines().filter(|line| line.starts_with("sluicegate_entries_total{")).collect();
    assert_eq!(ours.len(), 5, "{ours:#?}");
    assert!(
        ours.iter().all(|line| line.starts_with("sluicegate_entries_total{tenant=\"default\",")),
        "{ours:#?}"
    );
    let theirs: Vec<&str> =
        page.lines().filter(|line| line.starts_with("sluicegate_guest_count_total{")).collect();
    assert!((10..=100).contains(&theirs.len()), "{theirs:#?}");
    for line in page.lines().filter(|line| line.starts_with("sluicegate_guest_")) {
        assert!(line.contains("{tenant=\"default\"") && line.len() < 2_000, "{line}");
    }
    assert!(
        page.contains(
            r#"{tenant="default",name="latencyMs_counter",guest___name__="up",guest_name="down"} 2"#
        ),
        "{page}"
    );
    let open_metrics = admin.with("Accept: application/openmetrics-text; version=1.0.0").get("/metrics");
    assert!(
        open_metrics.head.contains("content-type: application/openmetrics-text"),
        "{}",
        open_metrics.head
    );
    assert!(open_metrics.body.ends_with("# EOF\n") && open_metrics.body.matches("# EOF").count() == 1);
    service.stop();
}
