//! Checks what holds for any input.

use chrono::{DateTime, FixedOffset, SecondsFormat};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use sluicegate_kit::EntryId;

use super::*;

/// Makes the text of one JSON value that `jsonb` can hold, with whitespace here and there.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("JSON has no such number", |value| value.is_finite())
            .prop_map(|value| format!("{value:e}")),
        string(),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(|items| format!("[ {}]", items.join(" ,\n"))),
            object_of(inner),
        ]
    })
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    vec((string(), value), 0..5).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:\t{value}")).collect();
        format!("{{{}}}", members.join(", "))
    })
}

/// Makes a JSON string without NUL, sometimes with every character escaped.
fn string() -> impl Strategy<Value = String> {
    ("[^\0]{0,12}", any::<bool>()).prop_map(|(text, escape)| {
        if escape {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        } else {
            serde_json::to_string(&text).unwrap()
        }
    })
}

/// Makes a time of the years 0001 to 9998 with any offset of whole minutes.
fn time() -> impl Strategy<Value = DateTime<FixedOffset>> {
    (-62_135_596_800_i64..253_370_764_800, 0_u32..1_000_000_000, -1439..1440).prop_map(
        |(seconds, nanos, minutes)| {
            let offset = FixedOffset::east_opt(minutes * 60).unwrap();
            DateTime::from_timestamp(seconds, nanos).unwrap().with_timezone(&offset)
        },
    )
}

/// Makes a field name and a value, of which either may be anything.
fn field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        8 => prop::sample::select(&["event_id", "event_type", "user_id", "timestamp", "properties"][..])
            .prop_map(str::to_owned),
        2 => Just("data".to_owned()),
        1 => any::<String>(),
    ];
    let value = prop_oneof![
        any::<String>(),
        "[\\[\\]{}:,\"\\\\u0-9eE. a-]{0,40}",
        json(),
        Just(ID.to_owned()),
        time().prop_map(|time| time.to_rfc3339()),
    ];
    (name, value)
}

/// Asserts what must hold of any verdict, without the code under test.
fn assert_sound(verdict: &Verdict) {
    match verdict {
        Verdict::Accept(event) => {
            assert_eq!(event.event_id.len(), 36);
            assert!(uuid::Uuid::parse_str(&event.event_id).is_ok());
            assert!((-62_167_305_540_000_000..253_402_387_140_000_000).contains(&event.time));
            for text in [&event.event_type, &event.user_id] {
                assert!(!text.is_empty() && !text.contains('\0'));
            }
            if let Some(properties) = &event.properties {
                // This fails for deep nesting, huge numbers and half surrogate pairs too.
                let value: Value = serde_json::from_str(properties).unwrap();
                assert!(value.is_object());
                assert!(!has_nul(&value), "{properties}");
            }
        }
        Verdict::Reject(violations) => {
            assert!((1..=5).contains(&violations.len()), "{violations:?}");
            for violation in violations {
                assert!(violation.path.len() <= 10, "{violation:?}");
                assert!(violation.message.chars().count() < 8 * 64 * 10, "{violation:?}");
                assert!(!violation.message.contains(char::is_control), "{violation:?}");
            }
        }
        other => panic!("the default rules have no verdict {other:?}"),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

proptest! {
    #[test]
    fn any_entry_gets_a_sound_verdict(fields in vec(field(), 0..8)) {
        assert_sound(&judge(&Entry { id: EntryId { milliseconds: 0, sequence: 0 }, fields }));
    }

    #[test]
    fn damaged_json_gets_a_sound_verdict(
        properties in object_of(json()),
        at in any::<prop::sample::Index>(),
        patch in prop_oneof![any::<char>(), prop::sample::select(&['"', '\\', '{', ']', 'u', '0', 'e'][..])],
        removed in 0_usize..3,
    ) {
        let sound = data_with(&format!(r#""properties":{properties}"#)).fields[0].1.clone();
        let mut chars: Vec<char> = sound.chars().collect();
        let from = at.index(chars.len());
        let to = (from + removed).min(chars.len());
        chars.splice(from..to, [patch]);
        assert_sound(&judge(&data(&chars.iter().collect::<String>())));
    }

    #[test]
    fn sound_event_is_accepted_as_it_is(
        id in any::<u128>(),
        event_type in string(),
        user_id in "[^\0]{1,20}",
        time in time(),
        properties in prop::option::of(object_of(json())),
    ) {
        let id = uuid::Uuid::from_u128(id).to_string();
        let event_type = if event_type == "\"\"" { "\"x\"".to_owned() } else { event_type };
        let timestamp = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
        let expected = Event {
            event_id: id.clone(),
            time: time.timestamp_micros(),
            event_type: serde_json::from_str(&event_type).unwrap(),
            user_id: user_id.clone(),
            properties: properties.clone(),
        };

        let mut fields = vec![
            ("event_id".to_owned(), id.clone()),
            ("event_type".to_owned(), expected.event_type.clone()),
            ("user_id".to_owned(), user_id.clone()),
            ("timestamp".to_owned(), timestamp.clone()),
        ];
        fields.extend(properties.clone().map(|properties| ("properties".to_owned(), properties)));
        let flat = Entry { id: EntryId { milliseconds: 0, sequence: 0 }, fields };
        prop_assert_eq!(&accepted(&flat), &expected);

        let user_id = serde_json::to_string(&user_id).unwrap();
        let tail = properties.map(|properties| format!(", \"properties\" : {properties}")).unwrap_or_default();
        let json = format!(
            r#"{{"timestamp":"{timestamp}","event_type":{event_type},"user_id":{user_id},"event_id":"{id}"{tail}}}"#
        );
        prop_assert_eq!(&accepted(&data(&json)), &expected);
    }
}
