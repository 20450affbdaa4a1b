//! Reads the settings of the rules, `[guest_settings]`, into a type of the author's.
//!
//! All settings are text. Numbers, booleans and enums without fields are read from it; a list or an object is read from JSON. What
//! is missing may have a default of serde's, and is `None` for an `Option`; `#[serde(deny_unknown_fields)]` refuses what is
//! misspelt.
//!
//! ```
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     salt: String,
//!     #[serde(default)]
//!     robots: Vec<String>,
//!     max_items: Option<u32>,
//! }
//!
//! let settings: Settings =
//!     sluicegate_kit::settings::from_pairs([("salt", "s3cret"), ("robots", r#"["googlebot"]"#)]).unwrap();
//! assert_eq!((settings.salt.as_str(), settings.robots.len(), settings.max_items), ("s3cret", 1, None));
//!
//! let wrong = sluicegate_kit::settings::from_pairs::<Settings>([("salt", "s3cret"), ("max_items", "many")]);
//! assert_eq!(wrong.err().unwrap().to_string(), "the setting `max_items`: expected a number of the type u32");
//! ```

use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::bindings::config::wasi::config::store;

/// Why settings do not fit. The text names the setting and what is expected, and never the value, which may be secret.
pub type Error = serde::de::value::Error;

/// Reads settings from names and values, as they stand in `[guest_settings]`. Tests need it at most: a component's settings are
/// read by [`export!`](crate::export).
///
/// # Errors
///
/// The first setting that does not fit.
pub fn from_pairs<'a, T: DeserializeOwned>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<T, Error> {
    T::deserialize(Pairs { left: pairs.into_iter(), next: None })
}

/// Makes rules by a function that takes their settings, or ends the instance with the reason.
#[doc(hidden)]
pub fn __make<S: DeserializeOwned, T, E: Display>(new: impl FnOnce(S) -> Result<T, E>) -> T {
    let settings = match store::get_all() {
        Ok(settings) => settings,
        Err(error) => settings_are_wrong(&format!("{error:?}")),
    };
    let pairs = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    match from_pairs(pairs).map(new) {
        Ok(Ok(rules)) => rules,
        Ok(Err(error)) => settings_are_wrong(&error),
        Err(error) => settings_are_wrong(&error),
    }
}

/// Ends the instance. This happens at its start, so that the service refuses the rules.
#[cold]
fn settings_are_wrong(why: &dyn Display) -> ! {
    eprintln!("[guest_settings] {why}");
    std::process::abort()
}

#[doc(hidden)]
pub fn __run_constructors() {
    #[cfg(target_arch = "wasm32")]
    wit_bindgen::rt::run_ctors_once();
}

/// Deserialises a struct or a map of settings.
struct Pairs<'a, I> {
    left: I,
    next: Option<(&'a str, &'a str)>,
}

impl<'a, 'de, I: Iterator<Item = (&'a str, &'a str)>> Deserializer<'de> for Pairs<'a, I> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self)
    }

    /// Of `()` too, for rules that take no settings after all.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'a, 'de, I: Iterator<Item = (&'a str, &'a str)>> MapAccess<'de> for Pairs<'a, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.left.next();
        let name: Option<StrDeserializer<'_, Error>> = self.next.map(|(name, _)| name.into_deserializer());
        name.map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (name, value) = self.next.unwrap_or_default();
        seed.deserialize(Text(value)).map_err(|error| Error::custom(format!("the setting `{name}`: {error}")))
    }
}

/// Deserialises one setting from its text.
struct Text<'a>(&'a str);

/// Reads numbers and booleans as Rust writes them.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.trim().parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::custom(concat!("expected a number of the type ", stringify!($type)))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.trim() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Error::custom("expected `true` or `false`")),
        }
    }

    parsed! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128, deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128, deserialize_f32 visit_f32 f32, deserialize_f64 visit_f64 f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match variants.contains(&self.0) {
            true => StrDeserializer::<Error>::new(self.0).deserialize_enum(name, variants, visitor),
            false => Err(Error::custom(format!("expected one of `{}`", variants.join("`, `")))),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut json = serde_json::Deserializer::from_reader(self.0.as_bytes());
        let value = json.deserialize_seq(visitor);
        value.and_then(|value| json.end().map(|()| value)).map_err(|error| no_json("a list", &error))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut json = serde_json::Deserializer::from_reader(self.0.as_bytes());
        let value = json.deserialize_map(visitor);
        value.and_then(|value| json.end().map(|()| value)).map_err(|error| no_json("an object", &error))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

fn no_json(expected: &str, error: &serde_json::Error) -> Error {
    Error::custom(format!(
        "expected {expected} in JSON; at line {}, column {} it does not fit",
        error.line(),
        error.column()
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Lenient,
        Strict,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        text: String,
        number: i16,
        share: f64,
        on: bool,
        mode: Mode,
        list: Vec<u8>,
        #[serde(default)]
        plans: BTreeMap<String, u32>,
        perhaps: Option<u64>,
    }

    const SOUND: [(&str, &str); 6] = [
        ("text", "12"),
        ("number", "-7"),
        ("share", "0.5"),
        ("on", "true"),
        ("mode", "strict"),
        ("list", "[1, 2]"),
    ];

    fn with(name: &'static str, value: &'static str) -> Result<Settings, Error> {
        from_pairs(SOUND.into_iter().filter(|(other, _)| *other != name).chain([(name, value)]))
    }

    #[test]
    fn text_becomes_what_the_type_wants() {
        let settings = with("plans", r#"{"gold": 3}"#).unwrap();
        let expected = Settings {
            text: "12".to_owned(),
            number: -7,
            share: 0.5,
            on: true,
            mode: Mode::Strict,
            list: vec![1, 2],
            plans: BTreeMap::from([("gold".to_owned(), 3)]),
            perhaps: None,
        };
        assert_eq!(settings, expected);
        assert_eq!(with("perhaps", "8").unwrap().perhaps, Some(8));
        assert_eq!(with("mode", "lenient").unwrap().mode, Mode::Lenient);
        assert_eq!(from_pairs::<()>([]), Ok(()));
    }

    /// The values may be secrets, so none is told.
    #[test]
    fn what_does_not_fit_is_named_without_its_value() {
        for (name, value, why) in [
            ("number", "40000", "expected a number of the type i16"),
            ("on", "secret", "expected `true` or `false`"),
            ("mode", "secret", "expected one of `lenient`, `strict`"),
            ("list", r#"["secret"]"#, "expected a list in JSON; at line 1, column 9 it does not fit"),
            ("plans", "secret", "expected an object in JSON; at line 1, column 1 it does not fit"),
        ] {
            let error = with(name, value).unwrap_err().to_string();
            assert_eq!(error, format!("the setting `{name}`: {why}"));
        }
        assert!(with("nubmer", "1").unwrap_err().to_string().contains("unknown field `nubmer`"));
        assert!(from_pairs::<Settings>([]).unwrap_err().to_string().contains("missing field `text`"));
    }
}
