//! Entries, as Redis delivered them.

use std::fmt;

/// The ID that Redis gave a stream entry: `<milliseconds>-<sequence>`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch.
    pub milliseconds: u64,
    /// Distinguishes the entries of one millisecond.
    pub sequence: u64,
}

impl EntryId {
    /// Smaller than the ID of any entry that Redis can hold.
    pub const ZERO: Self = Self { milliseconds: 0, sequence: 0 };

    /// Reads the text form, or returns `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (milliseconds, sequence) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { milliseconds: milliseconds.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

/// The name and the value of a field: any bytes that Redis can hold.
pub type Field = (Vec<u8>, Vec<u8>);

/// One stream entry, as Redis delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's ID, unique in the stream.
    pub id: EntryId,
    /// The fields, in the order of the producer. `None` when the entry was deleted from the stream
    /// while it was pending: its content is lost.
    pub fields: Option<Vec<Field>>,
    /// How often the entry was delivered, this time included, without the times that ended while
    /// the rules were not being asked about it: see `stream/attempts.rs`.
    pub deliveries: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_read_what_they_write() {
        let id = EntryId { milliseconds: 1_768_689_000_123, sequence: 7 };
        assert_eq!(EntryId::parse(id.to_string().as_bytes()), Some(id));
        for bad in ["", "1", "1-", "-1", "a-b", "1-2-3", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_entry_id_is_read_back_in_order(a: (u64, u64), b: (u64, u64)) {
            let [a, b] = [a, b].map(|(milliseconds, sequence)| EntryId { milliseconds, sequence });
            assert_eq!(EntryId::parse(a.to_string().as_bytes()), Some(a));
            assert_eq!(a < b, (a.milliseconds, a.sequence) < (b.milliseconds, b.sequence));
            assert!(a >= EntryId::ZERO);
        }

        #[test]
        fn no_bytes_make_an_entry_id_panic(bytes: Vec<u8>) {
            let _ = EntryId::parse(&bytes);
        }
    }
}
