//! What the types of the contract can do beside holding values.

use crate::{BytesEntry, Entry, EntryId, Verdict, Violations};

impl Entry {
    /// Makes an entry of fields, for tests. Its ID is `1-0`.
    #[must_use]
    pub fn of(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { id: EntryId { milliseconds: 1, sequence: 0 }, fields }
    }

    /// Returns the value of the first field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl BytesEntry {
    /// Makes an entry of fields, for tests. Its ID is `1-0`.
    #[must_use]
    pub fn of(fields: &[(&str, &[u8])]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { id: EntryId { milliseconds: 1, sequence: 0 }, fields }
    }

    /// Returns the value of the first field with this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice())
    }
}

impl Verdict {
    /// Drops the entry on purpose. The reason is counted, so it must not contain data.
    #[must_use]
    pub fn discard(reason: &str) -> Self {
        Self::Discard(reason.to_owned())
    }
}

impl From<Violations> for Verdict {
    fn from(violations: Violations) -> Self {
        Self::Reject(violations.into())
    }
}
