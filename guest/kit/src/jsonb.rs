//! Checks that the column `properties` can hold a JSON text, as the contract in `wit/` says.
//!
//! The host would refuse the rest as well. This check tells the producer which value it was.

use std::slice;

use crate::{Code, quote};

/// Bounds the levels of objects and arrays within each other.
const MAX_DEPTH: usize = 127;

/// A number of this length without an exponent fits in a 64-bit float: the greatest has 309 digits.
const SAFE_DIGITS: usize = 300;

/// Bounds the parts that [`is_plain`] looks at. It is less than half of [`SAFE_DIGITS`]: wherever the
/// parts begin, a longer number fills one of them.
const PART: usize = 144;

/// PostgreSQL reads no greater exponent, even of 0. It is half of the greatest number of 32 bits.
const MAX_EXPONENT: u64 = 1 << 30;

/// Bounds the digits of a number after its point, once its exponent is written out. PostgreSQL's
/// `numeric` ends there.
const MAX_SCALE: i64 = 16_383;

type Refusal = (Code, String);

/// Checks a text that is known to be well-formed JSON.
pub(crate) fn check(json: &str) -> Result<(), Refusal> {
    if is_plain(json.as_bytes()) { Ok(()) } else { walk(json) }
}

/// Returns whether nothing in a text can be wrong, so that [`walk`] has nothing to do. Such a text has
/// no `\u`, no exponent, no long number, and so few opening brackets that it is not too deep.
///
/// Text within strings counts like any other, and the inner loop looks at every pair of bytes and never
/// ends early: so the compiler makes it look at 16 pairs at once. The last byte is the first of no
/// pair, and need not be, as it opens nothing in well-formed JSON.
fn is_plain(json: &[u8]) -> bool {
    let mut brackets = 0;
    let following = json.get(1..).unwrap_or_default();
    for (part, following) in json.chunks(PART).zip(following.chunks(PART)) {
        if part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.')) {
            return false;
        }
        // A `u8` can count the bytes of a part.
        let (mut opening, mut has_special) = (0_u8, false);
        for (byte, next) in part.iter().zip(following) {
            opening += u8::from(matches!(byte, b'{' | b'['));
            has_special |= (*byte == b'\\') & (*next == b'u');
            has_special |= byte.is_ascii_digit() & matches!(next, b'e' | b'E');
        }
        if has_special {
            return false;
        }
        brackets += usize::from(opening);
    }
    brackets <= MAX_DEPTH
}

/// Checks a text in one pass, with a closer look only at strings with `\u`, and at numbers that are
/// long or have an exponent.
fn walk(json: &str) -> Result<(), Refusal> {
    let mut depth = 0_usize;
    let mut bytes = json.as_bytes().iter();
    loop {
        let token = bytes.as_slice();
        match bytes.next() {
            Some(b'"') => {
                if has_unicode_escape(&mut bytes) {
                    check_string(consumed(token, &bytes))?;
                }
            }
            Some(b'-' | b'0'..=b'9') => {
                let (number, rest) = split_number(token);
                check_number(number)?;
                bytes = rest.iter();
            }
            Some(b'{' | b'[') => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let message = format!("found more than {MAX_DEPTH} levels, expected fewer");
                    return Err((Code::TooDeep, message));
                }
            }
            Some(b'}' | b']') => depth = depth.saturating_sub(1),
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// Unescapes a JSON string given with its quotes. Returns `None` if half a surrogate pair is in it.
pub(crate) fn unescape(string: &[u8]) -> Option<String> {
    serde_json::from_slice(string).ok()
}

/// Returns the part of `token` that the iterator, which started there, has consumed.
fn consumed<'a>(token: &'a [u8], rest: &slice::Iter<'_, u8>) -> &'a [u8] {
    token.get(..token.len().saturating_sub(rest.len())).unwrap_or(token)
}

/// Consumes a string after its opening quote, and returns whether it has a `\u`.
fn has_unicode_escape(bytes: &mut slice::Iter<'_, u8>) -> bool {
    let mut found = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => found |= bytes.next() == Some(&b'u'),
            _ => {}
        }
    }
    found
}

