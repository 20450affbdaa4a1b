//! Entries as the rules take them: their values are text, or any bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Utf8Error;

use serde::{Deserialize, Serialize, Serializer};

use sluicegate_verdicts::EntryId;

/// An entry as the rules get it. All of its text and bytes are borrowed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "", deserialize = "&'a V: Deserialize<'de>"))]
pub struct GuestEntry<'a, V: Value + ?Sized> {
    pub id: EntryId,
    /// The field names and values, in the order of the producer.
    #[serde(borrow, serialize_with = "write_fields")]
    pub fields: Vec<(&'a str, &'a V)>,
    /// How often the entry was delivered, as in [`Entry::deliveries`](sluicegate_verdicts::Entry::deliveries).
    pub deliveries: u64,
}

pub type TextEntry<'a> = GuestEntry<'a, str>;
pub type BytesEntry<'a> = GuestEntry<'a, [u8]>;

impl<V: Value + ?Sized> GuestEntry<'_, V> {
    /// Returns the bytes of the entry's fields.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.as_bytes().len()).sum()
    }
}

impl<V: Value + ?Sized> Clone for GuestEntry<'_, V> {
    fn clone(&self) -> Self {
        Self { fields: self.fields.clone(), ..*self }
    }
}

/// The value of a field, as one of the two kinds of rules takes it.
pub trait Value {
    /// Returns the value of these bytes, or where they are none.
    fn read(bytes: &[u8]) -> Result<&Self, Utf8Error>;

    fn as_bytes(&self) -> &[u8];

    fn batch<'a>(entries: &'a [GuestEntry<'a, Self>]) -> Batch<'a>;
}

impl Value for str {
    fn read(bytes: &[u8]) -> Result<&Self, Utf8Error> {
        std::str::from_utf8(bytes)
    }

    fn as_bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn batch<'a>(entries: &'a [TextEntry<'a>]) -> Batch<'a> {
        Batch::Text(entries.into())
    }
}

impl Value for [u8] {
    fn read(bytes: &[u8]) -> Result<&Self, Utf8Error> {
        Ok(bytes)
    }

    fn as_bytes(&self) -> &[u8] {
        self
    }

    fn batch<'a>(entries: &'a [BytesEntry<'a>]) -> Batch<'a> {
        Batch::Bytes(entries.into())
    }
}

/// The entries of one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Batch<'a> {
    Text(#[serde(borrow)] Cow<'a, [TextEntry<'a>]>),
    Bytes(#[serde(borrow)] Cow<'a, [BytesEntry<'a>]>),
}

impl Batch<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Text(entries) => entries.len(),
            Self::Bytes(entries) => entries.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of all fields.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(entries) => entries.iter().map(GuestEntry::bytes).sum(),
            Self::Bytes(entries) => entries.iter().map(GuestEntry::bytes).sum(),
        }
    }

    pub fn first_id(&self) -> Option<EntryId> {
        match self {
            Self::Text(entries) => entries.first().map(|entry| entry.id),
            Self::Bytes(entries) => entries.first().map(|entry| entry.id),
        }
    }

    /// Returns how often each entry was delivered.
    pub fn deliveries(&self) -> BTreeMap<EntryId, u64> {
        match self {
            Self::Text(entries) => entries.iter().map(|entry| (entry.id, entry.deliveries)).collect(),
            Self::Bytes(entries) => entries.iter().map(|entry| (entry.id, entry.deliveries)).collect(),
        }
    }
}

/// Writes each value as one piece, where serde would write a `[u8]` byte by byte. In postcard's encoding it makes no
/// difference whether a piece is text or bytes.
fn write_fields<S: Serializer, V: Value + ?Sized>(
    fields: &[(&str, &V)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    struct Piece<'a>(&'a [u8]);

    impl Serialize for Piece<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    serializer.collect_seq(fields.iter().map(|(name, value)| (name, Piece(value.as_bytes()))))
}
