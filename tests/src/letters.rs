//! Makes dead letters, and holds one of them up.

use std::fs;

use sqlx::{AssertSqlSafe, PgConnection};

use crate::database::Database;
use crate::events::{Event, Fields, fields};
use crate::guests;
use crate::scene::Scene;
use crate::wait::block_on;

/// Makes letters of events that only the default rules accept, and of two that nobody accepts. The
/// default rules are in force afterwards.
pub fn refused_purchases(scene: &Scene, count: usize) -> Vec<Event> {
    let strict = scene.folder().join("strict.wasm");
    fs::write(&strict, guests::STRICT).unwrap();
    let purchase = || Event { properties: None, ..Event::of_type("purchase") };
    let events: Vec<Event> = (0..count).map(|_| purchase()).collect();
    let mut entries: Vec<Fields> = events.iter().map(Event::data).collect();
    entries.push(fields([("data", "no \x1b[31mJSON")]));
    entries.push(vec![(b"data".to_vec(), b"\xff".to_vec())]);
    scene.stream.add_all(&entries);
    let service = scene.service().set("GUEST", strict.display()).set("BATCH_SIZE", 1_000).start();
    scene.stream.until_drained();
    service.stop();
    assert_eq!(scene.database.letters().len(), count + 2);
    scene.start().stop();
    events
}

/// Holds the key of an event that a replay comes to after so many letters: a transaction that inserts it waits until the
/// connection is dropped.
pub fn hold_letter(database: &Database, events: &[Event], after: usize) -> PgConnection {
    // Batches commit in any order, so the letters' order is not that of the events.
    let letters = database.letters().into_iter().filter(|letter| letter.codes().contains(&"missing"));
    let fields = letters.skip(after).find_map(|letter| letter.fields);
    let held = events.iter().find(|event| Some(event.data()) == fields).expect("the letter's event");
    let insert = format!(
        "INSERT INTO events VALUES ('{}', '{}', 'held', 'held', NULL)",
        held.timestamp(),
        held.event_id
    );
    // The chunk must be there, or every insert waits until it is made.
    database.execute(&format!("{insert}; DELETE FROM events WHERE event_type = 'held'"));
    let mut other = database.connect();
    let insert = format!("BEGIN; {insert}");
    block_on(async { sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut other).await.unwrap() });
    other
}
