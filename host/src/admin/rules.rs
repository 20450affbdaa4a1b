//! `/v1/tenants/{name}/rules`: versions of a tenant's rules, and what is wanted of them.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Access, Api, Problem};
use crate::config::Tenant;
use crate::rules::deploy::{Error, Operator};
use crate::rules::view::{DeploymentView, StatusView, VersionView};

/// How many rows a list has that does not say how many.
const LIMIT: u32 = 20;
/// How many rows a list may have.
const MAX_LIMIT: u32 = 1_000;
/// How long a message may be.
const MAX_MESSAGE_BYTES: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(versions))
        .routes(routes!(version))
        .routes(routes!(history, deploy))
        .routes(routes!(rollback))
        .routes(routes!(pause))
        .routes(routes!(resume))
}

#[derive(Debug, Serialize, ToSchema)]
struct VersionList {
    /// The newest first.
    versions: Vec<VersionView>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeploymentList {
    /// The newest first.
    deployments: Vec<DeploymentView>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// How many, at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Deploy {
    /// Why, for the history.
    #[param(max_length = 1000)]
    message: Option<String>,
    /// What the rules read by `wasi:config`, as a JSON object of text; those of the tenant without it.
    settings: Option<String>,
}

/// Why something is to be done, and with what.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Why, for the history.
    #[schema(max_length = 1000)]
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// The first digits of the version; the one before the present one without it.
    #[schema(min_length = 4, max_length = 64, pattern = "^[0-9a-fA-F]+$")]
    version: Option<String>,
    /// Why, for the history.
    #[schema(max_length = 1000)]
    message: Option<String>,
}

/// What a handler needs of the service, for one tenant.
struct Scope {
    api: Api,
    tenant: Tenant,
    author: String,
    message: String,
}

impl Scope {
    fn new(api: Api, access: &Access, name: &str, message: Option<String>) -> Result<Self, Problem> {
        let tenant = api.tenant(access, name)?.config.clone();
        let message = message.unwrap_or_default();
        if message.len() > MAX_MESSAGE_BYTES || message.contains('\0') {
            return Err(bad(format!("message: wanted {MAX_MESSAGE_BYTES} bytes at most, none of them zero")));
        }
        Ok(Self { api, tenant, author: access.name().to_owned(), message })
    }

    fn operator(&self) -> Result<Operator<'_>, Problem> {
        let sources = self.api.sources()?;
        Ok(Operator {
            database: &sources.database,
            tenant: &self.tenant,
            author: self.author.clone(),
            message: self.message.clone(),
        })
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Unknown { .. } | Error::UnknownTenant { .. } => StatusCode::NOT_FOUND,
            Error::FileRules { .. } | Error::NoneBefore { .. } | Error::Ambiguous { .. } => {
                StatusCode::CONFLICT
            }
            Error::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::WhichTenant { .. } => StatusCode::BAD_REQUEST,
            Error::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Sandbox(_) | Error::Panicked(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

fn limit(asked: Limit) -> Result<u32, Problem> {
    let limit = asked.limit.unwrap_or(LIMIT);
    match (1..=MAX_LIMIT).contains(&limit) {
        true => Ok(limit),
        false => Err(bad(format!("limit is {limit}; wanted 1 to {MAX_LIMIT}"))),
    }
}

fn digits(text: &str) -> Result<String, Problem> {
    match (4..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(bad("wanted the first 4 to 64 hexadecimal digits of a version")),
    }
}

/// Shows what is wanted, and what each replica has in force.
#[utoipa::path(
    get, path = "/tenants/{name}/rules", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    responses(
        (status = 200, description = "Where the tenant's rules are", body = StatusView),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem),
    )
)]
async fn status(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
) -> Result<Json<StatusView>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    Ok(Json(StatusView::new(&scope.operator()?.status().await?, None)))
}

/// Lists versions.
#[utoipa::path(
    get, path = "/tenants/{name}/rules/versions", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name"), Limit),
    responses(
        (status = 200, description = "The versions", body = VersionList), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem),
    )
)]
async fn versions(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Limit>,
) -> Result<Json<VersionList>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    let versions = scope.operator()?.versions(limit(asked)?).await?;
    Ok(Json(VersionList { versions: versions.iter().map(VersionView::new).collect() }))
}

