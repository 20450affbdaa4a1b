//! How many dead letters of each tenant are open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::registry::Tenants;
use crate::store::{self, DeadLetterStore};

/// A tenant's letters are counted up to this number, so that a question about many costs little.
pub(crate) const MAX_OPEN_LETTERS: u32 = 10_000;
/// What was counted is the answer for so long, whoever asks.
const FRESH: Duration = Duration::from_secs(10);
/// How long PostgreSQL may take, before what it would say counts as unknown.
const TIMEOUT: Duration = Duration::from_millis(900);

/// Counts the open dead letters, of all tenants at once.
pub(super) struct OpenLetters {
    tenants: Tenants,
    letters: DeadLetterStore,
    last: Mutex<Option<(Instant, BTreeMap<String, u64>)>>,
}

impl OpenLetters {
    pub(super) fn new(tenants: Tenants, letters: DeadLetterStore) -> Self {
        Self { tenants, letters, last: Mutex::default() }
    }

    /// Returns the number of each tenant for which it is known.
    pub(super) async fn count(&self) -> BTreeMap<String, u64> {
        let mut last = self.last.lock().await;
        if let Some((_, counts)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return counts.clone();
        }
        let counts = match tokio::time::timeout(TIMEOUT, self.look()).await {
            Ok(Ok(counts)) => counts.into_iter().collect(),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the number of open dead letters is unknown");
                BTreeMap::new()
            }
            Err(_) => BTreeMap::new(),
        };
        *last = Some((Instant::now(), counts.clone()));
        counts
    }

    async fn look(&self) -> Result<Vec<(String, u64)>, store::Error> {
        if !self.letters.is_prepared() {
            return Ok(Vec::new());
        }
        let names: Vec<String> =
            self.tenants.all().iter().map(|tenant| tenant.config.name.to_string()).collect();
        self.letters.count_open(&names, MAX_OPEN_LETTERS).await
    }
}
