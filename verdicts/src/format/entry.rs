//! An entry as a line.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Line, OutcomeView, compact, json};
use crate::{Entry, EntryId, Field};

/// The milliseconds of an entry without an ID, before the number of its line is added.
const FIRST_MILLISECONDS: u64 = 1_700_000_000_000;

/// An entry, and what else its line holds if it is a golden.
#[derive(Clone, Debug)]
pub struct EntryLine<'a> {
    pub entry: Entry,
    /// The name of a golden, for people.
    pub name: Option<String>,
    /// What must come of the entry: a verdict without an ID.
    pub expect: Option<&'a RawValue>,
    /// What must be published when it is judged alone.
    pub publish: Option<&'a RawValue>,
    /// What must be counted when it is judged alone.
    pub metrics: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<'a> {
    id: Option<String>,
    fields: Fields,
    name: Option<String>,
    #[serde(borrow)]
    expect: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    metrics: Option<&'a RawValue>,
}

impl<'a> EntryLine<'a> {
    /// Reads a line. An error says what was found and what is wanted, without the place.
    pub fn read(line: &'a Line) -> Result<Self, String> {
        let Read { id, fields, name, expect, publish, metrics } = json(line.text.trim_end())?;
        let id = match id {
            None => EntryId { milliseconds: FIRST_MILLISECONDS.saturating_add(line.number), sequence: 0 },
            Some(id) => EntryId::parse(id.as_bytes()).ok_or_else(|| {
                format!("id is {id:?}; wanted <milliseconds>-<sequence>, such as 1700000000000-0")
            })?,
        };
        let entry = Entry { id, fields: Some(fields.0), deliveries: 1 };
        Ok(Self { entry, name, expect, publish, metrics })
    }
}

/// Returns an entry as a line, without the end of the line.
pub fn entry_line(id: EntryId, fields: &[Field]) -> serde_json::Result<String> {
    #[derive(serde::Serialize)]
    struct Written<'a> {
        id: String,
        fields: FieldsView<'a>,
    }
    serde_json::to_string(&Written { id: id.to_string(), fields: FieldsView(fields) })
}

/// Returns an entry with what came of it as the line of a golden, without the end of the line. What a message says is left
/// out: it is for people, and changes with its wording.
pub fn golden_line(id: EntryId, fields: &[Field], came: &OutcomeView) -> serde_json::Result<String> {
    #[derive(serde::Serialize)]
    struct Written<'a> {
        id: String,
        fields: FieldsView<'a>,
        expect: Value,
    }
    let mut expect = serde_json::to_value(came)?;
    if let Some(outcome) = expect.as_object_mut() {
        outcome.remove("message");
    }
    let violations = expect.get_mut("reject").and_then(Value::as_array_mut);
    violations.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|violation| {
        violation.remove("message");
    });
    serde_json::to_string(&Written { id: id.to_string(), fields: FieldsView(fields), expect })
}

