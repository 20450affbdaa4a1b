//! Records who has asked for a change and what came of it, and shows that: `/v1/audit`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Role;
use super::answers::OfStoredLook;
use super::extract::Query;
use super::problem::limit;
use super::{Access, Api, Problem};
use crate::audit;
use crate::config::TenantName;
use crate::rules::view::second;
use crate::store::{AuditRow, NewAudit};

/// The refused requests of a minute that are recorded, each in a row.
const MAX_REFUSALS: u32 = 60;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// What a handler tells of a change, beside its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The tenant, where the path does not name it.
    pub(super) tenant: Option<String>,
    pub(super) detail: String,
}

/// Bounds the rows for requests that were refused, so that a flood of them fills no table.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Window>);

#[derive(Default)]
struct Window {
    begun: Option<Instant>,
    recorded: u32,
    left_out: u64,
}

impl Refusals {
    /// Returns whether there is room for a row, and if so how many requests had none since the last one.
    fn room(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock();
        if window.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= Duration::from_secs(60)) {
            (window.begun, window.recorded) = (Some(now), 0);
        }
        if window.recorded >= MAX_REFUSALS {
            window.left_out += 1;
            return None;
        }
        window.recorded += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

/// A request for a change, as it is recorded.
struct Asked {
    author: String,
    action: String,
    tenant: Option<String>,
    target: String,
}

impl Asked {
    fn new(access: &Access, request: &Request) -> Self {
        let path = request.uri().path();
        let route = request.extensions().get::<MatchedPath>().map_or(path, MatchedPath::as_str);
        let tenant = path.strip_prefix("/v1/tenants/").and_then(|rest| rest.split('/').next());
        let tenant = tenant.and_then(TenantName::new).filter(|tenant| access.sees(tenant));
        Self {
            author: access.name().to_owned(),
            action: format!("{} {route}", request.method()),
            tenant: tenant.map(|tenant| tenant.to_string()),
            target: path.to_owned(),
        }
    }
}

/// Has a change made, by whoever may, and records it. It is done and recorded as a whole even if the caller hangs up.
pub(super) async fn change(
    api: Api,
    access: Access,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&api.changes).try_acquire_owned().map_err(|_| {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many changes are being made; try again when some are done",
        )
    })?;
    let asked = Asked::new(&access, &request);
    let work = tokio::spawn(async move {
        let _permit = permit;
        let mut response = match access.require(Role::Operator) {
            Ok(()) => {
                tracing::info!(
                    by = asked.author,
                    action = asked.action,
                    path = asked.target,
                    "asked to change something"
                );
                next.run(request).await
            }
            Err(problem) => problem.into_response(),
        };
        record(&api, &asked, &mut response).await;
        response
    });
    work.await.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the change ended in a panic: this is a defect")
    })
}

async fn record(api: &Api, asked: &Asked, response: &mut Response) {
    let Some(sources) = &api.sources else { return };
    let told = response.extensions_mut().remove::<Told>().unwrap_or_default();
    let status = response.status();
    let (outcome, left_out) = match status {
        status if status.is_server_error() => ("failed", 0),
        status if status.is_client_error() => match api.refusals.room(Instant::now()) {
            Some(left_out) => ("refused", left_out),
            None => return,
        },
        _ => ("done", 0),
    };
    let detail = match left_out {
        0 => told.detail,
        left_out => {
            format!("{} ({left_out} refused requests before this one were not recorded)", told.detail)
        }
    };
    let new = NewAudit {
        via: "api",
        author: &asked.author,
        action: &asked.action,
        tenant: told.tenant.as_deref().or(asked.tenant.as_deref()),
        target: &asked.target,
        outcome,
        status: Some(status.as_u16()),
        detail: &detail,
    };
    if let Err(error) = audit::record(&sources.database, &new).await {
        let Asked { author, action, target, .. } = asked;
        tracing::error!(by = author, action, path = target, outcome, status = status.as_u16(), "{error}");
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asking {
    /// How many, at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Only rows with numbers below this one: `next_before_id` of the page before.
    before_id: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AuditList {
    /// The newest first.
    audit: Vec<AuditView>,
    /// What to ask for the next page with, if there may be one.
    next_before_id: Option<i64>,
}

/// A change that somebody has asked for.
#[derive(Debug, Serialize, ToSchema)]
struct AuditView {
    id: i64,
    #[schema(format = DateTime)]
    at: String,
    /// `api` or `command`.
    #[schema(example = "api")]
    via: String,
    /// The name of a token, or of a user; `local` where no token is wanted.
    by: String,
    #[schema(example = "POST /v1/tenants/{name}/rules/pause")]
    action: String,
    tenant: Option<String>,
    /// The path, or what the command was about.
    target: String,
    /// `done`, `refused` or `failed`.
    #[schema(example = "done")]
    outcome: String,
    /// Of the API's answer.
    status: Option<i32>,
    detail: String,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, at, via, author, action, tenant, target, outcome, status, detail } = row;
        Self { id, at: second(at), via, by: author, action, tenant, target, outcome, status, detail }
    }
}

/// Lists who has changed what, or was refused. An admin of some tenants sees what was about them.
#[utoipa::path(
    get, path = "/audit", tag = "audit", params(Asking),
    responses((status = 200, description = "The rows", body = AuditList), OfStoredLook)
)]
async fn list(
    State(api): State<Api>,
    access: Access,
    Query(asked): Query<Asking>,
) -> Result<Json<AuditList>, Problem> {
    access.require(Role::Admin)?;
    let limit = limit(asked.limit)?;
    let tenants = access.tenants();
    let rows = api.sources()?.database.audit(tenants.as_deref(), asked.before_id, limit).await?;
    let next_before_id = super::next_page(rows.iter().map(|row| row.id), limit);
    Ok(Json(AuditList { audit: rows.into_iter().map(AuditView::from).collect(), next_before_id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_has_a_bound_and_is_counted() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let found: Vec<_> = (0..100).filter_map(|_| refusals.room(now)).collect();
        assert_eq!(found, vec![0; 60]);
        let later = now + Duration::from_secs(60);
        assert_eq!((refusals.room(later), refusals.room(later)), (Some(40), Some(0)));
    }
}
