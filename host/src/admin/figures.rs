//! Gathers all metrics: what was counted, and what the servers tell.

use std::sync::Arc;

use super::open_letters::OpenLetters;
use super::registry::{Found, Observed, Tenants, look_for_all};
use crate::metrics::{AllMetrics, Outside, ServiceCounters, TenantMetrics, age_of};
use crate::store::{Database, DeadLetterStore};

/// Where the metrics of all tenants come from.
#[derive(Clone)]
pub(crate) struct Figures {
    pub(super) tenants: Tenants,
    pub(super) open_letters: Arc<OpenLetters>,
    service: Arc<ServiceCounters>,
}

impl Figures {
    pub(crate) fn new(tenants: Tenants, database: &Database, service: Arc<ServiceCounters>) -> Self {
        let open_letters = OpenLetters::new(tenants.clone(), DeadLetterStore::new(database));
        Self { tenants, open_letters: Arc::new(open_letters), service }
    }

    /// Returns the tenants that there are at this moment.
    pub(crate) fn tenants(&self) -> Vec<Arc<Observed>> {
        self.tenants.all()
    }

    /// Returns all metrics of these tenants, for which it asks the servers.
    pub(crate) async fn look(&self, tenants: &[Arc<Observed>]) -> AllMetrics {
        let (found, open_letters) = tokio::join!(look_for_all(tenants), self.open_letters.count());
        let metrics = tenants.iter().zip(found).map(|(tenant, Found { backlog, .. })| {
            let name = tenant.config.name.as_str();
            let outside = Outside {
                backlog,
                oldest_age: backlog.map(|backlog| age_of(backlog.oldest)),
                open_dead_letters: open_letters.get(name).copied(),
            };
            TenantMetrics::new(name, &tenant.counters, outside)
        });
        AllMetrics::new(&self.service, metrics.collect())
    }

    /// Returns what was counted for all tenants, and asks nobody.
    pub(crate) fn counted(&self) -> AllMetrics {
        let tenants = self.tenants();
        let metrics = tenants.iter().map(|tenant| {
            TenantMetrics::new(tenant.config.name.as_str(), &tenant.counters, Outside::default())
        });
        AllMetrics::new(&self.service, metrics.collect())
    }
}
