//! `/v1/scale`: how much is left to do, for those who start and stop replicas.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::OfLook;
use super::registry::{Found, Observed, look_for_all};
use super::{Access, Api};
use crate::metrics::age_of;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(scale))
}

#[derive(Debug, Serialize, ToSchema)]
struct Scale {
    tenants: Vec<TenantScale>,
    /// The sums, the greatest age, and the longest time.
    total: Work,
}

#[derive(Debug, Serialize, ToSchema)]
struct TenantScale {
    name: String,
    #[serde(flatten)]
    work: Work,
}

/// What is left to do. What is not known is null, and never 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
struct Work {
    /// Whether the backlog is known.
    known: bool,
    /// Lag and pending together.
    backlog: Option<u64>,
    /// The age of the oldest entry that is not acknowledged.
    oldest_age_seconds: Option<f64>,
    /// Entries that this replica ended per second, in the last half minute.
    rate: f64,
    /// How long the backlog takes at this rate. It is null where nothing ended lately.
    drain_seconds: Option<f64>,
}

impl Work {
    fn new(tenant: &Observed, found: Found) -> Self {
        let backlog = found.backlog.and_then(|backlog| Some(backlog.lag? + backlog.pending));
        let rate = tenant.counters.now().recent.rate(Instant::now());
        Self {
            known: backlog.is_some(),
            backlog,
            oldest_age_seconds: found.backlog.map(|backlog| age_of(backlog.oldest).as_secs_f64()),
            rate,
            drain_seconds: backlog.and_then(|backlog| drain_seconds(backlog, rate)),
        }
    }

    /// Puts tenants together, each of which is drained by itself. If one is not known, neither is
    /// the whole.
    fn and(self, other: Self) -> Self {
        let backlog = self.backlog.zip(other.backlog).map(|(one, other)| one + other);
        let greater =
            |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(one, other)| one.max(other));
        Self {
            known: backlog.is_some(),
            backlog,
            oldest_age_seconds: greater(self.oldest_age_seconds, other.oldest_age_seconds),
            rate: self.rate + other.rate,
            drain_seconds: greater(self.drain_seconds, other.drain_seconds),
        }
    }

    const NOTHING: Self = Self {
        known: true,
        backlog: Some(0),
        oldest_age_seconds: Some(0.0),
        rate: 0.0,
        drain_seconds: Some(0.0),
    };
}

fn drain_seconds(backlog: u64, rate: f64) -> Option<f64> {
    let backlog = f64::from(u32::try_from(backlog).unwrap_or(u32::MAX));
    match backlog > 0.0 {
        true if rate > 0.0 => Some(backlog / rate),
        true => None,
        false => Some(0.0),
    }
}

/// Tells how much is left to do, for each tenant and in all.
#[utoipa::path(
    get, path = "/scale", tag = "scale",
    responses((status = 200, description = "What is left to do", body = Scale), OfLook)
)]
async fn scale(State(api): State<Api>, access: Access) -> Json<Scale> {
    let tenants = api.visible(&access);
    let found = look_for_all(&tenants).await;
    let scale = |(tenant, found): (&Arc<Observed>, Found)| TenantScale {
        name: tenant.config.name.to_string(),
        work: Work::new(tenant, found),
    };
    let tenants: Vec<TenantScale> = tenants.iter().zip(found).map(scale).collect();
    let total = tenants.iter().map(|tenant| tenant.work).fold(Work::NOTHING, Work::and);
    Json(Scale { tenants, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_makes_the_whole_unknown() {
        let some = Work { backlog: Some(3), rate: 2.0, drain_seconds: Some(1.5), ..Work::NOTHING };
        assert_eq!(Work::NOTHING.and(some).and(some).backlog, Some(6));
        let unknown =
            Work { known: false, backlog: None, oldest_age_seconds: None, rate: 1.0, drain_seconds: None };
        assert_eq!(some.and(unknown), Work { rate: 3.0, ..unknown });
    }

    #[test]
    fn a_backlog_without_a_rate_takes_an_unknown_time() {
        assert_eq!(drain_seconds(0, 0.0), Some(0.0));
        assert_eq!(drain_seconds(10, 0.0), None);
        assert_eq!(drain_seconds(10, 4.0), Some(2.5));
    }
}
