//! Tests guests that take values of any bytes, and that the others are given no such entry.

use serde_json::{Value, json};
use sluicegate_tests::{
    Fields, Launch, Scene, counted, fields, guests, message, reasons, refused, told, with_guest,
};

fn taking_bytes(scene: &Scene) -> Launch {
    scene.service().set("GUEST", guests::bytes().display())
}

/// Returns what text cannot be: a map of MessagePack, a stream of gzip, all bytes, and a value of random ones.
fn packed() -> Vec<Fields> {
    let all: Vec<u8> = (0..=255).collect();
    let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(100_000).chain([0xff]).collect();
    vec![
        fields([(b"data".as_slice(), b"\x82\xa4name\xa3ada\xa3age\xcc\xf0".as_slice())]),
        fields([
            (b"data".as_slice(), b"\x1f\x8b\x08\x00\x00\x00\x00\x00".as_slice()),
            (b"", b""),
            (b"data", b""),
        ]),
        fields([(b"data".as_slice(), all.as_slice())]),
        fields([(b"a".as_slice(), b"\0".as_slice()), (b"data", &random)]),
    ]
}

/// Returns the properties that the guest makes of these fields.
fn given(fields: &Fields) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pairs = fields.iter().map(|(name, value)| (String::from_utf8(name.clone()).unwrap(), hex(value)));
    json!({ "given": pairs.collect::<Vec<_>>() })
}

/// Checks that the table has what the guest makes of these entries, in whatever order.
fn has_stored(scene: &Scene, entries: &[Fields]) {
    let stored = scene.until_stored(entries.len());
    let sorted = |properties: &mut Vec<Value>| properties.sort_by_key(Value::to_string);
    let mut stored: Vec<Value> = stored.into_iter().filter_map(|event| event.properties).collect();
    let mut wanted: Vec<Value> = entries.iter().map(given).collect();
    sorted(&mut stored);
    sorted(&mut wanted);
    assert!(stored == wanted, "{} rows are not what was sent", stored.len());
}

#[test]
fn a_guest_that_takes_bytes_is_given_each_value_byte_for_byte() {
    let scene = Scene::new();
    let mut entries = packed();
    entries.push(fields([("data", "text is bytes too: ü")]));
    scene.stream.add_all(&entries);
    let service = taking_bytes(&scene).start();
    has_stored(&scene, &entries);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [5, 0, 0, 0, 0]);
}

/// A name is text for both kinds of guests.
#[test]
fn only_a_name_that_is_no_text_is_undecodable_for_it_and_a_trap_costs_one_entry() {
    let scene = Scene::new();
    let entries = packed();
    scene.stream.add_all(&entries[..2]);
    scene.stream.add(&fields([(b"provoke".as_slice(), b"\xff".as_slice())]));
    scene.stream.add(&fields([(b"\xff".as_slice(), b"value".as_slice())]));
    scene.stream.add_all(&entries[2..]);
    let service = taking_bytes(&scene).start();
    scene.stream.until_drained();
    has_stored(&scene, &entries);
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["trapped", "undecodable"]);
    assert!(message(&letters[0]).contains("provoked"), "{}", message(&letters[0]));
    assert!(message(&letters[1]).contains("the name of the field"), "{}", message(&letters[1]));
    assert_eq!(service.stop().metrics().tally(), [4, 0, 0, 0, 2]);
}

#[test]
fn what_a_guest_that_takes_text_could_not_be_given_is_replayed_by_one_that_takes_bytes() {
    let scene = Scene::new();
    let entries = packed();
    scene.stream.add_all(&entries);
    let service = scene.start();
    scene.stream.until_drained();
    service.stop();
    assert_eq!(reasons(&scene.database.letters()), ["undecodable"; 4]);

    // The record of what the last service had in force is a moment old.
    let replay = told(taking_bytes(&scene), &["replay", "--force"]);
    assert_eq!((replay.code, counted(&replay.out, "are stored")), (Some(0), 4), "{replay:?}");
    has_stored(&scene, &entries);
}

#[test]
fn a_component_exports_one_handler_of_the_contracts_type() {
    let (text, bytes) = ("sluicegate:guest/handler@0.1.0", "sluicegate:guest/bytes-handler@0.1.0");
    let of_no_world = "of no world of `sluicegate:guest@0.1.0`: ";
    let wanted = "wanted either `sluicegate:guest/handler@0.1.0`, for values that are text, or";
    refused(
        &guests::with_handlers(&[text, bytes]),
        |launch| launch,
        &[of_no_world, "it exports more than one handler", wanted, bytes],
    );
    refused(&guests::with_handlers(&[]), |launch| launch, &[of_no_world, "it exports no handler", wanted]);
    refused(
        &guests::with_handlers(&[bytes]),
        |launch| launch,
        &["`process` has another type", "tuple<string, list<u8>>", "found", "tuple<string, string>"],
    );
    let scene = Scene::new();
    let service = with_guest(&scene, &guests::with_handlers(&[text])).start();
    service.stop();
}
