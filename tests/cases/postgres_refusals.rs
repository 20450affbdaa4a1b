//! Tests what is done when PostgreSQL refuses a batch: whether a row is to blame for it, or the server.

use std::collections::{BTreeMap, BTreeSet};

use sluicegate_tests::{Event, Fields, Scene, until};

/// Lists errors that may be the server's fault, and are a trigger's here.
const ANY: [&str; 21] = [
    "08000", "23505", "25006", "40001", "53200", "53400", "55000", "57014", "58030",
    "XX000", // may pass
    "0A000", "23502", "28000", "2F000", "38000", "42501", "42P01", "45000", "72000",
    "HV000", // somebody must act
    "P0001",
];

/// Makes a trigger that raises the error that an event's type names.
const RAISE: &str = "CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NEW.event_type LIKE 'raise %' THEN
             RAISE EXCEPTION 'said so' USING ERRCODE = substr(NEW.event_type, 7);
         END IF;
         RETURN NEW; END $$;
     CREATE TRIGGER raise BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION raise()";

fn data(events: &[Event]) -> Vec<Fields> {
    events.iter().map(Event::data).collect()
}

fn until_letters(scene: &Scene, count: usize) -> BTreeMap<String, String> {
    until(&format!("{count} dead letters"), || match scene.database.letters().len() {
        found if found == count => Ok(()),
        found => Err(format!("{found}")),
    });
    let message = |letter: sluicegate_tests::Letter| {
        assert_eq!(letter.reason, "refused");
        (letter.entry_id, letter.violations[0]["message"].as_str().unwrap().to_owned())
    };
    scene.database.letters().into_iter().map(message).collect()
}

#[test]
fn a_row_that_fails_with_any_code_costs_itself_alone() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    scene.database.execute(RAISE);
    let mut events: Vec<Event> = (0..4 * ANY.len()).map(|_| Event::new()).collect();
    for (i, code) in ANY.iter().enumerate() {
        events[4 * i].event_type = format!("raise {code}");
    }
    let ids = scene.stream.add_all(&data(&events));
    let service = scene.service().set("BATCH_SIZE", 100).set("ROW_RETRY", "500ms").start();
    let letters = until_letters(&scene, ANY.len());
    for (i, code) in ANY.iter().enumerate() {
        let message = &letters[&ids[4 * i]];
        assert!(message.contains("said so") && message.contains(code), "{code}: {message}");
    }
    events.retain(|event| !event.event_type.starts_with("raise"));
    assert_eq!(scene.until_stored(3 * ANY.len()), events);
    scene.stream.until_drained();
    let tally = service.stop().metrics().tally();
    assert_eq!(tally, [3 * ANY.len() as u64, 0, 0, 0, ANY.len() as u64]);
}

/// Such a row can be compared only with what is in the table already.
#[test]
fn a_row_that_comes_alone_is_judged_by_the_rows_before_it() {
    for code in ["58030", "0A000"] {
        let scene = Scene::new();
        let service = scene.service().set("ROW_RETRY", "200ms").start();
        scene.stream.add(&Event::new().data());
        scene.until_stored(1);
        scene.database.execute(RAISE);
        scene.stream.add(&Event::of_type(&format!("raise {code}")).data());
        let letters = until_letters(&scene, 1);
        assert!(letters.values().all(|message| message.contains(code)), "{letters:?}");
        assert_eq!(service.stop().metrics().tally(), [1, 0, 0, 0, 1]);
    }
}

/// If every row is refused, no row is to blame, however long that lasts.
#[test]
fn what_refuses_every_row_costs_none() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    let mut events: Vec<Event> = (0..5).map(|_| Event::new()).collect();
    scene.stream.add_all(&data(&events));
    let service = scene.service().set("ROW_RETRY", "100ms").set("MONITORING_INTERVAL", "100ms").start();
    scene.until_stored(5);
    scene.database.execute(
        "CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'always' USING ERRCODE = '58030'; END $$;
         CREATE TRIGGER raise BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION raise()",
    );
    let more: Vec<Event> = (0..30).map(|_| Event::new()).collect();
    scene.stream.add_all(&data(&more));
    service.until_logged(&["state=\"waiting for postgres\""]);
    until("some tries", || match service.log().matches("58030").count() {
        0 | 1 => Err("too few".to_owned()),
        _ => Ok(()),
    });
    scene.database.execute("DROP TRIGGER raise ON events");
    events.extend(more);
    assert_eq!(scene.until_stored(35), events);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [35, 0, 0, 0, 0]);
}

/// The error is like that of a right that was taken away: the service ends, and says so.
#[test]
fn what_somebody_must_mend_ends_the_run_and_costs_no_row() {
    let scene = Scene::new();
    let mut service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.database.execute(
        "CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'always' USING ERRCODE = '42501'; END $$;
         CREATE TRIGGER raise BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION raise()",
    );
    scene.stream.add_all(&data(&(0..30).map(|_| Event::new()).collect::<Vec<_>>()));
    until("the end", || match service.has_ended() {
        true => Ok(()),
        false => Err(service.log_tail()),
    });
    assert!(service.log().contains("42501"), "{}", service.log());
    assert_eq!(scene.database.letters(), []);
    scene.database.execute("DROP TRIGGER raise ON events");
    let service = scene.start();
    scene.until_stored(31);
    scene.stream.until_drained();
    service.stop();
}

