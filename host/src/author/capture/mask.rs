//! Hides values by a keyed hash (HMAC-SHA-256): equal values stay equal, and keep their form as far as rules look at it.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::Sha256;
use uuid::Uuid;

use crate::author::Error;
use crate::text::hex;
use sluicegate_verdicts::Field;

/// The bytes of a hash that are shown of a text.
const SHOWN_BYTES: usize = 8;
/// A key has 16 bytes at least, and is no other file by mistake.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=4_096;

/// The name of a field, and the names of members of the JSON in it, if any. Lists are gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    field: String,
    members: Vec<String>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut names = text.trim().split('.').map(str::to_owned);
        let (field, members) = (names.next().unwrap_or_default(), names.collect::<Vec<_>>());
        match field.is_empty() || members.iter().any(String::is_empty) {
            true => {
                Err(format!("found {text:?}; wanted the name of a field, or such as data.properties.email"))
            }
            false => Ok(Self { field, members }),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        self.members.iter().try_for_each(|member| write!(f, ".{member}"))
    }
}

/// What is to be hidden, and by which key.
pub(super) struct Mask {
    /// Counts the entries that have each place.
    places: Vec<(Place, u64)>,
    entries: u64,
    key: Vec<u8>,
}

impl Mask {
    /// Takes the key from this file, or else one that nobody will know.
    pub(super) fn new(places: &[Place], key_file: Option<&Path>) -> Result<Self, Error> {
        let key = match key_file {
            None => [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat(),
            Some(file) => read_key(file).map_err(|found| Error::Key { file: file.to_owned(), found })?,
        };
        Ok(Self { places: places.iter().map(|place| (place.clone(), 0)).collect(), entries: 0, key })
    }

    /// Hides what is to be hidden of an entry.
    pub(super) fn hide(&mut self, fields: &mut [Field]) {
        let Self { places, entries, key } = self;
        let hash = Hash { key };
        *entries += 1;
        for (place, having) in places {
            let mut is_there = false;
            for (_, value) in fields.iter_mut().filter(|(name, _)| name == place.field.as_bytes()) {
                let hidden = match (std::str::from_utf8(value), place.members.as_slice()) {
                    (Err(_), _) => Some(hash.text(value)),
                    (Ok(text), []) => Some(hash.field(text)),
                    (Ok(text), members) => hash.within(text, members),
                };
                if let Some(hidden) = hidden {
                    (*value, is_there) = (hidden.into_bytes(), true);
                }
            }
            *having += u64::from(is_there);
        }
    }

    /// Returns how many entries there were so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Returns the places that no entry has had so far.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|(_, having)| *having == 0).map(|(place, _)| place)
    }

    /// Returns the places that some entries do not have, and how many these are.
    pub(super) fn lacking(&self) -> impl Iterator<Item = (&Place, u64)> {
        let lacking = |having: u64| self.entries.saturating_sub(having);
        self.places
            .iter()
            .map(move |(place, having)| (place, lacking(*having)))
            .filter(|(_, count)| *count > 0)
    }
}

fn read_key(file: &Path) -> Result<Vec<u8>, String> {
    let most = u64::try_from(*KEY_BYTES.end()).unwrap_or(u64::MAX);
    let mut key = Vec::new();
    let read = File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut key));
    match read {
        Ok(bytes) if KEY_BYTES.contains(&bytes) => Ok(key),
        Ok(bytes) if bytes > *KEY_BYTES.end() => Err("found more".to_owned()),
        Ok(bytes) => Err(format!("found {bytes} bytes")),
        Err(error) => Err(error.to_string()),
    }
}

struct Hash<'a> {
    key: &'a [u8],
}

impl Hash<'_> {
    fn bytes(&self, value: &[u8]) -> [u8; 32] {
        // A key of any length will do, so this cannot fail.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key) else { return [0; 32] };
        mac.update(value);
        mac.finalize().into_bytes().into()
    }

    fn text(&self, value: &[u8]) -> String {
        let hash = self.bytes(value);
        format!("masked-{}", hex(hash.get(..SHOWN_BYTES).unwrap_or_default()))
    }

    /// Hides a field: a UUID stays one, an address of e-mail too, a number too, and JSON keeps its names.
    fn field(&self, text: &str) -> String {
        match serde_json::from_str::<&RawValue>(text) {
            Ok(json) if text.trim_start().starts_with(['{', '[']) => self.json(json),
            Ok(json) if json.get().parse::<f64>().is_ok() => self.json(json),
            _ => self.string(text),
        }
    }

    fn string(&self, text: &str) -> String {
        if Uuid::try_parse(text).is_ok() {
            let mut bytes = [0; 16];
            self.bytes(text.to_ascii_lowercase().as_bytes())
                .iter()
                .zip(&mut bytes)
                .for_each(|(hash, byte)| *byte = *hash);
            return uuid::Builder::from_random_bytes(bytes).into_uuid().to_string();
        }
        match text.contains('@') {
            true => format!("{}@masked.invalid", self.text(text.as_bytes())),
            false => self.text(text.as_bytes()),
        }
    }

    /// Hides all values of some JSON. `null`, `true` and `false` stay: there is nothing in them to hide.
    fn json(&self, json: &RawValue) -> String {
        let text = json.get();
        if let Ok(string) = serde_json::from_str::<String>(text) {
            return quoted(&self.string(&string));
        }
        if let Ok(Members(members)) = serde_json::from_str(text) {
            return object(members.iter().map(|(name, value)| (name.as_str(), self.json(value))));
        }
        if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
            return list(items.iter().map(|item| self.json(item)));
        }
        match matches!(text, "null" | "true" | "false") {
            true => text.to_owned(),
            false => self.number(text),
        }
    }

    /// Returns a whole number of as many digits as there are before the point, and of the same sign.
    fn number(&self, text: &str) -> String {
        let digits =
            text.trim_start_matches('-').chars().take_while(char::is_ascii_digit).count().clamp(1, 15);
        let hash = self.bytes(text.as_bytes());
        let mut number = if text.starts_with('-') { "-".to_owned() } else { String::new() };
        for (i, byte) in hash.iter().take(digits).enumerate() {
            let digit = if i == 0 { 1 + byte % 9 } else { byte % 10 };
            number.push(char::from(b'0' + digit));
        }
        number
    }

    /// Hides these members of the JSON in a text. Returns `None` if there are none.
    fn within(&self, text: &str, members: &[String]) -> Option<String> {
        let Some((member, rest)) = members.split_first() else {
            return serde_json::from_str(text).ok().map(|json| self.json(json));
        };
        if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) {
            let hidden: Vec<Option<String>> =
                items.iter().map(|item| self.within(item.get(), members)).collect();
            let is_there = hidden.iter().any(Option::is_some);
            let items = items
                .iter()
                .zip(hidden)
                .map(|(item, hidden)| hidden.unwrap_or_else(|| item.get().to_owned()));
            return is_there.then(|| list(items));
        }
        let Members(found) = serde_json::from_str(text).ok()?;
        let mut is_there = false;
        let found: Vec<(&str, String)> = found
            .iter()
            .map(|(name, value)| {
                let hidden = if name == member { self.within(value.get(), rest) } else { None };
                is_there |= hidden.is_some();
                (name.as_str(), hidden.unwrap_or_else(|| value.get().to_owned()))
            })
            .collect();
        is_there.then(|| object(found.into_iter()))
    }
}

