//! Tests that an entry which cannot be stored is kept as a dead letter, acknowledged and reported, and costs no other entry.

use redis::cmd;
use sluicegate::batch::Digest;
use sluicegate_tests::{Event, Fields, Letter, Scene, fields, guests};

/// Waits for the letters, and checks that nothing is left to be done.
fn until_letters(scene: &Scene, count: usize) -> Vec<Letter> {
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(letters.len(), count, "{letters:?}");
    letters
}

#[test]
fn invalid_entries_become_dead_letters_and_the_others_are_stored() {
    let scene = Scene::new();
    let bad: Vec<(Fields, Vec<&str>)> = vec![
        (fields([("data", "not JSON")]), vec!["json_syntax"]),
        (fields([("data", "[1]")]), vec!["wrong_type"]),
        (fields([("data", "{\"event_id\": \"")]), vec!["json_syntax"]),
        (fields([("data", "{}")]), vec!["missing"; 4]),
        (fields([("other", "field")]), vec!["missing"]),
        (fields([("", "")]), vec!["missing"]),
        (
            fields([("event_id", "1"), ("event_type", ""), ("user_id", "a\0b"), ("timestamp", "2026-01-18")]),
            vec!["invalid_uuid", "empty", "nul_character", "invalid_timestamp"],
        ),
    ];
    let good: Vec<Event> = (0..=bad.len()).map(|_| Event::new()).collect();
    let mut entries = vec![good[0].data()];
    for (i, (bad, _)) in bad.iter().enumerate() {
        entries.extend([bad.clone(), good[i + 1].flat()]);
    }
    let ids = scene.stream.add_all(&entries);
    let service = scene.service().set("COMMITS_IN_FLIGHT", 1).start();
    let letters = until_letters(&scene, bad.len());
    assert_eq!(scene.database.events(), good);

    for (i, (letter, (fields, codes))) in letters.iter().zip(&bad).enumerate() {
        assert_eq!(letter.stream, scene.stream.name);
        assert_eq!(letter.entry_id, ids[2 * i + 1]);
        assert_eq!((letter.reason.as_str(), letter.codes()), ("rejected", codes.clone()), "{letter:?}");
        assert_eq!(letter.fields.as_ref(), Some(fields));
        assert_eq!(letter.component, Digest::new(guests::DEFAULT).as_bytes());
        let line = service.until_logged(&["entry not stored", &format!("entry={}", letter.entry_id)]);
        assert!(
            line.contains("reason=\"rejected\"") && codes.iter().all(|code| line.contains(code)),
            "{line}"
        );
    }
    let violation = &letters[6].violations[0];
    assert_eq!(violation["path"], "event_id");
    assert!(violation["message"].as_str().unwrap().contains("found `1`, expected a UUID"), "{violation}");
    assert_eq!(service.stop().metrics().tally(), [8, 0, 7, 0, 0]);
}

#[test]
fn bytes_that_are_no_text_are_kept_byte_for_byte() {
    let scene = Scene::new();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let bad = [
        fields([(b"data".as_slice(), all_bytes.as_slice())]),
        fields([(all_bytes.as_slice(), b"value".as_slice()), (b"data", b"{}")]),
        fields([(b"a".as_slice(), b"\0".as_slice()), (b"a", b"\xff"), (b"", b"")]),
    ];
    let good = Event::new();
    let mut entries = bad.to_vec();
    entries.insert(1, good.data());
    scene.stream.add_all(&entries);
    let service = scene.start();
    let letters = until_letters(&scene, 3);
    assert_eq!(scene.database.events(), [good]);
    for (letter, fields) in letters.iter().zip(bad) {
        assert_eq!((letter.reason.as_str(), letter.codes()), ("undecodable", vec!["not_utf8"]));
        assert_eq!(letter.fields, Some(fields));
        service.until_logged(&["entry not stored", &letter.entry_id, "undecodable"]);
    }
    assert_eq!(service.stop().metrics().tally(), [1, 0, 0, 0, 3]);
}

#[test]
fn entries_deleted_while_pending_become_dead_letters() {
    let scene = Scene::new();
    let events: Vec<Event> = (0..5).map(|_| Event::new()).collect();
    let ids = scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    scene.stream.make_group();
    scene.stream.read_as("consumer-1", 5);
    assert_eq!(scene.stream.run::<u64>(cmd("XDEL").arg(&scene.stream.name).arg(&ids[1]).arg(&ids[3])), 2);

    let service = scene.start();
    let rows = scene.until_stored(3);
    assert_eq!(rows, [events[0].clone(), events[2].clone(), events[4].clone()]);
    scene.stream.until_drained();
    let letters = scene.database.letters();
    let found: Vec<(&str, &str)> =
        letters.iter().map(|letter| (letter.entry_id.as_str(), letter.reason.as_str())).collect();
    assert_eq!(found, [(ids[1].as_str(), "deleted"), (ids[3].as_str(), "deleted")]);
    assert!(letters.iter().all(|letter| letter.fields.is_none()), "the content is lost, and said to be");
    assert_eq!(service.stop().metrics().tally(), [3, 0, 0, 0, 2]);
}

#[test]
fn a_redelivered_letter_is_kept_once_and_another_of_the_same_id_as_well() {
    let scene = Scene::new();
    let add = |value: &str| {
        let mut xadd = cmd("XADD");
        scene.stream.run::<String>(xadd.arg(&scene.stream.name).arg("5-1").arg("data").arg(value))
    };
    for value in ["one", "one", "two"] {
        add(value);
        let service = scene.start();
        scene.stream.until_drained();
        service.stop();
        scene.stream.run::<u64>(cmd("DEL").arg(&scene.stream.name));
    }
    let kept: Vec<Option<Fields>> =
        scene.database.letters().into_iter().map(|letter| letter.fields).collect();
    assert_eq!(kept, [Some(fields([("data", "one")])), Some(fields([("data", "two")]))]);
}
