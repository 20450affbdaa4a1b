//! Tests what Redis replies, and what it might reply.

use proptest::prelude::*;

use super::*;

fn bulk(text: &str) -> Value {
    Value::BulkString(text.into())
}

fn reply(entries: Vec<Value>) -> Value {
    Value::Array(vec![Value::Array(vec![bulk("stream"), Value::Array(entries)])])
}

#[test]
fn a_reply_becomes_entries() {
    let fields = Value::Array(vec![bulk("a"), bulk("1"), bulk("a"), bulk("2")]);
    let reply =
        reply(vec![Value::Array(vec![bulk("5-1"), fields]), Value::Array(vec![bulk("6-0"), Value::Nil])]);
    let found = entries(reply).expect("well formed");
    let id = |milliseconds, sequence| EntryId { milliseconds, sequence };
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    assert_eq!(
        found,
        vec![
            Entry { id: id(5, 1), fields: Some(vec![pair("a", "1"), pair("a", "2")]), deliveries: 1 },
            Entry { id: id(6, 0), fields: None, deliveries: 1 },
        ]
    );
}

#[test]
fn no_reply_means_no_entries() {
    assert_eq!(entries(Value::Nil).expect("nil"), vec![]);
    assert_eq!(entries(reply(vec![])).expect("empty"), vec![]);
}

#[test]
fn a_malformed_reply_is_an_error() {
    for bad in [
        Value::Int(1),
        reply(vec![Value::Nil]),
        reply(vec![Value::Array(vec![bulk("x"), Value::Nil])]),
        reply(vec![Value::Array(vec![bulk("1-0"), Value::Array(vec![bulk("odd")])])]),
        Value::Array(vec![Value::Nil, Value::Nil]),
    ] {
        assert!(entries(bad.clone()).is_err(), "{bad:?}");
    }
}

#[test]
fn pending_lines_are_read() {
    let line = |id: &str| Value::Array(vec![bulk(id), bulk("consumer"), Value::Int(9), Value::Int(3)]);
    let id = EntryId { milliseconds: 7, sequence: 0 };
    assert_eq!(
        pending(Value::Array(vec![line("7-0")])).expect("well formed"),
        vec![Pending { id, owner: b"consumer".to_vec(), deliveries: 3 }]
    );
    assert!(pending(Value::Array(vec![line("seven")])).is_err());
    assert!(pending(Value::Nil).is_err());
}

#[test]
fn taken_entries_are_a_list() {
    let entry = Value::Array(vec![bulk("7-0"), Value::Array(vec![bulk("a"), bulk("1")])]);
    let found = taken(Value::Array(vec![entry])).expect("well formed");
    assert_eq!(found.iter().map(|entry| entry.fields.is_some()).collect::<Vec<_>>(), [true]);
    assert!(taken(Value::Array(vec![])).expect("well formed").is_empty());
    assert!(taken(Value::Nil).is_err());
}

/// Generates anything that a server could send, in the form of a reply or not.
fn any_reply() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        Just(Value::Okay),
        any::<i64>().prop_map(Value::Int),
        any::<bool>().prop_map(Value::Boolean),
        proptest::collection::vec(any::<u8>(), 0..8).prop_map(Value::BulkString),
        (0..3_u64, 0..3_u64).prop_map(|(milliseconds, sequence)| bulk(&format!("{milliseconds}-{sequence}"))),
        ".{0,8}".prop_map(Value::SimpleString),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            4 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            1 => proptest::collection::vec((inner.clone(), inner), 0..3).prop_map(Value::Map),
        ]
    })
}

type Content = Option<Vec<(Vec<u8>, Vec<u8>)>>;

fn any_content() -> impl Strategy<Value = Content> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..8);
    proptest::option::of(proptest::collection::vec((bytes(), bytes()), 0..4))
}

/// Returns the entry as Redis would send it.
fn sent(entry: &Entry) -> Value {
    let fields = entry.fields.as_ref().map_or(Value::Nil, |fields| {
        let flat = fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]);
        Value::Array(flat.map(Value::BulkString).collect())
    });
    Value::Array(vec![bulk(&entry.id.to_string()), fields])
}

proptest! {
    #[test]
    fn no_reply_panics(value in any_reply()) {
        let _ = Attributes::from_reply(value.clone()).map(|attributes| attributes.number("lag"));
        let _ = pending(value.clone());
        let _ = taken(value.clone());
        let _ = entries(value);
    }

    #[test]
    fn what_is_sent_arrives(contents in proptest::collection::vec((any::<u64>(), any::<u64>(), any_content()), 0..5)) {
        let wanted: Vec<Entry> = contents
            .into_iter()
            .map(|(milliseconds, sequence, fields)| Entry { id: EntryId { milliseconds, sequence }, fields, deliveries: 1 })
            .collect();
        let list = Value::Array(wanted.iter().map(sent).collect());
        let resp3 = Value::Map(vec![(bulk("stream"), list)]);
        prop_assert_eq!(entries(reply(wanted.iter().map(sent).collect())).expect("well formed"), wanted.clone());
        prop_assert_eq!(entries(resp3).expect("well formed"), wanted);
    }
}
