//! Tests that what is committed but not acknowledged at a crash is not decided a second time.

use std::collections::BTreeMap;

use redis::cmd;
use rustix::process::Signal;
use sluicegate_tests::{
    Event, Fields, GRANTS, STATEMENTS, Scene, Service, Stage, Stream, block_on, event_of, guests, until,
};

/// Starts the service with these rules, and waits until it dies right after its first commit.
fn die_after_commit(scene: &Scene, rules: &[u8]) {
    let service = scene.service().set("GUEST", scene.guest(rules)).with_failpoints("after_commit=kill/1");
    until_dead(service.start_unready());
}

fn until_dead(mut service: Service) {
    until("the service to die", || match service.has_ended() {
        true => Ok(()),
        false => Err("it lives".to_owned()),
    });
}

fn start(scene: &Scene, rules: &[u8]) -> Service {
    scene.service().set("GUEST", scene.guest(rules)).start()
}

/// Returns the clients of a Redis, each with its flags, among which `b` says that it waits in a blocking call.
fn clients(stream: &Stream) -> BTreeMap<String, String> {
    let list: String = stream.run(cmd("CLIENT").arg("LIST"));
    let of = |line: &str, name: &str| {
        line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    list.lines().map(|line| (of(line, "id="), of(line, "flags="))).collect()
}

/// Makes an event that only the default rules store.
fn purchase_without_amount() -> Event {
    Event { properties: None, ..Event::of_type("purchase") }
}

#[test]
fn a_stored_event_is_not_rejected_by_the_next_rules() {
    let scene = Scene::new();
    let events = [Event::new(), purchase_without_amount(), Event::of_type("heartbeat")];
    scene.stream.add_all(&events.each_ref().map(Event::data));
    die_after_commit(&scene, guests::DEFAULT);
    assert_eq!(scene.stream.pending().len(), 3);

    let service = start(&scene, guests::STRICT);
    scene.stream.until_drained();
    let ended = service.stop();
    assert_eq!(ended.metrics().tally(), [0, 3, 0, 0, 0]);
    assert!(ended.log.contains("committed before; acknowledging entries=3"), "{}", ended.log);
    assert_eq!(scene.database.events(), events);
    assert_eq!(scene.database.letters(), []);
}

#[test]
fn a_rejected_event_is_not_stored_by_the_next_rules() {
    let scene = Scene::new();
    let [good, purchase, heartbeat] = [Event::new(), purchase_without_amount(), Event::of_type("heartbeat")];
    scene.stream.add_all(&[good.data(), purchase.data(), heartbeat.data()]);
    die_after_commit(&scene, guests::STRICT);

    // An entry that nobody has decided is pending beside them, in the same batch.
    let new = purchase_without_amount();
    scene.stream.add(&new.data());
    scene.stream.read_as("consumer-1", 1);
    assert_eq!(scene.stream.pending().len(), 4);
    let service = start(&scene, guests::DEFAULT);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, 3, 0, 0, 0]);
    assert_eq!(scene.database.events(), [good, new]);
    assert_eq!(scene.database.letters().len(), 1, "the heartbeat is discarded, and stays so");
}

/// The commit log knows the other parts of a batch that was split as well.
#[test]
fn a_batch_that_committed_in_parts_is_known_in_parts() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..8).map(|_| purchase_without_amount()).collect();
    scene.database.execute(
        "CREATE TABLE events (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL,
        event_type TEXT NOT NULL, user_id TEXT NOT NULL CHECK (user_id <> 'refused'), properties JSONB,
        PRIMARY KEY (event_id, time))",
    );
    let refused = Event { user_id: "refused".to_owned(), ..events[5].clone() };
    let entries: Vec<Fields> = events
        .iter()
        .enumerate()
        .map(|(i, event)| if i == 5 { refused.data() } else { event.data() })
        .collect();
    scene.stream.add_all(&entries);
    // The third commit is not the last, and no entry is acknowledged.
    let service = scene.service().with_failpoints("after_commit=kill/3;before_ack=delay:60000/1");
    until_dead(service.start_unready());
    let stored = scene.database.events().len();
    let known = stored + scene.database.letters().len();
    assert!((3..8).contains(&known), "{known} committed");

    let service = start(&scene, guests::STRICT);
    scene.stream.until_drained();
    let tally = service.stop().metrics().tally();
    assert_eq!((tally[0], tally[1]), (0, u64::try_from(known).unwrap()), "{tally:?}");
    assert_eq!(scene.database.events().len(), stored);
    assert_eq!(scene.database.letters().len(), 8 - stored);
}

