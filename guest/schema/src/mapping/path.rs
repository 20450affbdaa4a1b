//! Names a place in an entry or an event, as violations do: `properties.items`, `context["first name"]`.

use std::fmt;

use sluicegate_kit::member_path;

use crate::breach::PROPERTIES;

/// Bounds the names of a path.
const MAX_NAMES: usize = 32;

/// Names the fields of an event.
pub(crate) const FIELDS: [&str; 5] = ["event_id", "event_type", "user_id", "timestamp", PROPERTIES];

/// Holds the names that lead from an object to a value within. Without any, it is the object.
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Reads a path. A single point stands for the whole.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "." {
            return Ok(Self(Vec::new()));
        }
        let wrong = |why: &str| {
            format!("found the path `{text}`, {why}; expected one such as `a.b` or `a[\"first name\"]`")
        };
        let (mut names, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let after = match rest.strip_prefix('[') {
                Some(quoted) if !names.is_empty() => {
                    let mut values = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
                    let name = match values.next() {
                        Some(Ok(name)) => name,
                        _ => {
                            return Err(wrong(
                                "in which a bracket holds no name in quotes: items have no path",
                            ));
                        }
                    };
                    names.push(name);
                    let after = quoted.get(values.byte_offset()..).and_then(|after| after.strip_prefix(']'));
                    after.ok_or_else(|| wrong("in which a bracket is not closed"))?
                }
                _ => {
                    let plain = if names.is_empty() { Some(rest) } else { rest.strip_prefix('.') };
                    let plain = plain.ok_or_else(|| wrong("in which a point lacks"))?;
                    let len = plain.find(|c| !is_plain(c)).unwrap_or(plain.len());
                    let (name, after) = plain.split_at(len);
                    if name.is_empty() {
                        return Err(wrong("in which a name lacks, or needs quotes"));
                    }
                    names.push(name.to_owned());
                    after
                }
            };
            rest = after;
        }
        match names.len() {
            1..=MAX_NAMES => Ok(Self(names)),
            0 => Err(wrong("which is empty")),
            _ => Err(wrong("which has too many names")),
        }
    }

    /// Reads the path of a field of an event, or of what is within its properties.
    pub(crate) fn in_event(text: &str) -> Result<Self, String> {
        let path = Self::parse(text)?;
        match path.names() {
            [field] if FIELDS.contains(&field.as_str()) => Ok(path),
            [field, _, ..] if field == PROPERTIES => Ok(path),
            _ => Err(format!(
                "found the path `{text}`, expected {}, or one within `{}`",
                FIELDS.map(|field| format!("`{field}`")).join(", "),
                PROPERTIES
            )),
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

/// Writes names as a path.
pub(crate) fn shown(names: &[String]) -> String {
    match names {
        [] => ".".to_owned(),
        [first, rest @ ..] => rest.iter().fold(first.clone(), |path, name| member_path(&path, name)),
    }
}

/// Returns whether a character may stand in a path without quotes.
fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '$')
}
