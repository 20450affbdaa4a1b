//! Reads one field as what it should be, or says what is wrong with it.

use std::fmt::Write as _;

use serde_json::Value;
use uuid::Uuid;

use crate::document::{Found, within, within_text};
use crate::event::{fit_for_label, fit_for_text};
use crate::times::{self, Unit};
use crate::{Code, Violation, ids, jsonb, member_path, quote, violation};

/// A field of a [`Document`](crate::Document), which may be missing.
///
/// Each way to read it returns a violation with the field's path if that cannot be.
///
/// ```
/// use sluicegate_kit::{Document, Violations};
///
/// let order = Document::parse("data", r#"{"items": [{"sku": "a-1", "count": 2}, {"count": 0}]}"#).unwrap();
/// let mut wrong = Violations::new();
/// for item in wrong.take(order.at("items").items()).into_iter().flatten() {
///     wrong.take(item.at("sku").nonempty_text());
///     wrong.take(item.at("count").integer_where("an integer from 1 to 99", |count| (1..=99).contains(&count)));
///     wrong.take(item.at("note").optional(|note| note.text()));
/// }
/// let found: Vec<_> = wrong.iter().map(|violation| (violation.path.as_str(), violation.code.as_str())).collect();
/// assert_eq!(found, [("items[1].sku", "missing"), ("items[1].count", "out_of_range")]);
/// assert_eq!(wrong.iter().last().unwrap().message, "found `0`, expected an integer from 1 to 99");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Field<'d, 'p> {
    found: Found<'d>,
    place: Place<'p>,
}

