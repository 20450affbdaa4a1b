//! `/v1/jobs`: long work on dead letters.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::{OfChange, OfStoredLook};
use super::audit::Told;
use super::dead_letters::{allow, too_many};
use super::extract::{Path, Query};
use super::problem::{bad, limit};
use super::{Access, Api, Problem};
use crate::dead_letters::Work;
use crate::dead_letters::view::JobView;
use crate::store::{Job, JobFilter, JobState, Resumed};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(resume))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Of this tenant.
    tenant: Option<String>,
    /// In this state.
    #[param(pattern = "^(queued|running|done|failed|cancelled)$")]
    state: Option<String>,
    /// Only jobs with numbers below this one: `next_before_id` of the page before.
    before_id: Option<i64>,
    /// How many, at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
struct JobList {
    /// The newest first.
    jobs: Vec<JobView>,
    /// What to ask for the next page with, if there may be one.
    next_before_id: Option<i64>,
}

/// Lists the jobs of the tenants that the caller may see.
#[utoipa::path(
    get, path = "/jobs", tag = "jobs", params(Asked),
    responses((status = 200, description = "The jobs", body = JobList), OfStoredLook)
)]
async fn list(
    State(api): State<Api>,
    access: Access,
    Query(asked): Query<Asked>,
) -> Result<Json<JobList>, Problem> {
    let limit = limit(asked.limit)?;
    let state = asked.state.map(|state| state.parse::<JobState>());
    let state = state
        .transpose()
        .map_err(|_| bad("state: wanted one of queued, running, done, failed and cancelled"))?;
    let tenants = match &asked.tenant {
        Some(name) => vec![api.tenant(&access, name)?.config.name.to_string()],
        None => visible(&api, &access),
    };
    let filter = JobFilter { id: None, tenants, state, before_id: asked.before_id };
    let jobs = api.sources()?.database.jobs(&filter, limit).await?;
    let next_before_id = super::next_page(jobs.iter().map(|job| job.id), limit);
    Ok(Json(JobList { jobs: jobs.iter().map(JobView::new).collect(), next_before_id }))
}

/// Shows a job, and how far it is.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "jobs",
    params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, description = "The job", body = JobView), OfStoredLook)
)]
async fn show(State(api): State<Api>, access: Access, Path(id): Path<i64>) -> Result<Json<JobView>, Problem> {
    Ok(Json(JobView::new(&find(&api, &access, id).await?)))
}

/// Cancels a job. What is done stays done, and nothing more is done from now on.
#[utoipa::path(
    post, path = "/jobs/{id}/cancel", tag = "jobs",
    params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, description = "It is cancelled", body = JobView), OfChange)
)]
async fn cancel(
    State(api): State<Api>,
    access: Access,
    Path(id): Path<i64>,
) -> Result<(Extension<Told>, Json<JobView>), Problem> {
    let job = find(&api, &access, id).await?;
    let cancelled = api.sources()?.database.cancel_job(id).await?;
    cancelled.map(|job| changed(&job)).ok_or_else(|| conflict(&job, "cancelled", "queued or running"))
}

/// Has a job that was cancelled, or has failed, go on where it was. This is for those who could ask for it.
#[utoipa::path(
    post, path = "/jobs/{id}/resume", tag = "jobs",
    params(("id" = i64, Path, description = "The job's number")),
    responses((status = 200, description = "It is in the queue", body = JobView), OfChange)
)]
async fn resume(
    State(api): State<Api>,
    access: Access,
    Path(id): Path<i64>,
) -> Result<(Extension<Told>, Json<JobView>), Problem> {
    let job = find(&api, &access, id).await?;
    let work = Work::parse(&job.kind, &job.request);
    allow(&access, &work.map_err(|error| Problem::new(StatusCode::CONFLICT, error))?)?;
    match api.sources()?.database.resume_job(&job).await? {
        Resumed::Queued(job) => Ok(changed(&job)),
        Resumed::QueueFull => Err(too_many()),
        Resumed::NotStopped => Err(conflict(&job, "resumed", "cancelled or failed")),
    }
}

/// Returns a job of a tenant that the caller may see. Another one is as if it were not there.
async fn find(api: &Api, access: &Access, id: i64) -> Result<Job, Problem> {
    let filter = JobFilter { id: Some(id), tenants: visible(api, access), ..JobFilter::default() };
    let found = api.sources()?.database.jobs(&filter, 1).await?.pop();
    found.ok_or_else(|| Problem::not_found("no such job"))
}

fn visible(api: &Api, access: &Access) -> Vec<String> {
    api.visible(access).iter().map(|tenant| tenant.config.name.to_string()).collect()
}

fn changed(job: &Job) -> (Extension<Told>, Json<JobView>) {
    let told = Told { tenant: Some(job.tenant.clone()), detail: format!("job {}: {}", job.id, job.kind) };
    (Extension(told), Json(JobView::new(job)))
}

fn conflict(job: &Job, done: &str, wanted: &str) -> Problem {
    let detail =
        format!("a job that is {} cannot be {done}; wanted one that is {wanted}", job.state.as_str());
    Problem::new(StatusCode::CONFLICT, detail)
}