/// The trigger acts as TimescaleDB does for a frozen chunk, which the tests' build cannot make.
#[test]
fn a_late_event_for_a_frozen_chunk_costs_itself_alone() {
    let scene = Scene::new();
    let old = || Event { time: chrono::Utc::now() - chrono::TimeDelta::weeks(50), ..Event::new() };
    let service = scene.start();
    scene.stream.add_all(&data(&[old(), Event::new()]));
    scene.until_stored(2);
    let oldest: String =
        scene.database.value("SELECT tableoid::regclass::text FROM events ORDER BY time LIMIT 1");
    scene.database.execute(&format!(
        "CREATE FUNCTION frozen_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'cannot INSERT into frozen chunk' USING ERRCODE = '0A000'; END $$;
         CREATE TRIGGER frozen_chunk BEFORE INSERT ON {oldest} FOR EACH ROW EXECUTE FUNCTION frozen_chunk()"
    ));
    let mut events: Vec<Event> = (0..20).map(|_| Event::new()).collect();
    events[7] = old();
    let ids = scene.stream.add_all(&data(&events));
    let letters = until_letters(&scene, 1);
    assert!(letters[&ids[7]].contains("frozen chunk (SQLSTATE 0A000)"), "{letters:?}");
    scene.until_stored(21);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [21, 0, 0, 0, 1]);
}

/// Only the key of events makes a duplicate.
#[test]
fn another_unique_index_makes_no_duplicates() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    scene.database.execute("CREATE UNIQUE INDEX ON events (user_id, time)");
    let mut events: Vec<Event> = (0..20).map(|_| Event::new()).collect();
    events[11] = Event { user_id: events[3].user_id.clone(), time: events[3].time, ..Event::new() };
    let ids = scene.stream.add_all(&data(&events));
    let service = scene.service().set("ROW_RETRY", "300ms").start();
    let letters = until_letters(&scene, 1);
    let lost: BTreeSet<&String> = letters.keys().collect();
    assert!(lost.is_subset(&BTreeSet::from([&ids[3], &ids[11]])), "{letters:?}");
    assert!(letters.values().all(|message| message.contains("23505")), "{letters:?}");
    scene.until_stored(19);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [19, 0, 0, 0, 1]);
}

#[test]
fn a_row_that_a_trigger_drops_is_told() {
    let drop = "CREATE FUNCTION drop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.event_type = 'drop' THEN RETURN NULL; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER drop BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION drop()";
    for is_there_before in [true, false] {
        let scene = Scene::new();
        let service = match is_there_before {
            true => {
                scene.start().stop(); // makes the table
                scene.database.execute(drop);
                scene.start()
            }
            false => {
                let service = scene.start();
                scene.database.execute(drop);
                service
            }
        };
        let mut events: Vec<Event> = (0..30).map(|_| Event::new()).collect();
        events[10] = Event::of_type("drop");
        let mut entries = data(&events);
        entries.push(events[0].data()); // a true duplicate
        let ids = scene.stream.add_all(&entries);
        let letters = until_letters(&scene, 1);
        assert!(letters[&ids[10]].contains("has dropped the row"), "{letters:?}");
        events.remove(10);
        assert_eq!(scene.until_stored(29), events);
        scene.stream.until_drained();
        let tally = service.stop().metrics().tally();
        assert_eq!(tally.iter().sum::<u64>(), 31);
        assert_eq!(tally[4], 1);
        if is_there_before {
            assert_eq!(tally, [29, 1, 0, 0, 1]);
        }
    }
}

/// The operator's own constraint refuses one row, and the operator's trigger another.
#[test]
fn a_row_that_only_postgres_refuses_costs_its_own_entry() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    scene.database.execute(
        "ALTER TABLE events ADD CONSTRAINT no_mallory CHECK (user_id <> 'mallory');
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.event_type = 'forbidden' THEN RAISE EXCEPTION 'forbidden by the operator'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let mut events: Vec<Event> = (0..60).map(|_| Event::new()).collect();
    events[17].user_id = "mallory".to_owned();
    events[18].event_type = "forbidden".to_owned();
    let entries: Vec<Fields> = events.iter().map(Event::data).collect();
    scene.stream.add_all(&entries);
    let service = scene.start();
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(letters.len(), 2, "{letters:?}");
    let mut messages: Vec<(Option<Fields>, String)> = letters
        .into_iter()
        .map(|letter| {
            assert_eq!((letter.reason.as_str(), letter.codes()), ("refused", vec!["refused"]));
            (letter.fields, letter.violations[0]["message"].as_str().unwrap().to_owned())
        })
        .collect();
    messages.sort_by_key(|(fields, _)| entries.iter().position(|entry| Some(entry) == fields.as_ref()));
    for ((fields, message), (i, wanted)) in
        messages.iter().zip([(17, "no_mallory"), (18, "forbidden by the operator")])
    {
        assert_eq!(fields.as_ref(), Some(&entries[i]));
        assert!(message.contains(wanted), "{message}");
    }
    for i in [18, 17] {
        events.remove(i);
    }
    assert_eq!(scene.database.events(), events);
    assert_eq!(service.stop().metrics().tally(), [58, 0, 0, 0, 2]);
}