/// The stream is made again, and the ID belongs to another entry.
#[test]
fn an_id_that_is_used_again_is_another_entry() {
    let scene = Scene::new();
    let add = |event: &Event| {
        let (name, value) = event.data().remove(0);
        scene.stream.run::<String>(cmd("XADD").arg(&scene.stream.name).arg("7-7").arg(name).arg(value))
    };
    let (old, new) = (Event::new(), Event::new());
    add(&old);
    die_after_commit(&scene, guests::DEFAULT);
    scene.stream.run::<()>(cmd("DEL").arg(&scene.stream.name));
    add(&new);
    scene.stream.make_group();
    scene.stream.read_as("consumer-1", 1);

    let service = start(&scene, guests::DEFAULT);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, 0, 0, 0, 0]);
    assert_eq!(scene.database.events(), [old, new]);
}

/// A replica that claims an entry knows what another one committed before it died.
#[test]
fn a_claimed_entry_is_known_too() {
    let scene = Scene::new();
    scene.stream.add(&purchase_without_amount().data());
    die_after_commit(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", scene.guest(guests::STRICT));
    let service = service.set("CONSUMER_NAME", "another").set("CLAIM_MIN_IDLE", "100ms").start();
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [0, 1, 0, 0, 0]);
    assert_eq!(scene.database.letters(), []);
}

