//! The tenants of this process, as those who watch the service see them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::Mutex;

use crate::config::{Tenant, TenantName};
use crate::metrics::Counters;
use crate::stream::{Backlog, GroupMonitor};
use crate::tap::Tap;
use sluicegate_verdicts::EntryId;

/// What was found in Redis is the answer for so long, whoever asks.
const FRESH: Duration = Duration::from_secs(1);
/// How long Redis may take to answer, before what it would say counts as unknown.
const LOOK_TIMEOUT: Duration = Duration::from_millis(900);

/// All tenants of this process, which may come and go.
#[derive(Clone, Default)]
pub(crate) struct Tenants(Arc<RwLock<BTreeMap<TenantName, Arc<Observed>>>>);

/// Keeps a tenant in the list until it is dropped.
#[must_use = "the tenant is in the list for as long as this is kept"]
pub(crate) struct Registration {
    tenants: Tenants,
    observed: Arc<Observed>,
    stays: bool,
}

impl Registration {
    /// Leaves the tenant in the list, so that the last metrics have it.
    pub(crate) fn stay(mut self) {
        self.stays = true;
    }
}

impl Tenants {
    /// Adds a tenant, in the place of another of its name.
    pub(crate) fn add(&self, observed: Observed) -> Registration {
        let observed = Arc::new(observed);
        self.0.write().insert(observed.config.name.clone(), Arc::clone(&observed));
        Registration { tenants: self.clone(), observed, stays: false }
    }

    /// Returns all tenants, in the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<Observed>> {
        self.0.read().values().cloned().collect()
    }

    /// Returns the settings of all tenants.
    pub(crate) fn configs(&self) -> Vec<Tenant> {
        self.0.read().values().map(|tenant| tenant.config.clone()).collect()
    }

    pub(super) fn get(&self, name: &TenantName) -> Option<Arc<Observed>> {
        self.0.read().get(name).cloned()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let mut tenants = self.tenants.0.write();
        let name = &self.observed.config.name;
        if tenants.get(name).is_some_and(|found| Arc::ptr_eq(found, &self.observed)) {
            tenants.remove(name);
        }
    }
}

/// A tenant, and what can be told of it.
pub(crate) struct Observed {
    pub(super) config: Tenant,
    pub(super) counters: Arc<Counters>,
    pub(super) since: Instant,
    pub(super) tap: Arc<Tap>,
    monitor: GroupMonitor,
    last: Mutex<Option<Look>>,
}

/// What a look in Redis has found.
#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    found: Found,
    /// The ID that was delivered last when there was first more to deliver, and when that was.
    stuck: Option<(EntryId, Instant)>,
}

/// What is known of a group.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    /// `None` if Redis did not tell, or there is no group.
    pub(super) backlog: Option<Backlog>,
    /// For how long there has been something to deliver, and nobody was given it.
    pub(super) stuck_for: Duration,
}

impl Observed {
    pub(crate) fn new(config: Tenant, counters: Arc<Counters>, tap: Arc<Tap>, monitor: GroupMonitor) -> Self {
        Self { config, counters, since: Instant::now(), tap, monitor, last: Mutex::new(None) }
    }

    /// Returns what the group has before it, as a look of this second has found it. There is one
    /// look at a time, and all who ask meanwhile get what it finds.
    pub(super) async fn look(&self) -> Found {
        let mut last = self.last.lock().await;
        if let Some(look) = last.filter(|look| look.at.elapsed() < FRESH) {
            return look.found;
        }
        let backlog = match tokio::time::timeout(LOOK_TIMEOUT, self.monitor.backlog()).await {
            Ok(Ok(backlog)) => backlog,
            Ok(Err(error)) => {
                tracing::debug!(tenant = %self.config.name, %error, "what is left to do is unknown");
                None
            }
            Err(_) => None,
        };
        let stuck = stuck_since(backlog, last.and_then(|look| look.stuck));
        let stuck_for = stuck.map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let found = Found { backlog, stuck_for };
        *last = Some(Look { at: Instant::now(), found, stuck });
        found
    }
}

/// Returns since when nothing was delivered although there was something to deliver.
fn stuck_since(backlog: Option<Backlog>, before: Option<(EntryId, Instant)>) -> Option<(EntryId, Instant)> {
    // Without an answer it is not known whether that has changed.
    let Some(backlog) = backlog else { return before };
    let last = backlog.last_delivered;
    let still = before.filter(|(id, _)| *id == last);
    backlog.has_undelivered.then(|| still.unwrap_or((last, Instant::now())))
}

/// Looks for all of these tenants at the same time, which takes hardly longer than for one.
pub(super) async fn look_for_all(tenants: &[Arc<Observed>]) -> Vec<Found> {
    futures_util::future::join_all(tenants.iter().map(|tenant| tenant.look())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(last_delivered: u64, has_undelivered: bool) -> Option<Backlog> {
        let last_delivered = EntryId { milliseconds: last_delivered, sequence: 0 };
        Some(Backlog { length: 9, pending: 0, lag: None, last_delivered, oldest: None, has_undelivered })
    }

    #[test]
    fn a_group_is_stuck_while_nothing_is_delivered() {
        let first = stuck_since(backlog(5, true), None).expect("there is something to deliver");
        assert_eq!(stuck_since(backlog(5, true), Some(first)), Some(first), "nothing was delivered");
        assert_eq!(stuck_since(None, Some(first)), Some(first), "redis did not answer");
        let next = stuck_since(backlog(6, true), Some(first)).expect("there is more");
        assert!(next.0 > first.0 && next.1 >= first.1, "something was delivered");
        assert_eq!(stuck_since(backlog(6, false), Some(next)), None);
        assert_eq!(stuck_since(None, None), None);
    }
}