/// The members of a JSON object in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn object<'a>(members: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut text = String::from("{");
    for (i, (name, value)) in members.enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Writing to a text cannot fail.
        let _ = write!(text, "{comma}{}:{value}", quoted(name));
    }
    text.push('}');
    text
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(places: &[&str]) -> Mask {
        let places: Vec<Place> = places.iter().map(|place| place.parse().expect("a place")).collect();
        let mut mask = Mask::new(&places, None).expect("a key");
        mask.key = b"a key for tests!".to_vec();
        mask
    }

    fn hidden(mask: &mut Mask, value: &str) -> String {
        let mut fields = [(b"data".to_vec(), value.as_bytes().to_vec()), (b"other".to_vec(), b"x".to_vec())];
        mask.hide(&mut fields);
        assert_eq!(fields[1].1, b"x");
        String::from_utf8(fields[0].1.clone()).expect("text")
    }

    #[test]
    fn equal_values_stay_equal_and_keep_their_form() {
        let mut whole = mask(&["data"]);
        let name = hidden(&mut whole, "ann");
        assert!(
            name.starts_with("masked-")
                && name == hidden(&mut whole, "ann")
                && name != hidden(&mut whole, "bob")
        );
        assert!(hidden(&mut whole, "ann@x.org").ends_with("@masked.invalid"));
        let uuid = hidden(&mut whole, "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11");
        assert!(Uuid::try_parse(&uuid).is_ok());
        assert_eq!(uuid, hidden(&mut whole, "0C7B6B3E-5A0E-4B0F-9D6C-2F1F6A3C8E11"));
        let number = hidden(&mut whole, "-1234.5");
        assert!(number.len() == 5 && number.parse::<i64>().is_ok_and(|number| number < 0), "{number}");
        let mut other = mask(&["data"]);
        other.key = b"another key here".to_vec();
        assert_ne!(name, hidden(&mut other, "ann"));
    }

    #[test]
    fn only_the_members_that_are_named_are_hidden() {
        let mut mask = mask(&["data.user.email", "data.items.sku", "data.none", "gone"]);
        let text = hidden(
            &mut mask,
            r#"{"b":1.50,"user":{"email":"a@b.c","plan":"x"},"items":[{"sku":"s","n":1},7,{"sku":{"a":null}}]}"#,
        );
        assert!(text.starts_with(r#"{"b":1.50,"user":{"email":"masked-"#), "{text}");
        assert!(text.contains(r#""plan":"x"},"items":[{"sku":"masked-"#), "{text}");
        assert!(text.ends_with(r#""n":1},7,{"sku":{"a":null}}]}"#), "{text}");
        let unseen: Vec<String> = mask.unseen().map(Place::to_string).collect();
        assert_eq!(unseen, ["data.none", "gone"]);
        assert_eq!(hidden(&mut mask, "no JSON"), "no JSON");
        let lacking: Vec<(String, u64)> =
            mask.lacking().map(|(place, count)| (place.to_string(), count)).collect();
        let expected = [("data.user.email", 1), ("data.items.sku", 1), ("data.none", 2), ("gone", 2)];
        assert_eq!(lacking, expected.map(|(place, count)| (place.to_owned(), count)));
    }

    #[test]
    fn of_packed_bytes_only_the_whole_is_hidden() {
        let mut mask = mask(&["packed.user", "bytes"]);
        let mut fields =
            ["packed", "bytes"].map(|name| (name.as_bytes().to_vec(), b"\xa4user\xffann".to_vec()));
        mask.hide(&mut fields);
        for (_, value) in fields {
            assert!(value.starts_with(b"masked-") && value.is_ascii(), "{value:?}");
        }
    }

    #[test]
    fn a_place_has_names() {
        for bad in ["", ".a", "a..b", "a."] {
            assert!(bad.parse::<Place>().is_err(), "{bad:?}");
        }
    }
}
