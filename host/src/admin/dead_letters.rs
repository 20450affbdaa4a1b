//! `/v1/tenants/{name}/dead-letters`: a tenant's dead letters, and long work on them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Role;
use super::answers::{OfChange, OfStoredLook};
use super::audit::Told;
use super::extract::{Body, Path, Query};
use super::problem::{bad, limit};
use super::{Access, Api, Problem};
use crate::config::TenantName;
use crate::dead_letters::view::{CauseView, Disclosure, JobView, LetterView};
use crate::dead_letters::{Age, Digits, Moment, PurgeRequest, ReplayRequest, Text, Which, Work};
use crate::store::{DeadLetterStore, Filter, NewJob};

/// How long a search may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a search waits for others.
const TURN: Duration = Duration::from_secs(5);
/// The longest that a job may wait for what somebody else holds.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(summary))
        .routes(routes!(show))
        .routes(routes!(replay))
        .routes(routes!(purge))
}

#[derive(Debug, Serialize, ToSchema)]
struct LetterList {
    /// The newest first.
    dead_letters: Vec<LetterView>,
    /// What to ask for the next page with, if there may be one.
    next_before_id: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct CauseList {
    /// The most frequent first. A letter counts for each of its violations.
    causes: Vec<CauseView>,
}

/// Which letters, for a query. The conditions are those of a job's `filter`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// With this number.
    id: Option<i64>,
    /// With this reason: rejected, undecodable, trapped, …
    #[param(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    reason: Option<Text>,
    /// With a violation of this code.
    #[param(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    code: Option<Text>,
    /// From this stream.
    #[param(value_type = Option<String>, max_length = 1000, pattern = r"^[^\u0000]*$")]
    stream: Option<Text>,
    /// Judged by this version of the rules, or this component, by its first digits.
    #[param(value_type = Option<String>, pattern = "^[0-9a-fA-F]{1,64}$")]
    guest: Option<Digits>,
    /// Older than this: 30s, 15m, 12h, 7d.
    #[param(value_type = Option<String>, example = "7d", pattern = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$")]
    older: Option<Age>,
    /// Not older than this.
    #[param(value_type = Option<String>, example = "12h", pattern = "^([0-9]{1,9}s|[0-9]{1,7}m|[0-9]{1,5}h|[0-9]{1,4}d)$")]
    newer: Option<Age>,
    /// Recorded before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    before: Option<Moment>,
    /// Recorded at this time or later.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Moment>,
    /// Those too that a replay has settled.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    settled: bool,
    /// Only letters with numbers below this one: `next_before_id` of the page before.
    before_id: Option<i64>,
    /// How many, at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

impl Asked {
    fn filter(self, tenant: &TenantName) -> Filter {
        let Self { id, reason, code, stream, guest, older, newer, before, since, settled, before_id, .. } =
            self;
        let which = Which { id, reason, code, stream, guest, older, newer, before, since };
        Filter { before_id, ..which.filter(Some(tenant.as_str()), !settled) }
    }
}

/// Searches among letters, and holds the right to. A few search at the same time, whoever asks.
struct Search {
    dead_letters: DeadLetterStore,
    _permit: OwnedSemaphorePermit,
}

impl Search {
    async fn new(api: &Api) -> Result<Self, Problem> {
        let turn = tokio::time::timeout(TURN, api.searches.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            let detail = "others search among dead letters; try again when they are done";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        };
        let dead_letters = DeadLetterStore::new(&api.sources()?.database).within(PATIENCE);
        Ok(Self { dead_letters, _permit: permit })
    }
}

/// Lists letters, the newest first, without the fields of their entries. Messages of violations are for operators.
#[utoipa::path(
    get, path = "/tenants/{name}/dead-letters", tag = "dead letters",
    params(("name" = String, Path, description = "The tenant's name"), Asked),
    responses((status = 200, description = "The letters", body = LetterList), OfStoredLook)
)]
async fn list(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<LetterList>, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let limit = limit(asked.limit)?;
    let search = Search::new(&api).await?;
    let letters = search.dead_letters.newest_in_brief(&asked.filter(&tenant.config.name), limit).await?;
    let disclosure = if access.has(Role::Operator) { Disclosure::Messages } else { Disclosure::Names };
    let next_before_id = super::next_page(letters.iter().map(|letter| letter.id), limit);
    let dead_letters = letters.iter().map(|letter| LetterView::new(letter, disclosure)).collect();
    Ok(Json(LetterList { dead_letters, next_before_id }))
}