#[test]
fn the_record_is_deleted_when_nothing_of_it_is_pending() {
    let scene = Scene::new();
    scene.stream.add(&Event::new().data());
    let service = scene.start();
    scene.stream.until_drained();
    service.stop();
    scene.stream.add(&purchase_without_amount().data());
    die_after_commit(&scene, guests::DEFAULT);
    for table in ["commits", "decided"] {
        scene.database.execute(&format!("UPDATE {table} SET committed_at = now() - INTERVAL '121 minutes'"));
    }
    let count = || {
        scene
            .database
            .value::<i64>("SELECT count(*) FROM decided WHERE committed_at < now() - INTERVAL '2 hours'")
    };
    assert_eq!(count(), 2);

    // This replica does not take the entry from the dead one, so one row must stay.
    let service = scene.service().set("CONSUMER_NAME", "another").start();
    until("one row to be deleted", || match count() {
        2 => Err("two are left".to_owned()),
        _ => Ok(()),
    });
    service.stop();
    assert_eq!(count(), 1);
    let service = start(&scene, guests::STRICT);
    scene.stream.until_drained();
    service.stop();
    assert_eq!(scene.database.letters(), []);
    let service = scene.start();
    until("the other row to be deleted", || match count() {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    service.stop();
}

/// Somebody sets the group back or destroys it, and what was decided is not decided again.
#[test]
fn what_comes_again_as_new_is_not_decided_again() {
    for command in ["SETID", "DESTROY"] {
        let scene = Scene::new();
        let service = start(&scene, guests::DEFAULT);
        let events: Vec<Event> = (0..120).map(|_| Event::new()).collect();
        scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<_>>());
        scene.stream.add(&purchase_without_amount().data());
        scene.until_stored(121);
        scene.stream.until_drained();
        service.stop();
        // The new rules would reject the last event.
        let service = start(&scene, guests::STRICT);
        let mut xgroup = redis::cmd("XGROUP");
        xgroup.arg(command).arg(&scene.stream.name).arg(&scene.stream.group);
        if command == "SETID" {
            xgroup.arg("0");
        }
        scene.stream.run::<redis::Value>(&xgroup);
        let more = Event::new();
        scene.stream.add(&more.data());
        scene.until_stored(122);
        scene.stream.until_drained();
        assert_eq!(scene.database.letters(), [], "{command}");
        let ended = service.stop();
        assert_eq!(ended.metrics().tally(), [1, 121, 0, 0, 0], "{command}");
        assert!(ended.log.contains("come again as new ones"), "{}", ended.log);
    }
}

/// A replica has entries in flight for long. Another one is given them as new, and knows nothing.
#[test]
fn what_is_in_flight_is_not_decided_by_a_replica_that_starts_after_a_set_back() {
    for command in ["SETID", "DESTROY"] {
        let stage = Stage::new();
        let stream = &stage.scene.stream;
        let launch =
            |consumer: &str| stage.service(&format!("{GRANTS}{STATEMENTS}")).set("CONSUMER_NAME", consumer);
        // While it waits for news it does not see the set-back, which is for the second to find.
        let others: Vec<String> = clients(stream).into_keys().collect();
        let first = launch("first").set("BLOCK", "60s").start();
        stage.add(&[event_of("ada")]);
        stage.scene.until_stored(1);
        stream.until_drained();
        let mut other = stage.scene.database.connect();
        let lock = "BEGIN; SELECT events FROM user_activity WHERE user_id = 'ada' FOR UPDATE";
        block_on(async { sqlx::raw_sql(lock).execute(&mut other).await.unwrap() });
        stage.add(&(0..30).map(|_| event_of("ada")).collect::<Vec<_>>());
        until("all in flight", || match stream.pending().len() {
            30 => Ok(()),
            found => Err(format!("{found} pending")),
        });
        until("the first to wait for news", || {
            match clients(stream)
                .iter()
                .any(|(client, flags)| !others.contains(client) && flags.contains('b'))
            {
                true => Ok(()),
                false => Err(format!("{:?}", clients(stream))),
            }
        });
        let mut xgroup = cmd("XGROUP");
        xgroup.arg(command).arg(&stream.name).arg(&stream.group);
        if command == "SETID" {
            xgroup.arg("0");
        }
        stream.run::<redis::Value>(&xgroup);
        let second = launch("second").start();
        until("some in the hands of the second", || {
            let mut ask = cmd("XPENDING");
            ask.arg(&stream.name).arg(&stream.group).arg("-").arg("+").arg(100).arg("second");
            match stream.try_run::<Vec<redis::Value>>(&ask).map_err(|error| error.to_string())?.len() {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        });
        block_on(async { sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap() });
        stage.scene.until_stored(31);
        stream.until_drained();
        let logs = [first.stop().log, second.stop().log].concat();
        assert_eq!(stage.counted("ada"), 31, "{command}: {logs}");
    }
}

/// One replica stands still while another decides entries. Then the group is set back, and the one
/// that stood still goes on with entries that it has never seen.
#[test]
fn what_another_has_decided_before_a_set_back_is_not_decided_again() {
    for command in ["SETID", "DESTROY"] {
        let stage = Stage::new();
        let stream = &stage.scene.stream;
        let launch = |consumer: &str| {
            stage.service(&format!("{GRANTS}{STATEMENTS}")).set("CONSUMER_NAME", consumer).start()
        };
        let first = launch("first");
        let others: Vec<String> = clients(stream).into_keys().collect();
        let second = launch("second");
        stage.add(&[event_of("ada")]);
        stage.scene.until_stored(1);
        stream.until_drained();
        second.signal(Signal::STOP);
        // Redis gives entries to a client that waits for some, though its process stands still.
        until("Redis to wait for the second no more", || {
            let waits =
                |(client, flags): &(&String, &String)| !others.contains(client) && flags.contains('b');
            match clients(stream).iter().find(waits) {
                Some((client, flags)) => Err(format!("the client {client} with the flags {flags}")),
                None => Ok(()),
            }
        });
        stage.add(&(0..60).map(|_| event_of("ada")).collect::<Vec<_>>());
        stage.scene.until_stored(61);
        stream.until_drained();
        first.signal(Signal::STOP);
        let mut xgroup = cmd("XGROUP");
        xgroup.arg(command).arg(&stream.name).arg(&stream.group);
        if command == "SETID" {
            xgroup.arg("0");
        }
        stream.run::<redis::Value>(&xgroup);
        second.signal(Signal::CONT);
        let last = event_of("ada");
        stage.add(std::slice::from_ref(&last));
        stage.scene.until_stored(62);
        stream.until_drained();
        let log = second.stop().log;
        first.signal(Signal::CONT);
        assert_eq!(stage.counted("ada"), 62, "{command}: {log}");
    }
}

/// Otherwise the commit log would grow with each batch, and so would the time for each.
#[test]
fn the_record_is_forgotten_after_a_while() {
    let scene = Scene::new();
    let service = scene.service().set("DECIDED_KEPT", "10s").start();
    scene.stream.add(&Event::new().data());
    scene.stream.until_drained();
    let count = || scene.database.value::<i64>("SELECT count(*) FROM decided");
    assert_eq!(count(), 1);
    scene.database.execute("UPDATE decided SET committed_at = committed_at - INTERVAL '10 seconds'");
    until("the row to be deleted", || match count() {
        0 => Ok(()),
        left => Err(left.to_string()),
    });
    service.stop();
}
