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
    /// The text is not an RFC 3339 date and time with an offset.
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

/// Makes a violation. The message is for people and says what was found and what is expected. Show
/// found values by [`quote`].
pub fn violation(path: impl Into<String>, code: Code, message: impl Into<String>) -> Violation {
    Violation { path: path.into(), code: code.as_str().to_owned(), message: message.into() }
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
