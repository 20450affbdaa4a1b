//! Holds a JSON object in the producer's words, taken apart only where something is looked for or changed.
//!
//! So a number stays as it was written, with all its digits, and what no step names costs little.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Holds members in their order. Of a name that is given twice, the last one counts, as in `jsonb`.
#[derive(Clone, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

/// Holds a value.
#[derive(Clone)]
pub(crate) enum Node<'a> {
    /// Is JSON without whitespace around it.
    Text(Cow<'a, str>),
    Open(Object<'a>),
}

impl<'a> Object<'a> {
    /// Reads an object. Returns `None` if the text is none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(crate) fn push(&mut self, name: &'a str, node: Node<'a>) {
        self.0.push((Cow::Borrowed(name), node));
    }

    /// Returns the value at this path as JSON.
    pub(crate) fn get(&self, path: &[impl AsRef<str>]) -> Option<Cow<'_, str>> {
        let Some((name, rest)) = path.split_first() else { return Some(Cow::Owned(self.to_json())) };
        let (_, node) = self.0.iter().rev().find(|(found, _)| found == name.as_ref())?;
        match node {
            Node::Open(object) => object.get(rest),
            Node::Text(text) => within(text, rest).map(Cow::Borrowed),
        }
    }

    /// Returns the value at this path, to be changed.
    pub(crate) fn get_mut(&mut self, path: &[String]) -> Option<&mut Node<'a>> {
        let (name, rest) = path.split_first()?;
        let at = self.last(name)?;
        let (_, node) = self.0.get_mut(at)?;
        match rest {
            [] => Some(node),
            _ => node.open()?.get_mut(rest),
        }
    }

    /// Puts a value at this path, and makes the objects around it that lack. Returns how many names lead to what is no
    /// object, if there is such.
    pub(crate) fn set(&mut self, path: &[String], value: Node<'a>) -> Result<(), usize> {
        let Some((name, rest)) = path.split_first() else { return Ok(()) };
        let at = match self.last(name) {
            Some(at) => at,
            None => {
                self.0.push((Cow::Owned(name.clone()), Node::Text(Cow::Borrowed("null"))));
                self.0.len() - 1
            }
        };
        let Some((_, node)) = self.0.get_mut(at) else { return Ok(()) };
        if rest.is_empty() {
            *node = value;
            return Ok(());
        }
        if node.is_null() {
            *node = Node::Open(Object::default());
        }
        node.open().ok_or(1_usize)?.set(rest, value).map_err(|names| names + 1)
    }

    pub(crate) fn remove(&mut self, path: &[String]) -> Option<Node<'a>> {
        let (name, rest) = path.split_first()?;
        let at = self.last(name)?;
        match rest {
            [] => Some(self.0.remove(at).1),
            _ => self.0.get_mut(at)?.1.open()?.remove(rest),
        }
    }

    pub(crate) fn to_json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (i, (name, node)) in self.0.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(&quoted(name));
            out.push(':');
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Open(object) => object.write(out),
            }
        }
        out.push('}');
    }

    /// Finds the member that counts, and removes others of its name.
    fn last(&mut self, name: &str) -> Option<usize> {
        let mut at = self.0.iter().rposition(|(found, _)| found == name)?;
        while let Some(earlier) = self.0.iter().take(at).position(|(found, _)| found == name) {
            self.0.remove(earlier);
            at -= 1;
        }
        Some(at)
    }

    fn into_owned<'b>(self) -> Object<'b> {
        let owned = |node| match node {
            Node::Text(text) => Node::Text(Cow::Owned(text.into_owned())),
            Node::Open(object) => Node::Open(object.into_owned()),
        };
        Object(self.0.into_iter().map(|(name, node)| (Cow::Owned(name.into_owned()), owned(node))).collect())
    }
}

impl<'a> Node<'a> {
    /// Makes a string.
    pub(crate) fn string(text: &str) -> Self {
        Self::Text(Cow::Owned(quoted(text)))
    }

    /// Returns the JSON of what is no open object.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Open(_) => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.text() == Some("null")
    }

    fn open(&mut self) -> Option<&mut Object<'a>> {
        if let Self::Text(text) = self {
            let object = match text {
                Cow::Borrowed(text) => Object::parse(text)?,
                Cow::Owned(text) => Object::parse(text)?.into_owned(),
            };
            *self = Self::Open(object);
        }
        match self {
            Self::Open(object) => Some(object),
            Self::Text(_) => None,
        }
    }
}

/// Writes a string as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns what a JSON text has at this path.
fn within<'t>(text: &'t str, path: &[impl AsRef<str>]) -> Option<&'t str> {
    path.iter().try_fold(text, |text, name| member(text, name.as_ref()))
}

/// Returns the member of this name, without a copy of anything.
fn member<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    if !text.starts_with('{') {
        return None;
    }
    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(MemberVisitor(name)).ok()?
}

struct MemberVisitor<'n>(&'n str);

impl<'de> Visitor<'de> for MemberVisitor<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value::<&RawValue>()?.get());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Borrows a name where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor).map(Self)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Vec<(Cow<'de, str>, Node<'de>)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            members.push((name, Node::Text(Cow::Borrowed(value.get()))));
        }
        Ok(members)
    }
}
