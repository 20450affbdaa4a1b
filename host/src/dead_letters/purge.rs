//! Letters deleted.

use std::collections::BTreeMap;

use super::progress::Progress;
use super::{Error, PurgeRequest};
use crate::store::{DeadLetterStore, Filter, Job, JobLease};

/// Letters deleted in one transaction.
const CHUNK: u32 = 500;

/// Deletes these letters, or only counts them. Returns how many they are.
pub(super) async fn purge(
    dead_letters: &DeadLetterStore,
    filter: &Filter,
    dry_run: bool,
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    let in_total = dead_letters.count(filter).await?;
    match dry_run {
        true => Ok(in_total),
        false => delete(dead_letters, filter, in_total, None, progress).await,
    }
}

/// Does the same as a job: the letters that were there when it was first begun.
pub(super) async fn purge_as_job(
    dead_letters: &DeadLetterStore,
    asked: &PurgeRequest,
    job: &Job,
    lease: &JobLease,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let scope = dead_letters.scope(asked.filter.filter(Some(&job.tenant), false), Some(job)).await?;
    let filter = scope.filter();
    let left = dead_letters.count(&filter).await?;
    if asked.dry_run {
        lease.begin(&scope, left).await?;
        let is_counted = lease.progress().done > 0;
        if left > 0 && !is_counted {
            lease.note(&BTreeMap::from([("deleted".to_owned(), left)]), 0).await?;
        }
        return Ok(());
    }
    lease.begin(&scope, lease.progress().done + left).await?;
    delete(dead_letters, &filter, left, Some(lease), progress).await?;
    Ok(())
}

async fn delete(
    dead_letters: &DeadLetterStore,
    filter: &Filter,
    in_total: u64,
    job: Option<&JobLease>,
    progress: &mut dyn Progress,
) -> Result<u64, Error> {
    progress.begin(in_total);
    let (mut deleted, mut after) = (0, 0);
    while let Some((count, last)) = dead_letters.purge(filter, after, CHUNK, job).await? {
        (deleted, after) = (deleted + count, last);
        progress.advance(count)?;
    }
    Ok(deleted)
}
