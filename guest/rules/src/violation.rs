//! How a refusal is told: its code for programs, its message for people.

use std::fmt::Write as _;

use crate::Violation;

/// Characters of a found value that a message repeats, at most.
const QUOTED_CHARS: usize = 64;

/// What kind of fault a violation is. The names are stable: they are counted
/// and alerted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A required field is not there; with an empty path, none of them is.
    Missing,
    /// A field is given more than once, so that its value is ambiguous.
    DuplicateField,
    /// The text is not JSON. The message says at which line and column.
    JsonSyntax,
    /// JSON of another type than wanted: a number for a string, or null.
    WrongType,
    /// A string without a character.
    Empty,
    /// A NUL character, which PostgreSQL can hold neither in `text` nor in `jsonb`.
    NulCharacter,
    /// A JSON string with half a surrogate pair (`\ud800`), which is no text.
    InvalidUnicode,
    /// Not a UUID of 36 characters with hyphens.
    InvalidUuid,
    /// Not an RFC 3339 date and time with offset.
    InvalidTimestamp,
    /// A number beyond its limits: for any in `properties`, those of a 64-bit float.
    OutOfRange,
    /// JSON nested deeper than 127 levels.
    TooDeep,
}

impl Code {
    /// The code as a violation carries it.
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

/// Makes a violation. The message is for people and says what was found and
/// what is expected; show found values by [`quote`].
pub fn violation(path: impl Into<String>, code: Code, message: impl Into<String>) -> Violation {
    Violation { path: path.into(), code: code.as_str().to_owned(), message: message.into() }
}

/// A found value in backquotes, fit for a message: cut after 64 characters,
/// and with those escaped that could forge or garble a line of a log.
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

/// Control characters, and those that break lines or turn the direction of text.
fn is_unprintable(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
