//! Makes text of others safe for logs and terminals: a line must be what it seems.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

/// Returns bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a number for people, as in `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns the first twelve digits of a digest, which are as many as a log line has.
pub(crate) fn first_digits(digest: &[u8]) -> String {
    hex(digest.get(..6).unwrap_or(digest))
}

/// Escapes, as in `\u{202e}`, what a terminal would obey or would not show: control characters of
/// both kinds, line separators, marks that turn the direction of text, and other invisible ones.
/// All else stays as it is, quotes and backslashes too.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_printable(c) {
            true => escaped.push(c),
            false if c.escape_debug().count() > 1 => escaped.extend(c.escape_debug()),
            false => escaped.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(escaped)
}

/// Shortens text to so many columns of a terminal, with `…` at its end where something is left out.
pub(crate) fn cut_to_columns(text: &str, columns: usize) -> Cow<'_, str> {
    if text.width() <= columns {
        return Cow::Borrowed(text);
    }
    // Some characters change the width of those before them.
    let fits = |end: &usize| text.get(..*end).is_some_and(|start| start.width() < columns);
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8()).take(4 * columns);
    let end = ends.filter(fits).max().unwrap_or(0);
    let dots = if columns == 0 { "" } else { "…" };
    Cow::Owned(format!("{}{dots}", text.get(..end).unwrap_or_default()))
}

/// Does the same as [`printable`] for JSON text, with the escapes of JSON, so that it reads back as the same value.
pub(crate) fn printable_json(json: &str) -> Cow<'_, str> {
    if json.chars().all(is_printable) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match is_printable(c) {
            true => escaped.push(c),
            // Only strings hold such characters.
            false => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(escaped, "\\u{unit:04x}");
            }),
        }
    }
    Cow::Owned(escaped)
}

/// Decides by the standard library's table of characters that show. Marks that combine with the
/// letter before them do no harm, but alone `escape_debug` would escape them.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    match c {
        // People write these: they join letters and emoji, or are spaces.
        '\u{200c}' | '\u{200d}' | '\u{a0}' | '\u{3000}' => return true,
        // These letters are blank.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}' => {
            return false;
        }
        _ => {}
    }
    let mut after_a_letter = [0; 8];
    let Some((letter, rest)) = after_a_letter.split_first_mut() else { return false };
    *letter = b'a';
    let end = 1 + c.encode_utf8(rest).len();
    let pair = after_a_letter.get(..end).and_then(|pair| std::str::from_utf8(pair).ok());
    pair.is_some_and(|pair| pair.escape_debug().count() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, wanted) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (65_536, "65,536"), (1_234_567, "1,234,567")]
        {
            assert_eq!(grouped(number), wanted);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn a_line_cannot_forge_another_nor_command_a_terminal() {
        assert_eq!(
            printable("ü \"a\"\\ \x1b[2J\r\n\u{9b}\u{202e}\u{2028}"),
            "ü \"a\"\\ \\u{1b}[2J\\r\\n\\u{9b}\\u{202e}\\u{2028}"
        );
        for c in [
            '\0',
            '\t',
            '\x7f',
            '\u{85}',
            '\u{61c}',
            '\u{200e}',
            '\u{2066}',
            '\u{2029}',
            '\u{feff}',
            '\u{e0041}',
            '\u{3164}',
            '\u{34f}',
        ] {
            assert!(matches!(printable(&format!("a{c}b")), Cow::Owned(shown) if !shown.contains(c)), "{c:?}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in [
            "",
            "Zürich",
            "cafe\u{301}",
            "हिन्दी",
            "日本",
            "👍🏽",
            "👩\u{200d}👧",
            "می\u{200c}خواهم",
            "東京\u{3000}都",
            "10\u{a0}km",
            "C:\\path 'a' \"b\"",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn text_is_cut_by_what_shows() {
        for (text, columns, cut) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("abcd", 1, "…"),
            ("abcd", 0, ""),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("cafe\u{301}s", 5, "cafe\u{301}s"),
            ("cafe\u{301}s!", 5, "cafe\u{301}…"),
        ] {
            assert_eq!(cut_to_columns(text, columns), cut, "{text} {columns}");
        }
    }

    #[test]
    fn json_reads_back_as_the_same_value() {
        let value = serde_json::json!({ "a\u{202e}": "\u{9b}31m \u{e0041} \"quoted\" \\ \n ü" });
        let text = value.to_string();
        let shown = printable_json(&text);
        assert!(!shown.contains(['\u{202e}', '\u{9b}', '\u{e0041}']), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), value);
    }
}