/// Splits off the number that `json` begins with.
fn split_number(json: &[u8]) -> (&[u8], &[u8]) {
    let ends = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let len = json.iter().position(ends).unwrap_or(json.len());
    json.split_at_checked(len).unwrap_or((json, &[]))
}

fn check_string(string: &[u8]) -> Result<(), Refusal> {
    let found = || quote(&String::from_utf8_lossy(string));
    match unescape(string) {
        None => {
            let message = format!("found {}, expected no half surrogate pair", found());
            Err((Code::InvalidUnicode, message))
        }
        Some(text) if text.contains('\0') => {
            let message = format!("found {}, expected text without NUL characters", found());
            Err((Code::NulCharacter, message))
        }
        Some(_) => Ok(()),
    }
}

fn check_number(number: &[u8]) -> Result<(), Refusal> {
    let has_exponent = number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    if !has_exponent && number.len() <= SAFE_DIGITS {
        return Ok(());
    }
    let number = String::from_utf8_lossy(number);
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() && scale(&number) > MAX_SCALE => {
            let message = format!(
                "found {}, expected one that PostgreSQL's `numeric` holds, of at most {MAX_SCALE} digits after the point",
                quote(&number)
            );
            Err((Code::OutOfRange, message))
        }
        Ok(value) if value.is_finite() => Ok(()),
        _ => {
            let message = format!("found {}, expected a number within a 64-bit float", quote(&number));
            Err((Code::OutOfRange, message))
        }
    }
}

/// Returns the digits of a number after its point, once its exponent is written out. Returns very
/// many if the exponent is beyond what `numeric` reads at all.
fn scale(number: &str) -> i64 {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    match exponent.parse::<i64>() {
        Ok(exponent) if exponent.unsigned_abs() < MAX_EXPONENT => {
            i64::try_from(fraction).unwrap_or(i64::MAX).saturating_sub(exponent)
        }
        _ => i64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Makes well-formed JSON of which much is near what `check` refuses.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            prop_oneof![Just(1_usize..20), Just(130..160), Just(280..330)]
                .prop_flat_map(|lengths| ("-?[1-9]", lengths, "(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,5})?"))
                .prop_map(|(first, zeros, rest)| format!("{first}{}{rest}", "0".repeat(zeros))),
            r#""([a-f0-9.\[{]|\\(n|"|\\|u00[01][01]|ud83d|ude00)){0,40}""#,
            (100_usize..140).prop_map(|depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth))),
            (0_usize..200).prop_map(|length| format!("\"{}\"", "x".repeat(length))),
            Just("true".to_owned()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                vec(inner, 0..4).prop_map(|items| {
                    let members: Vec<_> = items.iter().map(|item| format!("\"a\": {item}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_is_plain_need_not_be_walked(json in json()) {
            prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&json).is_ok(), "{json}");
            prop_assert!(!is_plain(json.as_bytes()) || walk(&json).is_ok(), "{json}");
        }
    }

    #[test]
    fn nothing_refused_is_plain_wherever_it_is() {
        let long = "9".repeat(SAFE_DIGITS + 1);
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        for before in 0..3 * PART {
            for after in [0, 1, PART - 1, PART] {
                for value in [r#""\u0000""#, r#""\ud83d""#, "1e999", "-1E-99999", &long, &deep] {
                    let json = format!("{{{}\"a\":{value}{}}}", " ".repeat(before), " ".repeat(after));
                    assert!(!is_plain(json.as_bytes()), "{json}");
                }
                let usual = format!("{{{}\"a\":[-1.5,\"e\\n\"]{}}}", " ".repeat(before), " ".repeat(after));
                assert!(is_plain(usual.as_bytes()), "{usual}");
            }
        }
    }
}