/// Shows a version: its settings, grants and limits.
#[utoipa::path(
    get, path = "/tenants/{name}/rules/versions/{version}", tag = "rules",
    params(
        ("name" = String, Path, description = "The tenant's name"),
        ("version" = String, Path, description = "The first digits of the version"),
    ),
    responses(
        (status = 200, description = "The version", body = VersionView), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem),
    )
)]
async fn version(
    State(api): State<Api>,
    access: Access,
    Path((name, version)): Path<(String, String)>,
) -> Result<Json<VersionView>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    Ok(Json(VersionView::new(&scope.operator()?.version(&digits(&version)?).await?)))
}

/// Lists what happened to the tenant's rules.
#[utoipa::path(
    get, path = "/tenants/{name}/rules/deployments", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name"), Limit),
    responses(
        (status = 200, description = "The history", body = DeploymentList), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem), (status = 503, body = Problem),
    )
)]
async fn history(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Limit>,
) -> Result<Json<DeploymentList>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    let deployments = scope.operator()?.history(limit(asked)?).await?;
    Ok(Json(DeploymentList { deployments: deployments.iter().map(DeploymentView::new).collect() }))
}

/// Puts a component into force on all replicas.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/deployments", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name"), Deploy),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "The component"),
    responses(
        (status = 200, description = "It is deployed", body = StatusView), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "A file rules", body = Problem),
        (status = 413, description = "It is larger than GUEST_COMPONENT", body = Problem),
        (status = 422, description = "It is refused", body = Problem), (status = 503, body = Problem),
    )
)]
async fn deploy(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(Deploy { message, settings }): Query<Deploy>,
    body: Body,
) -> Result<Json<StatusView>, Problem> {
    let scope = Scope::new(api, &access, &name, message)?;
    let settings = settings.map(|text| serde_json::from_str::<BTreeMap<String, String>>(&text)).transpose();
    let settings =
        settings.map_err(|error| bad(format!("settings: {error}; wanted a JSON object of text")))?;
    // One body at a time is in memory.
    let _permit = scope.api.deploys.acquire().await.map_err(|_| bad("the service ends"))?;
    let limit = scope.tenant.guest_component.bytes();
    let bytes = to_bytes(body, limit).await.map_err(|_| {
        let detail = format!("the body is cut off, or has more than {limit} bytes (GUEST_COMPONENT)");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    })?;
    let operator = scope.operator()?;
    let engine = &scope.api.sources()?.engine;
    let deployed = operator.deploy(engine, bytes.into(), "the admin API".to_owned(), settings).await?;
    Ok(Json(StatusView::new(&operator.status().await?, Some(&deployed))))
}

/// Puts an earlier version into force again, with the grants that the settings give now.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/rollback", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Rollback>,
    responses(
        (status = 200, description = "It is deployed", body = StatusView), (status = 400, body = Problem),
        (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem), (status = 404, body = Problem),
        (status = 409, description = "There is none, or a file rules", body = Problem),
        (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, description = "It is refused, or the body is another", body = Problem),
        (status = 503, body = Problem),
    )
)]
async fn rollback(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Json<Option<Rollback>>>,
) -> Result<Json<StatusView>, Problem> {
    let Rollback { version, message } = asked.and_then(|Json(asked)| asked).unwrap_or_default();
    let scope = Scope::new(api, &access, &name, message)?;
    let version = version.as_deref().map(digits).transpose()?;
    let operator = scope.operator()?;
    let deployed = operator.rollback(version.as_deref()).await?;
    Ok(Json(StatusView::new(&operator.status().await?, Some(&deployed))))
}

/// Has every replica read no more; what was read is committed.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/pause", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Change>,
    responses(
        (status = 200, description = "Nothing more is to be read", body = StatusView),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem),
    )
)]
async fn pause(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Json<Option<Change>>>,
) -> Result<Json<StatusView>, Problem> {
    let message = asked.and_then(|Json(asked)| asked?.message);
    read_or_not(Scope::new(api, &access, &name, message)?, true).await
}

/// Has every replica read again.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/resume", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Change>,
    responses(
        (status = 200, description = "Entries are to be read", body = StatusView),
        (status = 400, body = Problem), (status = 401, body = Problem), (status = 403, body = Problem), (status = 500, body = Problem),
        (status = 404, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem),
        (status = 422, body = Problem), (status = 503, body = Problem),
    )
)]
async fn resume(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Json<Option<Change>>>,
) -> Result<Json<StatusView>, Problem> {
    let message = asked.and_then(|Json(asked)| asked?.message);
    read_or_not(Scope::new(api, &access, &name, message)?, false).await
}

async fn read_or_not(scope: Scope, is_to_pause: bool) -> Result<Json<StatusView>, Problem> {
    let operator = scope.operator()?;
    operator.pause(is_to_pause).await?;
    Ok(Json(StatusView::new(&operator.status().await?, None)))
}