/// Counts letters by their cause.
#[utoipa::path(
    get, path = "/tenants/{name}/dead-letters/summary", tag = "dead letters",
    params(("name" = String, Path, description = "The tenant's name"), Asked),
    responses((status = 200, description = "The causes", body = CauseList), OfStoredLook)
)]
async fn summary(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<CauseList>, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let limit = limit(asked.limit)?;
    let search = Search::new(&api).await?;
    let causes = search.dead_letters.causes(&asked.filter(&tenant.config.name), limit).await?;
    Ok(Json(CauseList { causes: causes.iter().map(CauseView::new).collect() }))
}

/// Shows one letter: to operators with the fields of its entry and the messages of its violations, to viewers without.
#[utoipa::path(
    get, path = "/tenants/{name}/dead-letters/{id}", tag = "dead letters",
    params(
        ("name" = String, Path, description = "The tenant's name"),
        ("id" = i64, Path, description = "The letter's number"),
    ),
    responses((status = 200, description = "The letter", body = LetterView), OfStoredLook)
)]
async fn show(
    State(api): State<Api>,
    access: Access,
    Path((name, id)): Path<(String, i64)>,
) -> Result<Json<LetterView>, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let search = Search::new(&api).await?;
    let tenant = Some(tenant.config.name.to_string());
    let letter = search.dead_letters.letter(&Filter { id: Some(id), tenant, ..Filter::default() }).await?;
    let letter = letter.ok_or_else(|| Problem::not_found("the tenant has no such dead letter"))?;
    let disclosure = if access.has(Role::Operator) { Disclosure::All } else { Disclosure::Names };
    Ok(Json(LetterView::new(&letter, disclosure)))
}

/// What a job is answered with.
type Accepted = (StatusCode, [(HeaderName, String); 1], axum::Extension<Told>, Json<JobView>);

/// Has letters judged again by the rules in force, as a job. `force` is for admins.
#[utoipa::path(
    post, path = "/tenants/{name}/dead-letters/replay", tag = "dead letters",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = ReplayRequest,
    responses(
        (status = 202, description = "The job", body = JobView, headers(("location" = String, description = "Where it is"))),
        OfChange,
    )
)]
async fn replay(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Body(asked): Body<ReplayRequest>,
) -> Result<Accepted, Problem> {
    if asked.wait.is_some_and(|Age(wait)| wait > MAX_WAIT) {
        return Err(bad("wait: wanted an hour at most"));
    }
    ask(&api, &access, &name, &Work::Replay(asked)).await
}

/// Has letters deleted, as a job. Without any condition `all` must be true, and that is for admins.
#[utoipa::path(
    post, path = "/tenants/{name}/dead-letters/purge", tag = "dead letters",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = PurgeRequest,
    responses(
        (status = 202, description = "The job", body = JobView, headers(("location" = String, description = "Where it is"))),
        OfChange,
    )
)]
async fn purge(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Body(asked): Body<PurgeRequest>,
) -> Result<Accepted, Problem> {
    if asked.filter.is_everything() && !asked.all && !asked.dry_run {
        return Err(bad(
            "a purge without a condition deletes every dead letter of the tenant; set \"all\" to true if that is meant",
        ));
    }
    ask(&api, &access, &name, &Work::Purge(asked)).await
}

async fn ask(api: &Api, access: &Access, name: &str, work: &Work) -> Result<Accepted, Problem> {
    let tenant = api.tenant(access, name)?;
    allow(access, work)?;
    let request = work.to_json().map_err(|error| bad(error.to_string()))?;
    let new =
        NewJob { tenant: &tenant.config.name, kind: work.kind(), request: &request, author: access.name() };
    let job = api.sources()?.database.ask_for_job(&new).await?.ok_or_else(too_many)?;
    let told = Told { tenant: None, detail: format!("job {}: {} {request}", job.id, job.kind) };
    let location = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, location, axum::Extension(told), Json(JobView::new(&job))))
}

/// Refuses who may not have this work done.
pub(super) fn allow(access: &Access, work: &Work) -> Result<(), Problem> {
    access.require(if work.is_drastic() { Role::Admin } else { Role::Operator })
}

/// Says that the tenant's queue is full.
pub(super) fn too_many() -> Problem {
    let detail = "the tenant has too many jobs that have not ended; wait for some, or cancel them";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
}