/// Where a field is. It becomes text only if something is wrong.
#[derive(Clone, Copy, Debug)]
struct Place<'p> {
    parent: Parent<'p>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Parent<'p> {
    /// The path of a whole document.
    Document(&'p str),
    Field(&'p Place<'p>),
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    /// Names with points between, of the author's.
    Path(&'p str),
    /// A name of the producer's.
    Member(&'p str),
    Item(usize),
}

impl Place<'_> {
    fn text(&self) -> String {
        let mut text = match self.parent {
            Parent::Document(path) => path.to_owned(),
            Parent::Field(place) => place.text(),
        };
        match self.step {
            Step::Path(path) => {
                if !text.is_empty() && !path.is_empty() {
                    text.push('.');
                }
                text.push_str(path);
            }
            Step::Member(name) => text = member_path(&text, name),
            Step::Item(index) => {
                // Writing to a String cannot fail.
                let _ = write!(text, "[{index}]");
            }
        }
        text
    }
}

impl<'d, 'p> Field<'d, 'p> {
    pub(crate) const fn new(found: Found<'d>, document: &'p str, path: &'p str) -> Self {
        Self { found, place: Place { parent: Parent::Document(document), step: Step::Path(path) } }
    }

    /// Returns the field of this path within this one.
    #[must_use]
    pub fn at<'q>(&'q self, path: &'q str) -> Field<'d, 'q> {
        let (found, path) = match self.found {
            Found::Json(value) => within(value, path, 0),
            // The whole text stands for an object.
            Found::Text(field) => match field.json() {
                Ok(value) => within(value, path, 0),
                Err(_) => within_text(field, path, 0),
            },
            Found::Nothing => (Found::NoParent, ""),
            other => (other, ""),
        };
        Field { found, place: Place { parent: Parent::Field(&self.place), step: Step::Path(path) } }
    }

    /// Returns where the field is, as violations tell it: `properties.items[2].price`.
    #[must_use]
    pub fn path(&self) -> String {
        self.place.text()
    }

    /// Returns whether there is a value. JSON's `null` is none.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        !matches!(self.found, Found::Nothing | Found::NoParent | Found::Json(Value::Null))
    }

    /// Reads the field if it is given.
    ///
    /// # Errors
    ///
    /// What is wrong with the value that is given.
    pub fn optional<T>(
        self,
        read: impl FnOnce(Self) -> Result<T, Violation>,
    ) -> Result<Option<T>, Violation> {
        if self.is_given() { read(self).map(Some) } else { Ok(None) }
    }

    /// Returns a text that PostgreSQL can hold. It may be empty.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `nul_character`.
    pub fn text(self) -> Result<&'d str, Violation> {
        let text = self.string("a string")?;
        fit_for_text(text).map_err(|(code, message)| violation(self.path(), code, message))?;
        Ok(text)
    }

    /// Returns a text that is not empty, and that PostgreSQL can hold.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `empty`, `nul_character`.
    pub fn nonempty_text(self) -> Result<&'d str, Violation> {
        let text = self.string("a string")?;
        fit_for_label(text).map_err(|(code, message)| violation(self.path(), code, message))?;
        Ok(text)
    }

    /// Returns a text that is one of these.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `not_in_enum`.
    pub fn one_of(self, texts: &[&str]) -> Result<&'d str, Violation> {
        let text = self.string("a string")?;
        match texts.contains(&text) {
            true => Ok(text),
            false => Err(self.refuse("not_in_enum", &format!("one of `{}`", texts.join("`, `")))),
        }
    }

    /// Returns a number, as far as a 64-bit float holds it.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`.
    pub fn number(self) -> Result<f64, Violation> {
        self.number_where("a number", |_| true)
    }

    /// Returns a number that fits. `expected` completes "found `0`, expected …".
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `out_of_range`.
    pub fn number_where(self, expected: &str, fits: impl FnOnce(f64) -> bool) -> Result<f64, Violation> {
        let number = match self.found {
            Found::Json(Value::Number(number)) => number.as_f64(),
            // What JSON takes for a number, and not `inf`.
            Found::Text(field) => serde_json::from_str(field.text).ok(),
            _ => None,
        };
        match number {
            Some(number) if fits(number) => Ok(number),
            Some(_) => Err(self.refuse(Code::OutOfRange, expected)),
            None => Err(self.unfit(expected)),
        }
    }

    /// Returns an integer of 64 bits.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`.
    pub fn integer(self) -> Result<i64, Violation> {
        self.integer_where("an integer of 64 bits", |_| true)
    }

    /// Returns an integer that fits. `expected` completes "found `0`, expected …".
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `out_of_range`.
    pub fn integer_where(self, expected: &str, fits: impl FnOnce(i64) -> bool) -> Result<i64, Violation> {
        let integer = match self.found {
            Found::Json(Value::Number(number)) => number.as_i64(),
            Found::Text(field) => serde_json::from_str(field.text).ok(),
            _ => None,
        };
        match integer {
            Some(integer) if fits(integer) => Ok(integer),
            Some(_) => Err(self.refuse(Code::OutOfRange, expected)),
            None => Err(self.unfit(expected)),
        }
    }

    /// Returns a boolean.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`.
    pub fn boolean(self) -> Result<bool, Violation> {
        match self.found {
            Found::Json(Value::Bool(value)) => Ok(*value),
            Found::Text(field) if field.text == "true" => Ok(true),
            Found::Text(field) if field.text == "false" => Ok(false),
            _ => Err(self.unfit("`true` or `false`")),
        }
    }

    /// Returns a UUID of 36 characters.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `invalid_uuid`.
    pub fn uuid(self) -> Result<Uuid, Violation> {
        let text = self.string("a string")?;
        ids::read(text).ok_or_else(|| self.refuse(Code::InvalidUuid, ids::EXPECTED))
    }

    /// Returns the microseconds since the Unix epoch of a text in RFC 3339.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `invalid_timestamp`.
    pub fn rfc3339(self) -> Result<i64, Violation> {
        let text = self.string("a string")?;
        times::rfc3339(text)
            .map_err(|error| violation(self.path(), Code::InvalidTimestamp, error.to_string()))
    }

    /// Returns the microseconds since the Unix epoch of an integer in this unit. One that looks like another unit is refused.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `invalid_timestamp`.
    pub fn epoch(self, unit: Unit) -> Result<i64, Violation> {
        let number = self.integer()?;
        times::epoch(number, unit)
            .map_err(|error| violation(self.path(), Code::InvalidTimestamp, error.to_string()))
    }

    /// Returns the items of an array.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `json_syntax`.
    pub fn items<'q>(&'q self) -> Result<impl Iterator<Item = Field<'d, 'q>>, Violation> {
        match self.value("an array")? {
            Value::Array(items) => Ok(items.iter().enumerate().map(|(index, item)| Field {
                found: Found::Json(item),
                place: Place { parent: Parent::Field(&self.place), step: Step::Item(index) },
            })),
            _ => Err(self.unfit("an array")),
        }
    }

    /// Returns the members of an object, each with its name.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `json_syntax`.
    pub fn members<'q>(&'q self) -> Result<impl Iterator<Item = (&'d str, Field<'d, 'q>)>, Violation>
    where
        'd: 'q,
    {
        match self.value("a JSON object")? {
            Value::Object(members) => Ok(members.iter().map(|(name, value)| {
                let place = Place { parent: Parent::Field(&self.place), step: Step::Member(name) };
                (name.as_str(), Field { found: Found::Json(value), place })
            })),
            _ => Err(self.unfit("a JSON object")),
        }
    }

    /// Returns an object as JSON text that the column `properties` can hold.
    ///
    /// # Errors
    ///
    /// `missing`, `wrong_type`, `json_syntax`, and what PostgreSQL cannot hold.
    pub fn properties(self) -> Result<String, Violation> {
        let value = self.value("a JSON object")?;
        if !value.is_object() {
            return Err(self.unfit("a JSON object"));
        }
        let text = value.to_string();
        match jsonb::check(&text) {
            Ok(()) => Ok(text),
            Err((code, message)) => Err(violation(self.path(), code, message)),
        }
    }

    /// Returns the value as serde_json has it.
    ///
    /// # Errors
    ///
    /// `missing`, `json_syntax`.
    pub fn json(&self) -> Result<&'d Value, Violation> {
        self.value("a value")
    }

    /// Makes a violation of this field, with a code of your own or a [`Code`]. `expected` completes "found `0`, expected …".
    #[must_use]
    pub fn refuse(&self, code: impl AsRef<str>, expected: &str) -> Violation {
        let found = match self.found {
            Found::Text(field) => quote(field.text),
            Found::Json(Value::String(text)) => quote(text),
            Found::Json(value) | Found::NoObject(value) => quote(&value.to_string()),
            Found::Nothing | Found::NoParent | Found::Several(_) | Found::NoJson(_) => {
                return self.unfit(expected);
            }
        };
        violation(self.path(), code, format!("found {found}, expected {expected}"))
    }

    /// Returns the value, or says that it is missing where `expected` was.
    fn value(&self, expected: &str) -> Result<&'d Value, Violation> {
        match self.found {
            Found::Json(value) => Ok(value),
            Found::Text(field) => field.json().map_err(|error| self.no_json(error)),
            _ => Err(self.unfit(expected)),
        }
    }

    /// Returns a string, of whatever characters.
    fn string(&self, expected: &str) -> Result<&'d str, Violation> {
        match self.found {
            Found::Text(field) => Ok(field.text),
            Found::Json(Value::String(text)) => Ok(text),
            _ => Err(self.unfit(expected)),
        }
    }

    /// Makes the violation of a field that is missing, or of another type.
    #[cold]
    fn unfit(&self, expected: &str) -> Violation {
        let (code, found) = match self.found {
            Found::Nothing => (Code::Missing, "nothing".to_owned()),
            Found::NoParent => {
                return violation(self.path(), Code::Missing, "found nothing, expected a JSON object");
            }
            Found::Several(times) => {
                return violation(
                    self.path(),
                    Code::DuplicateField,
                    format!("found {times} values, expected one"),
                );
            }
            Found::NoJson(error) => return self.no_json(error),
            Found::NoObject(value) => {
                let message = format!("found {}, expected a JSON object", kind(value));
                return violation(self.path(), Code::WrongType, message);
            }
            Found::Text(field) => (Code::WrongType, format!("the text {}", quote(field.text))),
            Found::Json(value) => (Code::WrongType, kind(value)),
        };
        violation(self.path(), code, format!("found {found}, expected {expected}"))
    }

    fn no_json(&self, error: &str) -> Violation {
        violation(self.path(), Code::JsonSyntax, format!("found no JSON: {error}"))
    }
}

/// Shows a value with its type.
fn kind(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "`null`".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(_) => "the array",
        Value::Object(_) => "the object",
    };
    format!("{kind} {}", quote(&value.to_string()))
}