/// Fields in their order, from an object or a list of pairs.
struct Fields(Vec<Field>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields as an object, or as a list of [name, value] pairs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let (mut fields, mut names) = (Vec::new(), BTreeSet::new());
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if !names.insert(name.clone()) {
                        let wanted = "wanted a list of [name, value] pairs where a name repeats";
                        return Err(de::Error::custom(format!(
                            "the field {name:?} is there twice; {wanted}"
                        )));
                    }
                    fields.push((name.into_bytes(), bytes(value).map_err(de::Error::custom)?));
                }
                Ok(Fields(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = seq.next_element::<(&RawValue, &RawValue)>()? {
                    let (name, value) = (bytes(name), bytes(value));
                    fields.push((name.map_err(de::Error::custom)?, value.map_err(de::Error::custom)?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_any(Both)
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

/// Returns the bytes that a JSON value stands for.
fn bytes(value: &RawValue) -> Result<Vec<u8>, String> {
    let text = value.get();
    if text.starts_with('"') {
        return json::<String>(text).map(String::into_bytes);
    }
    match json::<Base64>(text) {
        Ok(Base64 { base64 }) => STANDARD.decode(&base64).map_err(|error| {
            format!("its base64 does not read: {error}; wanted the alphabet of RFC 4648 with padding")
        }),
        Err(_) => Ok(compact(text).into_bytes()),
    }
}

struct FieldsView<'a>(&'a [Field]);

impl Serialize for FieldsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names = BTreeSet::new();
        let is_object =
            self.0.iter().all(|(name, _)| std::str::from_utf8(name).is_ok() && names.insert(name));
        if is_object {
            let mut object = serializer.serialize_map(Some(self.0.len()))?;
            for (name, value) in self.0 {
                object.serialize_entry(&String::from_utf8_lossy(name), &Bytes(value))?;
            }
            return object.end();
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in self.0 {
            list.serialize_element(&(Bytes(name), Bytes(value)))?;
        }
        list.end()
    }
}

/// Bytes as text, or in base64 if they are none.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Base64 { base64: STANDARD.encode(self.0) }.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { number: 7, text: text.to_owned() }
    }

    fn field(name: &str, value: &[u8]) -> Field {
        (name.into(), value.into())
    }

    fn read(text: &str) -> (EntryId, Vec<Field>) {
        let line = line(text);
        let read = EntryLine::read(&line).unwrap_or_else(|error| panic!("{text}: {error}"));
        (read.entry.id, read.entry.fields.expect("it is no entry that was deleted"))
    }

    #[test]
    fn fields_keep_their_order_and_their_digits() {
        let (id, fields) = read(
            r#"{"id":"5-6","fields":{"b":"ü\n","a":1.50,"c":{ "x": [1, 2] },"d":null,"e":{"base64":"/w=="},"f":{"base64":1}}}"#,
        );
        assert_eq!(id, EntryId { milliseconds: 5, sequence: 6 });
        let wanted = [
            field("b", "ü\n".as_bytes()),
            field("a", b"1.50"),
            field("c", br#"{"x":[1,2]}"#),
            field("d", b"null"),
            field("e", b"\xff"),
            field("f", br#"{"base64":1}"#),
        ];
        assert_eq!(fields, wanted);
        let (id, fields) = read(r#"{"fields":[["a","1"],["a","2"],[{"base64":"/w=="},true]]}"#);
        assert_eq!(id.to_string(), "1700000000007-0");
        assert_eq!(fields, [field("a", b"1"), field("a", b"2"), (b"\xff".into(), b"true".into())]);
    }

    #[test]
    fn an_error_says_what_is_wanted() {
        for (text, wanted) in [
            ("{}", "missing field `fields`"),
            ("{", "EOF"),
            ("7", "expected struct"),
            (r#"{"fields":1}"#, "wanted fields as an object"),
            (r#"{"fields":{"a":"1","a":"2"}}"#, "wanted a list of [name, value] pairs"),
            (r#"{"fields":[["a"]]}"#, "invalid length 1"),
            (r#"{"fields":{},"id":"7"}"#, "wanted <milliseconds>-<sequence>"),
            (r#"{"fields":{},"id":7}"#, "expected a string"),
            (r#"{"fields":{},"expected":{}}"#, "unknown field `expected`, expected one of `id`, `fields`"),
            (r#"{"fields":{"a":{"base64":"?"}}}"#, "its base64 does not read"),
            (r#"{"fields":{"a":"\ud800"}}"#, "column"),
        ] {
            let error =
                EntryLine::read(&line(text)).expect_err(text).replace("expected fields", "wanted fields");
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_entry_is_read_as_it_was_written(fields: Vec<(Vec<u8>, Vec<u8>)>, milliseconds: u64, sequence: u64) {
            let id = EntryId { milliseconds, sequence };
            let written = entry_line(id, &fields).expect("JSON");
            assert!(!written.contains('\n'));
            assert_eq!(read(&written), (id, fields));
        }

        #[test]
        fn any_text_is_read_as_it_was_written(fields: Vec<(String, String)>) {
            let fields: Vec<Field> = fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            let written = entry_line(EntryId::ZERO, &fields).expect("JSON");
            assert_eq!(read(&written), (EntryId::ZERO, fields));
        }
    }
}
