//! Tests each thing that can be wrong by one row. `arbitrary` tests what holds for any input.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use sluicegate_kit::{Code, DefaultRules, Entry, Event, Rules as _, Verdict, Violation, quote};

mod arbitrary;

const ID: &str = "123e4567-e89b-12d3-a456-426614174000";
const TIME: &str = "2026-01-18T22:17:34.827Z";
/// Holds the microseconds of [`TIME`].
const MICROS: i64 = 1_768_774_654_827_000;

fn entry(fields: &[(&str, &str)]) -> Entry {
    Entry::of(fields)
}

fn judge(entry: &Entry) -> Verdict {
    DefaultRules.judge(entry).unwrap_or_else(Verdict::from)
}

fn data(json: &str) -> Entry {
    entry(&[("data", json)])
}

/// Makes a sound event in JSON, in which `field` (`"name":value`) takes the place of its own.
fn data_with(field: &str) -> Entry {
    let name = field.split(':').next().unwrap();
    let sound = [
        format!(r#""event_id":"{ID}""#),
        r#""event_type":"click""#.to_owned(),
        r#""user_id":"u1""#.to_owned(),
        format!(r#""timestamp":"{TIME}""#),
    ];
    let others = sound.iter().filter(|other| !other.starts_with(name)).cloned();
    let fields: Vec<String> = others.chain([field.to_owned()]).collect();
    data(&format!("{{{}}}", fields.join(",")))
}

/// Makes a sound event in flat fields, in which the one given takes the place of its own.
fn flat_with(name: &str, value: &str) -> Entry {
    let sound = [("event_id", ID), ("event_type", "click"), ("user_id", "u1"), ("timestamp", TIME)];
    let fields: Vec<_> =
        sound.into_iter().filter(|(other, _)| *other != name).chain([(name, value)]).collect();
    entry(&fields)
}

#[track_caller]
fn accepted(entry: &Entry) -> Event {
    match judge(entry) {
        Verdict::Accept(event) => event,
        other => panic!("{entry:?} gives {other:?}"),
    }
}

#[track_caller]
fn rejected(entry: &Entry) -> Vec<Violation> {
    match judge(entry) {
        Verdict::Reject(violations) => violations,
        other => panic!("{entry:?} gives {other:?}"),
    }
}

/// Asserts that there is one violation, and which.
#[track_caller]
fn assert_refused(entry: &Entry, path: &str, code: Code, message_part: &str) {
    let violations = rejected(entry);
    let [violation] = violations.as_slice() else { panic!("{violations:?}") };
    assert_eq!((violation.path.as_str(), violation.code.as_str()), (path, code.as_str()), "{violation:?}");
    assert!(violation.message.contains(message_part), "{violation:?} lacks {message_part:?}");
}

#[test]
fn both_forms_give_the_same_event() {
    let properties = r#"{ "b":1.10, "a":"\u00e9", "a":null }"#;
    let expected = Event {
        event_id: ID.to_owned(),
        time: MICROS,
        event_type: "click".to_owned(),
        user_id: "u1".to_owned(),
        properties: Some(properties.to_owned()),
    };
    assert_eq!(accepted(&data_with(&format!(r#""properties": {properties} "#))), expected);
    assert_eq!(accepted(&flat_with("properties", &format!("\n {properties}\t"))), expected);
    assert_eq!(accepted(&flat_with("event_type", "click")), Event { properties: None, ..expected });
}

#[test]
fn a_batch_is_answered_in_order() {
    let verdicts = DefaultRules.judge_batch(&[data("{}"), flat_with("user_id", "u2"), data("[]")]);
    assert!(
        matches!(
            verdicts.as_slice(),
            [Verdict::Reject(four), Verdict::Accept(event), Verdict::Reject(one)]
                if four.len() == 4 && event.user_id == "u2" && one.len() == 1
        ),
        "{verdicts:?}"
    );
}

#[test]
fn all_violations_are_named_at_once() {
    let json = r#"{"event_id":"x","event_type":"","user_id":7,"timestamp":"now","properties":[]}"#;
    let named: Vec<_> = rejected(&data(json)).into_iter().map(|v| (v.path, v.code)).collect();
    let expected = [
        ("event_id", "invalid_uuid"),
        ("event_type", "empty"),
        ("user_id", "wrong_type"),
        ("timestamp", "invalid_timestamp"),
        ("properties", "wrong_type"),
    ];
    assert_eq!(named, expected.map(|(path, code)| (path.to_owned(), code.to_owned())));
}

#[test]
fn missing() {
    for field in ["event_id", "event_type", "user_id", "timestamp"] {
        let flat = flat_with(field, "");
        let rest: Vec<_> = flat.fields.into_iter().filter(|(name, _)| name != field).collect();
        assert_refused(&Entry { fields: rest, ..flat }, field, Code::Missing, "found no such field");
    }
    assert_refused(&entry(&[]), "", Code::Missing, "found no field;");
    assert_refused(&entry(&[("Data", "{}"), ("x", "")]), "", Code::Missing, "unknown fields: `Data`, `x`;");
    let many: Vec<_> = (0..20).map(|_| ("x", "")).collect();
    assert_refused(&entry(&many), "", Code::Missing, "`x`, 12 more; expected a field `data`");
}

#[test]
fn unknown_fields_are_ignored() {
    accepted(&data_with(r#""extra":{"event_id":[1e999,"\ud800"]}"#));
    accepted(&flat_with("extra", "\0"));
    // `data` wins over flat fields, whether it is sound or not.
    let mut both = data_with(r#""user_id":"u9""#);
    both.fields.extend(flat_with("user_id", "").fields);
    assert_eq!(accepted(&both).user_id, "u9");
}

#[test]
fn duplicate_field() {
    let code = Code::DuplicateField;
    for field in ["event_id", "event_type", "user_id", "timestamp", "properties"] {
        let twice = format!(r#""{field}":1,"{field}":2"#);
        assert_refused(&data_with(&twice), field, code, "found 2 values, expected one");
        let mut flat = flat_with(field, "");
        flat.fields.push((field.to_owned(), String::new()));
        assert_refused(&flat, field, code, "found 2 values");
    }
    assert_refused(&data_with(r#""user_id":"a","user\u005fid":"a""#), "user_id", code, "2 values");
    assert_refused(&entry(&[("data", "{}"), ("x", ""), ("data", "{}")]), "data", code, "found 2 values");
}

#[test]
fn json_syntax() {
    for (json, message) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\n\"a\" 1}", "expected `:` at line 2 column 5"),
        (" \n {} x", "trailing characters at line 2 column 5"),
        ("\u{c}{}", "expected value at line 1 column 1"),
        ("{} x", "trailing characters at line 1 column 4"),
        ("[] x", "trailing characters at line 1 column 4"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        ("{'a':1}", "key must be a string at line 1 column 2"),
        ("NaN", "expected value at line 1 column 1"),
    ] {
        assert_refused(&data(json), "data", Code::JsonSyntax, message);
    }
    let flat = flat_with("properties", "{\n\"a\":}");
    assert_refused(&flat, "properties", Code::JsonSyntax, "expected value at line 2 column 5");
    accepted(&flat_with("properties", "\r\n{}\t "));
    accepted(&data(&format!("\r\n {} \t", data_with(r#""user_id":"u1""#).fields[0].1)));
}

#[test]
fn wrong_type() {
    let code = Code::WrongType;
    for (json, found) in
        [("[1]", "the array `[1]`"), ("\"{}\"", "the string `\"{}\"`"), (" null", "found `null`")]
    {
        assert_refused(&data(json), "data", code, found);
        assert_refused(&flat_with("properties", json), "properties", code, found);
    }
    for (value, found) in [
        ("42", "found the number `42`, expected a string"),
        ("null", "found `null`, expected a string"),
        ("false", "found the boolean `false`"),
        (r#"{"a":1}"#, r#"found the object `{"a":1}`"#),
    ] {
        for field in ["event_id", "event_type", "user_id", "timestamp"] {
            assert_refused(&data_with(&format!(r#""{field}":{value}"#)), field, code, found);
        }
    }
    assert_refused(&data_with(r#""properties":null"#), "properties", code, "leave the field out");
    assert_refused(&data_with(r#""properties":"{}""#), "properties", code, "found the string");
}

#[test]
fn empty() {
    for field in ["event_type", "user_id"] {
        assert_refused(&data_with(&format!(r#""{field}":"""#)), field, Code::Empty, "at least one");
        assert_refused(&flat_with(field, ""), field, Code::Empty, "at least one");
    }
}

#[test]
fn escapes_are_resolved() {
    assert_eq!(accepted(&data_with(r#""user_id":"\u00fc\n\ud83d\ude00\"""#)).user_id, "ü\n😀\"");
}

#[test]
fn nul_character() {
    let code = Code::NulCharacter;
    for field in ["event_type", "user_id"] {
        assert_refused(&data_with(&format!(r#""{field}":"a\u0000""#)), field, code, r"`a\u{0}`");
        assert_refused(&flat_with(field, "a\0"), field, code, r"`a\u{0}`");
    }
    for properties in [r#"{"a":["\\\u0000"]}"#, r#"{"\u0000":1}"#] {
        assert_refused(&data_with(&format!(r#""properties":{properties}"#)), "properties", code, r"\u0000");
        assert_refused(&flat_with("properties", properties), "properties", code, r"\u0000");
    }
    // This is an escaped backslash, then the letter u, and so no escape.
    accepted(&data_with(r#""properties":{"a":"\\u0000"}"#));
}

#[test]
fn invalid_unicode() {
    let code = Code::InvalidUnicode;
    for half in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud800x"] {
        assert_refused(&data_with(&format!(r#""user_id":"{half}""#)), "user_id", code, half);
        assert_refused(&data_with(&format!(r#""properties":{{"a":"{half}"}}"#)), "properties", code, half);
    }
    accepted(&data_with(r#""properties":{"a":"\ud83d\ude00"}"#));
}

#[test]
fn invalid_uuid() {
    for id in [
        "",
        "123e4567e89b12d3a456426614174000",
        "{123e4567-e89b-12d3-a456-426614174000}",
        "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
        "123e4567-e89b-12d3-a456-42661417400g",
        "123e4567-e89b-12d3-a4564-26614174000",
        "123e4567-e89b-12d3-a456-42661417400é",
        " 123e4567-e89b-12d3-a456-426614174000",
    ] {
        assert_refused(
            &flat_with("event_id", id),
            "event_id",
            Code::InvalidUuid,
            "expected a UUID with hyphens",
        );
    }
    let upper = ID.to_uppercase();
    assert_eq!(accepted(&flat_with("event_id", &upper)).event_id, upper);
}

#[test]
fn invalid_timestamp() {
    for time in [
        "",
        "now",
        "1768774654",
        "2026-01-18",
        "2026-01-18T22:17:34",
        "2026-01-18T22:17Z",
        "2026-02-30T00:00:00Z",
        "2026-01-18T24:00:00Z",
        "2026-01-18T22:17:61Z",
        "2026-01-18T22:17:34.Z",
        "2026-01-18T22:17:34+0100",
        "2026-01-18T22:17:34+24:00",
        "2026-01-18T22:17:34Z ",
        "+12026-01-18T22:17:34Z",
        "2026-01-18 22:17:34Z",
        "2026-01-18_22:17:34Z",
        "2026-01-18T22:17:34\u{2212}08:00",
        // These are not the last second of a day in UTC.
        "2026-01-18T23:58:60Z",
        "2026-01-18T23:59:60+01:00",
    ] {
        assert_refused(
            &flat_with("timestamp", time),
            "timestamp",
            Code::InvalidTimestamp,
            "expected RFC 3339",
        );
    }
}

#[test]
fn timestamps_become_microseconds() {
    for (time, micros) in [
        (TIME, MICROS),
        ("2026-01-18t22:17:34.827z", MICROS),
        ("2026-01-18T23:17:34.827+01:00", MICROS),
        ("2026-01-18T22:17:34.8270009999999Z", MICROS),
        ("2026-01-18T22:17:34.827-00:00", MICROS),
        // Times before 1970 are cut off towards the past too.
        ("1969-12-31T23:59:59.9999999Z", -1),
        // A leap second is the first second of the next minute.
        ("2016-12-31T23:59:60.5Z", 1_483_228_800_500_000),
        ("2017-01-01T00:59:60.5+01:00", 1_483_228_800_500_000),
        ("0000-01-01T00:00:00+23:59", -62_167_305_540_000_000),
        ("9999-12-31T23:59:59.999999-23:59", 253_402_387_139_999_999),
    ] {
        assert_eq!(accepted(&flat_with("timestamp", time)).time, micros, "{time}");
    }
}

#[test]
fn out_of_range() {
    for number in ["1e309", "-1E+309", &"9".repeat(310)] {
        let properties = format!(r#"{{"a":[0,{number}]}}"#);
        assert_refused(&flat_with("properties", &properties), "properties", Code::OutOfRange, &number[..4]);
    }
    // A float holds these numbers, as 0, and `numeric` does not.
    for number in [
        "1e-16384",
        "-123e-10000000",
        "1.5e-99999999999999999999",
        "0e99999999999",
        &format!("0.{}1", "0".repeat(16_383)),
    ] {
        let properties = format!(r#"{{"a":[0,{number}]}}"#);
        assert_refused(
            &flat_with("properties", &properties),
            "properties",
            Code::OutOfRange,
            "after the point",
        );
    }
    for number in [
        "1e308",
        "-1e-999",
        "1e-16383",
        "1.5e-16382",
        "1000e-16383",
        "0e999",
        "123456789012345678901234567890",
        &"9".repeat(308),
    ] {
        accepted(&data_with(&format!(r#""properties":{{"a":{number}}}"#)));
    }
}

#[test]
fn too_deep() {
    // Brackets within a string count as no levels.
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"a":{open}"[[{{\"[["{close}}}"#)
    };
    assert_eq!(accepted(&flat_with("properties", &nested(127))).properties, Some(nested(127)));
    assert_refused(&flat_with("properties", &nested(128)), "properties", Code::TooDeep, "127 levels");
    // This is far deeper than any stack, but nothing here recurses.
    assert_refused(&flat_with("properties", &nested(1_000_000)), "properties", Code::TooDeep, "127 levels");
    accepted(&data_with(&format!(r#""properties":{{"a":[{}[]]}}"#, "[],".repeat(200))));
}

#[test]
fn quotes_are_short_and_harmless() {
    assert_eq!(quote("a\"b"), "`a\"b`");
    assert_eq!(quote("\n\u{7f}\u{202e}"), r"`\n\u{7f}\u{202e}`");
    assert_eq!(quote(&"é".repeat(64)), format!("`{}`", "é".repeat(64)));
    assert_eq!(quote(&"é".repeat(100)), format!("`{}`… and 36 more characters", "é".repeat(64)));
}
