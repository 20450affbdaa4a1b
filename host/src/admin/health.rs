//! `/livez` and `/readyz`, for whoever starts the service and sends it work.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::answers::OfAnyPage;
use super::registry::{Found, Observed, look_for_all};
use crate::config::Tenant;
use crate::metrics::{Dependency, Totals};

/// A server may be away for so long without any fuss: it is being started again.
const SHORT_WAIT: Duration = Duration::from_secs(5);

/// Tells that the process runs. No tenant's trouble shows here: starting it again would help none.
#[utoipa::path(
    get, path = "/livez", tag = "health", security(()),
    responses((status = 200, description = "The process runs", body = String, content_type = "text/plain"), OfAnyPage)
)]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether all tenants make progress.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// The tenants that make none, and should.
    not_ready: Vec<Trouble>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Trouble {
    tenant: String,
    #[schema(example = "waiting for postgres")]
    reason: String,
}

/// Tells whether every tenant that has something to do makes progress.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, description = "All tenants make progress", body = Readiness),
        (status = 503, description = "Some should, and do not", body = Readiness),
        OfAnyPage,
    )
)]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let tenants = api.figures.tenants();
    let found = look_for_all(&tenants).await;
    let trouble = |(tenant, found): (&Arc<Observed>, Found)| {
        let reason = trouble(&tenant.counters.now(), &tenant.config, found)?;
        Some(Trouble { tenant: tenant.config.name.to_string(), reason })
    };
    let not_ready: Vec<Trouble> = tenants.iter().zip(found).filter_map(trouble).collect();
    let status = if not_ready.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready: not_ready.is_empty(), not_ready }))
}

/// Returns why a tenant makes no progress, if it should make some.
pub(super) fn trouble(totals: &Totals, config: &Tenant, found: Found) -> Option<String> {
    let servers = [Dependency::Redis, Dependency::Postgres];
    let longest =
        servers.iter().filter_map(|server| totals.waiting_since(*server)).map(|since| since.elapsed()).max();
    if longest.is_some_and(|longest| longest > SHORT_WAIT) {
        return Some(totals.state().to_owned());
    }
    if !totals.has_started() {
        return Some(totals.state().to_owned());
    }
    // Somebody wants it to make none.
    if totals.is_paused() {
        return None;
    }
    // Whatever takes longer has lost its entries to another consumer.
    let patience = config.claim_min_idle.0 + config.partial_batch_delay.0;
    let in_flight = totals.in_flight();
    if in_flight > 0 && totals.without_progress().is_some_and(|for_| for_ > patience) {
        return Some(format!(
            "{in_flight} entries are in flight, and no batch has ended for {}",
            seconds(patience)
        ));
    }
    if found.stuck_for > patience {
        return Some(format!("entries wait in the stream, and none was delivered for {}", seconds(patience)));
    }
    None
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counters;

    fn reason(counters: &Counters, stuck_for: Duration) -> Option<String> {
        trouble(&counters.now(), &Tenant::default(), Found { backlog: None, stuck_for })
    }

    #[test]
    fn a_tenant_with_nothing_to_do_is_ready() {
        let counters = Counters::default();
        assert_eq!(reason(&counters, Duration::ZERO).as_deref(), Some("starting"));
        counters.started();
        assert_eq!(reason(&counters, Duration::ZERO), None);
        counters.delivered(3);
        assert_eq!(reason(&counters, Duration::from_secs(60)), None, "a batch may take so long");
        let reason = reason(&counters, Duration::from_secs(61)).expect("a reason");
        assert_eq!(reason, "entries wait in the stream, and none was delivered for 60.1 s");
    }

    #[test]
    fn a_short_wait_is_no_trouble() {
        let counters = Counters::default();
        counters.started();
        counters.waits_for(Dependency::Postgres, true);
        assert_eq!(reason(&counters, Duration::ZERO), None);
        counters.failed();
        assert_eq!(reason(&counters, Duration::ZERO).as_deref(), Some("failed"));
    }
}
