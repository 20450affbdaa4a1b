//! Finds out which form an entry has, and takes the five fields from it without judging them.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{Code, Entry, Violation, quote, violation};

/// Names the one field of the JSON form.
pub(crate) const DATA: &str = "data";

/// Names the one field that is no string.
const PROPERTIES: &str = "properties";

/// Bounds the names of found fields that a message repeats.
const QUOTED_NAMES: usize = 8;

/// Holds the known fields of an entry, as the entry gives them. They borrow from the entry.
pub(crate) struct Fields<'a> {
    pub(crate) event_id: Field<'a>,
    pub(crate) event_type: Field<'a>,
    pub(crate) user_id: Field<'a>,
    pub(crate) timestamp: Field<'a>,
    pub(crate) properties: Field<'a>,
}

pub(crate) struct Field<'a> {
    pub(crate) name: &'static str,
    /// Holds the last value given, if any.
    pub(crate) value: Option<Value<'a>>,
    /// Counts how often a value was given. A sound entry gives one once.
    pub(crate) times: usize,
}

/// Holds a value in the words of the producer.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    /// Comes from a stream field, or from a string without escapes in `data`, and is any text.
    Text(&'a str),
    /// Comes from `data`, and is well-formed JSON of any type, without whitespace around it.
    Json(&'a str),
}

/// Finds the known fields, in whichever form the entry has.
pub(crate) fn read(entry: &Entry) -> Result<Fields<'_>, Violation> {
    let mut data = Field::new(DATA);
    let mut flat = Fields::new();
    for (name, value) in &entry.fields {
        if name == DATA {
            data.give(Value::Text(value));
        } else if let Some(field) = flat.by_name(name) {
            field.give(Value::Text(value));
        }
    }
    match data {
        Field { times: 2.., .. } => Err(data.duplicate()),
        Field { value: Some(Value::Text(text) | Value::Json(text)), .. } => read_data(text),
        Field { value: None, .. } if flat.any_given() => Ok(flat),
        Field { value: None, .. } => Err(no_event(entry)),
    }
}

fn read_data(text: &str) -> Result<Fields<'_>, Violation> {
    if !text.trim_ascii_start().starts_with('{') {
        object(DATA, text)?;
    }
    let parse = |strings| {
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(FieldsVisitor { strings })?;
        json.end().map(|()| fields)
    };
    parse(Strings::Plain).or_else(|_| parse(Strings::Raw)).map_err(|error| json_syntax(DATA, &error))
}

/// Checks that a text is a JSON object, and returns it without the whitespace around it.
pub(crate) fn object<'a>(path: &str, text: &'a str) -> Result<&'a str, Violation> {
    let json: &RawValue = serde_json::from_str(text).map_err(|error| json_syntax(path, &error))?;
    let json = json.get();
    if json.starts_with('{') { Ok(json) } else { Err(wrong_type(path, json, "a JSON object")) }
}

/// Makes the violation of a value that is well-formed JSON, but of another type.
pub(crate) fn wrong_type(path: &str, json: &str, expected: &str) -> Violation {
    let found = match json.as_bytes().first() {
        Some(b'"') => "the string ",
        Some(b'{') => "the object ",
        Some(b'[') => "the array ",
        Some(b't' | b'f') => "the boolean ",
        Some(b'n') => "",
        _ => "the number ",
    };
    let message = format!("found {found}{}, expected {expected}", quote(json));
    violation(path, Code::WrongType, message)
}

pub(crate) fn json_syntax(path: &str, error: &serde_json::Error) -> Violation {
    // The text of serde_json names the line and the column, and nothing of the input.
    let message = format!("found no JSON object: {error}");
    violation(path, Code::JsonSyntax, message)
}

/// Makes the violation of an entry that has neither form.
pub(crate) fn no_event(entry: &Entry) -> Violation {
    let mut names: Vec<String> =
        entry.fields.iter().take(QUOTED_NAMES).map(|(name, _)| quote(name)).collect();
    let left = entry.fields.len() - names.len();
    if left > 0 {
        names.push(format!("{left} more"));
    }
    let found = if names.is_empty() {
        "no field".to_owned()
    } else {
        format!("only unknown fields: {}", names.join(", "))
    };
    let message = format!(
        "found {found}; expected a field `data` with a JSON object, or the fields \
         `event_id`, `event_type`, `user_id`, `timestamp` and, if wanted, `properties`"
    );
    violation("", Code::Missing, message)
}

impl<'a> Fields<'a> {
    const fn new() -> Self {
        Self {
            event_id: Field::new("event_id"),
            event_type: Field::new("event_type"),
            user_id: Field::new("user_id"),
            timestamp: Field::new("timestamp"),
            properties: Field::new(PROPERTIES),
        }
    }

    fn by_name(&mut self, name: &str) -> Option<&mut Field<'a>> {
        match name {
            "event_id" => Some(&mut self.event_id),
            "event_type" => Some(&mut self.event_type),
            "user_id" => Some(&mut self.user_id),
            "timestamp" => Some(&mut self.timestamp),
            PROPERTIES => Some(&mut self.properties),
            _ => None,
        }
    }

    fn any_given(&self) -> bool {
        [&self.event_id, &self.event_type, &self.user_id, &self.timestamp, &self.properties]
            .iter()
            .any(|field| field.times > 0)
    }
}

impl<'a> Field<'a> {
    const fn new(name: &'static str) -> Self {
        Self { name, value: None, times: 0 }
    }

    fn is_string(&self) -> bool {
        self.name != PROPERTIES
    }

    fn give(&mut self, value: Value<'a>) {
        self.value = Some(value);
        self.times += 1;
    }

    /// Makes the violation of a field that is given more than once.
    pub(crate) fn duplicate(&self) -> Violation {
        let message = format!("found {} values, expected one", self.times);
        violation(self.name, Code::DuplicateField, message)
    }
}

/// Says how to take the values of the fields that are to be strings.
enum Strings {
    /// Takes strings without escapes, which most are, and fails for anything else.
    Plain,
    /// Takes any value, as JSON.
    Raw,
}

/// Takes the known fields out of a JSON object in one pass.
struct FieldsVisitor {
    strings: Strings,
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::new();
        while let Some(field) = map.next_key_seed(ByName(&mut fields))? {
            match field {
                Some(field) if field.is_string() && matches!(self.strings, Strings::Plain) => {
                    field.give(Value::Text(map.next_value()?));
                }
                Some(field) => field.give(Value::Json(map.next_value::<&RawValue>()?.get())),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// Turns a key into the field of that name, if the name is known, without keeping the key.
struct ByName<'f, 'de>(&'f mut Fields<'de>);

impl<'f, 'de> DeserializeSeed<'de> for ByName<'f, 'de> {
    type Value = Option<&'f mut Field<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<'f, 'de> Visitor<'de> for ByName<'f, 'de> {
    type Value = Option<&'f mut Field<'de>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.by_name(name))
    }
}
