//! Tells a refusal by a code for programs and a message for people.

use std::fmt::Write as _;

use crate::Violation;

/// Bounds the characters of a found value that a message repeats.
const QUOTED_CHARS: usize = 64;

/// Names the kind of fault that a violation is. The names are stable, because they are counted and
/// alerted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A required field is not there. With an empty path, none of them is.
    Missing,
    /// A field is given more than once, so that its value is ambiguous.
    DuplicateField,
    /// The text is not JSON. The message says at which line and column.
    JsonSyntax,
    /// The JSON is of another type than wanted: a number for a string, or null.
    WrongType,
    /// A string is empty.
    Empty,
    /// A text contains a NUL character, which PostgreSQL can hold neither in `text` nor in `jsonb`.
    NulCharacter,
    /// A JSON string contains half a surrogate pair (`\ud800`), which is no text.
    InvalidUnicode,
    /// The text is not a UUID of 36 characters with hyphens.
    InvalidUuid,
    /// The text is not an RFC 3339 date and time with an offset, or the number is of another unit than wanted.
    InvalidTimestamp,
    /// A number is beyond its limits: in `properties`, those of a 64-bit float and of `numeric`.
    OutOfRange,
    /// The JSON is nested deeper than 127 levels.
    TooDeep,
}

impl Code {
    /// Returns the code as a violation carries it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::DuplicateField => "duplicate_field",
            Self::JsonSyntax => "json_syntax",
            Self::WrongType => "wrong_type",
            Self::Empty => "empty",
            Self::NulCharacter => "nul_character",
            Self::InvalidUnicode => "invalid_unicode",
            Self::InvalidUuid => "invalid_uuid",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::OutOfRange => "out_of_range",
            Self::TooDeep => "too_deep",
        }
    }
}

impl AsRef<str> for Code {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Makes a violation. The code is a [`Code`] or a name of your own: it is counted, so it must not contain data. The message is for
/// people and says what was found and what is expected. Show found values by [`quote`].
pub fn violation(path: impl Into<String>, code: impl AsRef<str>, message: impl Into<String>) -> Violation {
    Violation { path: path.into(), code: code.as_ref().to_owned(), message: message.into() }
}

/// Gathers all that is wrong with an entry, so that its producer learns it at once.
///
/// ```
/// use sluicegate_kit::{Document, Entry, Judged, Verdict, Violations};
///
/// fn judge(entry: &Entry) -> Judged {
///     let track = Document::read(entry)?;
///     let mut wrong = Violations::new();
///     let id = wrong.take(track.at("messageId").uuid());
///     let user = wrong.take(track.at("userId").nonempty_text());
///     let (Some(id), Some(user)) = (id, user) else { return Err(wrong) };
///     // … all of them are sound here.
/// #   let _ = (id, user);
///     Ok(Verdict::discard("not wanted"))
/// }
///
/// let wrong = judge(&Entry::of(&[("data", r#"{"messageId": "m-1", "userId": 7}"#)])).unwrap_err();
/// let codes: Vec<_> = wrong.iter().map(|violation| (violation.path.as_str(), violation.code.as_str())).collect();
/// assert_eq!(codes, [("messageId", "invalid_uuid"), ("userId", "wrong_type")]);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Bounds the violations of an entry: the service keeps no more.
    pub const MAX: usize = 100;

    /// Makes an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a violation, unless the same one is there, or [`MAX`](Self::MAX) others.
    pub fn push(&mut self, violation: Violation) {
        if self.0.len() < Self::MAX && !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }

    /// Returns the value that was read, or adds what is wrong with it.
    pub fn take<T>(&mut self, read: Result<T, impl Into<Violations>>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.extend(wrong.into());
                None
            }
        }
    }

    /// Returns an error with all of them, if there is any.
    ///
    /// # Errors
    ///
    /// All that was found.
    pub fn finish(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// Returns whether nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at each.
    pub fn iter(&self) -> std::slice::Iter<'_, Violation> {
        self.0.iter()
    }
}

impl From<Violation> for Violations {
    fn from(violation: Violation) -> Self {
        Self(vec![violation])
    }
}

impl From<Violations> for Vec<Violation> {
    fn from(violations: Violations) -> Self {
        violations.0
    }
}

impl Extend<Violation> for Violations {
    fn extend<I: IntoIterator<Item = Violation>>(&mut self, violations: I) {
        violations.into_iter().for_each(|violation| self.push(violation));
    }
}

impl FromIterator<Violation> for Violations {
    fn from_iter<I: IntoIterator<Item = Violation>>(violations: I) -> Self {
        let mut gathered = Self::new();
        gathered.extend(violations);
        gathered
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a Violation;
    type IntoIter = std::slice::Iter<'a, Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Returns the path of a member. A name that is no plain word is quoted as in JSON: `properties["first name"]`. It is cut after 64
/// characters, since it is the producer's.
#[must_use]
pub fn member_path(path: &str, name: &str) -> String {
    let name: String = name.chars().take(QUOTED_CHARS).collect();
    let is_plain =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
    match (is_plain, path.is_empty()) {
        (true, true) => name,
        (true, false) => format!("{path}.{name}"),
        (false, _) => format!("{path}[{}]", serde_json::Value::String(name)),
    }
}

/// Returns a found value in backquotes, fit for a message. It is cut after 64 characters, and
/// characters are escaped that could forge or garble a line of a log.
#[must_use]
pub fn quote(found: &str) -> String {
    let mut quoted = String::from("`");
    let mut chars = found.chars();
    for char in chars.by_ref().take(QUOTED_CHARS) {
        if is_unprintable(char) {
            quoted.extend(char.escape_default());
        } else {
            quoted.push(char);
        }
    }
    quoted.push('`');
    let left = chars.count();
    if left > 0 {
        // Writing to a String cannot fail.
        let _ = write!(quoted, "… and {left} more characters");
    }
    quoted
}

/// Returns whether a character is a control character, breaks lines or turns the direction of text.
fn is_unprintable(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
