//! Finds numbers of JSON that a 64-bit float holds and PostgreSQL's `numeric` does not.

/// The largest number of digits after the point, once the exponent is written out.
pub(super) const MAX_SCALE: i64 = 16_383;
/// PostgreSQL reads no exponent as great as this, even of 0: half of the greatest 32-bit number.
const MAX_EXPONENT: u64 = 1 << 30;

/// Returns the first such number in a text that is known to be well-formed JSON.
pub(super) fn beyond_numeric(json: &str) -> Option<&str> {
    // Few texts have any number that could be beyond it.
    let has_exponent = json.as_bytes().windows(2).any(|pair| matches!(pair, [b'0'..=b'9', b'e' | b'E']));
    if !has_exponent && i64::try_from(json.len()).is_ok_and(|bytes| bytes <= MAX_SCALE) {
        return None;
    }
    let mut rest = json;
    while let Some(start) = rest.find(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        let (_, token) = rest.split_at_checked(start)?;
        rest = match token.strip_prefix('"') {
            Some(string) => after_string(string),
            None => {
                let is_end = |c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
                let (number, after) = token.split_at_checked(token.find(is_end).unwrap_or(token.len()))?;
                if scale(number) > MAX_SCALE {
                    return Some(number);
                }
                after
            }
        };
    }
    None
}

/// Returns what follows a string. The text begins after the opening quote.
fn after_string(text: &str) -> &str {
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return text.get(at + 1..).unwrap_or_default(),
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    ""
}

/// Returns the digits after the point, or very many if `numeric` cannot read the exponent at all.
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
    use super::*;

    #[test]
    fn what_numeric_does_not_hold_is_found() {
        let long = format!("0.{}1", "0".repeat(16_383));
        for number in ["1e-16384", "-123e-10000000", "1.5E-99999999999999999999", "0e99999999999", &long] {
            let json = format!(r#"{{"1e-99999":"\\\"-1e-99999","a":[0,{{"b":{number}}}]}}"#);
            assert_eq!(beyond_numeric(&json), Some(number), "{json}");
        }
        for number in ["1e308", "-1e-999", "1e-16383", "1.5e-16382", "1000e-16383", "0e999", "-0.5", "7"] {
            assert_eq!(beyond_numeric(&format!(r#"{{"e":{number},"f":true}}"#)), None, "{number}");
        }
        assert_eq!(beyond_numeric(r#"{"2026-01-18":"1e-99999"}"#), None);
    }
}
