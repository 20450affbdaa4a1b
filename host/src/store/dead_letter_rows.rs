//! Writes the dead letters of a batch.

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::{Error, Store};
use crate::batch::{Judged, Version};
use sluicegate_verdicts::{Entry, Outcome, Reason, Violation};

/// An array of arrays cannot be unnested by one level, so each letter's fields are a slice of one
/// long array.
const INSERT_LETTERS: &str =
    "INSERT INTO dead_letters (stream, entry_id, fingerprint, reason, violations, fields, component, version, deliveries, tenant)
     SELECT $1, entry_id, fingerprint, reason, violations::jsonb,
            CASE WHEN first_field IS NOT NULL THEN ($2::bytea[])[first_field:last_field] END, component,
            version, deliveries, $12
     FROM UNNEST($3::text[], $4::bytea[], $5::text[], $6::text[], $7::int[], $8::int[], $9::bytea[], $10::bytea[],
                 $11::bigint[])
          AS letter (entry_id, fingerprint, reason, violations, first_field, last_field, component, version,
                     deliveries)
     ON CONFLICT DO NOTHING";

/// The dead letters of a batch, column by column.
#[derive(Default)]
pub(super) struct Letters<'a> {
    fields: Vec<&'a [u8]>,
    entry_ids: Vec<String>,
    fingerprints: Vec<Vec<u8>>,
    reasons: Vec<&'static str>,
    violations: Vec<String>,
    /// Where each letter's fields begin and end in `fields`, from 1; none for a deleted entry.
    first_fields: Vec<Option<i32>>,
    last_fields: Vec<Option<i32>>,
    components: Vec<&'a [u8]>,
    versions: Vec<&'a [u8]>,
    deliveries: Vec<i64>,
}

impl<'a> Letters<'a> {
    pub(super) fn from_batch(batch: &'a [Judged]) -> Result<Self, Error> {
        let mut letters = Self::default();
        for Judged { entry, outcome, version } in batch {
            if let Outcome::DeadLetter(reason, violations) = outcome {
                letters.push(entry, *reason, violations, version)?;
            }
        }
        Ok(letters)
    }

    fn push(
        &mut self,
        entry: &'a Entry,
        reason: Reason,
        violations: &[Violation],
        version: &'a Version,
    ) -> Result<(), Error> {
        let position = |length: usize| i32::try_from(length).map_err(|_| Error::TooManyFields);
        let mut fingerprint = Sha256::new();
        let first = position(self.fields.len() + 1)?;
        for (name, value) in entry.fields.iter().flatten() {
            for part in [name, value] {
                fingerprint.update(part.len().to_le_bytes());
                fingerprint.update(part);
                self.fields.push(part);
            }
        }
        let last = position(self.fields.len())?;
        let is_known = entry.fields.is_some();
        self.first_fields.push(is_known.then_some(first));
        self.last_fields.push(is_known.then_some(last));
        self.entry_ids.push(entry.id.to_string());
        self.fingerprints.push(fingerprint.finalize().to_vec());
        self.reasons.push(reason.as_str());
        self.violations.push(serde_json::to_string(violations).map_err(Error::Violations)?);
        self.components.push(version.component.as_bytes());
        self.versions.push(version.digest.as_bytes());
        self.deliveries.push(i64::try_from(entry.deliveries).unwrap_or(i64::MAX));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entry_ids.is_empty()
    }

    pub(super) async fn insert(&self, store: &Store, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(INSERT_LETTERS)
            .bind(&store.stream)
            .bind(&self.fields)
            .bind(&self.entry_ids)
            .bind(&self.fingerprints)
            .bind(&self.reasons)
            .bind(&self.violations)
            .bind(&self.first_fields)
            .bind(&self.last_fields)
            .bind(&self.components)
            .bind(&self.versions)
            .bind(&self.deliveries)
            .bind(store.tenant.as_str())
            .execute(connection)
            .await?;
        Ok(())
    }
}
