//! Entries and what came of them as JSON lines, read and written.
//!
//! - `lines`: reads lines of bounded length, and knows where each one stands
//! - `entry`: an entry, as a line or as the first part of a golden
//! - `outcome`: what came of an entry
//!
//! An entry is `{"id":"1700000000000-0","fields":{"event_id":"…"}}`. Without `id` it is `<1700000000000 + number of the
//! line>-0`. `fields` is an object, or a list of `[name, value]` pairs where a name repeats. A value that is no text is
//! its compact JSON text for the rules, and `{"base64":"…"}` stands for bytes that are no text.

mod entry;
mod lines;
mod outcome;

pub use entry::{EntryLine, entry_line, golden_line};
pub use lines::{Error, Line, Lines};
pub use outcome::{OutcomeView, RowView, outcome_line, time_of, time_text};

/// The most bytes of a line. No entry that Redis holds in practice is longer, and no device may fill the memory.
pub const MAX_LINE_BYTES: u64 = 64 << 20;

/// Reads one JSON value. An error tells the column, and what was wanted there.
fn json<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let said = error.to_string();
        match said.rsplit_once(" at line 1 column ") {
            Some((said, column)) => format!("{said} (column {column})"),
            None => said,
        }
    })
}

/// Removes the white space between the parts of a JSON text. All else, such as the digits of a number, stays as it is.
pub fn compact(json: &str) -> String {
    let (mut is_text, mut is_escaped) = (false, false);
    let is_kept = |c: &char| {
        let is_kept = is_text || !matches!(c, ' ' | '\t' | '\r' | '\n');
        match c {
            '"' if !is_escaped => is_text = !is_text,
            _ => {}
        }
        is_escaped = is_text && *c == '\\' && !is_escaped;
        is_kept
    };
    json.chars().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_json_is_the_same_value_in_the_same_digits() {
        for (text, found) in [
            ("{ \"a b\" : [ 1.0 , 10e400,\n\t-0 ] }", r#"{"a b":[1.0,10e400,-0]}"#),
            (r#" "a \" b\\" "#, r#""a \" b\\""#),
            (r#"["\\" , "x y"]"#, r#"["\\","x y"]"#),
        ] {
            assert_eq!(compact(text), found);
        }
    }
}
