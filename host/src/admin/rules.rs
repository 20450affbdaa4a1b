//! `/v1/tenants/{name}/rules`: versions of a tenant's rules, and what is wanted of them.

use std::collections::BTreeMap;

use axum::body::{self, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::{OfChange, OfStoredLook};
use super::audit::Told;
use super::extract::{Body, Path, Query};
use super::problem::{CONTENT_TYPE, bad, limit};
use super::{Access, Api, Problem};
use crate::config::Tenant;
use crate::rules::deploy::{Deployed, Error, Operator};
use crate::rules::view::{DeploymentView, StatusView, VersionView};

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
    #[param(max_length = 1000, pattern = r"^[^\u0000]*$")]
    message: Option<String>,
    /// What the rules read by `wasi:config`, as a JSON object of text; those of the tenant without it.
    #[param(
        pattern = r#"^[ \t\n\r]*\{[ \t\n\r]*("([^"\\\u0000-\u001f]|\\["\\/bfnrt])*"[ \t\n\r]*:[ \t\n\r]*"([^"\\\u0000-\u001f]|\\["\\/bfnrt])*"[ \t\n\r]*(,[ \t\n\r]*"([^"\\\u0000-\u001f]|\\["\\/bfnrt])*"[ \t\n\r]*:[ \t\n\r]*"([^"\\\u0000-\u001f]|\\["\\/bfnrt])*"[ \t\n\r]*)*)?\}[ \t\n\r]*$"#
    )]
    settings: Option<String>,
}

/// Why something is to be done, and with what.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Why, for the history.
    #[schema(max_length = 1000, pattern = r"^[^\u0000]*$")]
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rollback {
    /// The first digits of the version; the one before the present one without it.
    #[schema(min_length = 4, max_length = 64, pattern = "^[0-9a-fA-F]+$")]
    version: Option<String>,
    /// Why, for the history.
    #[schema(max_length = 1000, pattern = r"^[^\u0000]*$")]
    message: Option<String>,
}

/// What a deployment is answered with, and recorded as.
type Answer = (Extension<Told>, Json<StatusView>);

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
    responses((status = 200, description = "Where the tenant's rules are", body = StatusView), OfStoredLook)
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
    responses((status = 200, description = "The versions", body = VersionList), OfStoredLook)
)]
async fn versions(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Limit>,
) -> Result<Json<VersionList>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    let versions = scope.operator()?.versions(limit(asked.limit)?).await?;
    Ok(Json(VersionList { versions: versions.iter().map(VersionView::new).collect() }))
}

/// Shows a version: its settings, grants and limits.
#[utoipa::path(
    get, path = "/tenants/{name}/rules/versions/{version}", tag = "rules",
    params(
        ("name" = String, Path, description = "The tenant's name"),
        ("version" = String, Path, description = "The first digits of the version", pattern = "^[0-9a-fA-F]{4,64}$"),
    ),
    responses(
        (status = 200, description = "The version", body = VersionView),
        (status = 409, description = "More than one begins so", body = Problem, content_type = CONTENT_TYPE),
        OfStoredLook,
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
    responses((status = 200, description = "The history", body = DeploymentList), OfStoredLook)
)]
async fn history(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(asked): Query<Limit>,
) -> Result<Json<DeploymentList>, Problem> {
    let scope = Scope::new(api, &access, &name, None)?;
    let deployments = scope.operator()?.history(limit(asked.limit)?).await?;
    Ok(Json(DeploymentList { deployments: deployments.iter().map(DeploymentView::new).collect() }))
}

/// Puts a component into force on all replicas.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/deployments", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name"), Deploy),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "The component"),
    responses((status = 200, description = "It is deployed", body = StatusView), OfChange)
)]
async fn deploy(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    Query(Deploy { message, settings }): Query<Deploy>,
    body: body::Body,
) -> Result<Answer, Problem> {
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
    answer(&operator, &deployed).await
}

/// Puts an earlier version into force again, with the grants that the settings give now.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/rollback", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Rollback>,
    responses((status = 200, description = "It is deployed", body = StatusView), OfChange)
)]
async fn rollback(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Body<Rollback>>,
) -> Result<Answer, Problem> {
    let Rollback { version, message } = asked.map(|Body(asked)| asked).unwrap_or_default();
    let scope = Scope::new(api, &access, &name, message)?;
    let version = version.as_deref().map(digits).transpose()?;
    let operator = scope.operator()?;
    let deployed = operator.rollback(version.as_deref()).await?;
    answer(&operator, &deployed).await
}

/// Tells where the replicas are after a deployment.
async fn answer(operator: &Operator<'_>, deployed: &Deployed) -> Result<Answer, Problem> {
    let told = Told { tenant: None, detail: format!("version {}", deployed.version) };
    Ok((Extension(told), Json(StatusView::new(&operator.status().await?, Some(deployed)))))
}

/// Has every replica read no more; what was read is committed.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/pause", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Change>,
    responses((status = 200, description = "Nothing more is to be read", body = StatusView), OfChange)
)]
async fn pause(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Body<Change>>,
) -> Result<Json<StatusView>, Problem> {
    let message = asked.and_then(|Body(asked)| asked.message);
    read_or_not(Scope::new(api, &access, &name, message)?, true).await
}

/// Has every replica read again.
#[utoipa::path(
    post, path = "/tenants/{name}/rules/resume", tag = "rules",
    params(("name" = String, Path, description = "The tenant's name")),
    request_body = Option<Change>,
    responses((status = 200, description = "Entries are to be read", body = StatusView), OfChange)
)]
async fn resume(
    State(api): State<Api>,
    access: Access,
    Path(name): Path<String>,
    asked: Option<Body<Change>>,
) -> Result<Json<StatusView>, Problem> {
    let message = asked.and_then(|Body(asked)| asked.message);
    read_or_not(Scope::new(api, &access, &name, message)?, false).await
}

async fn read_or_not(scope: Scope, is_to_pause: bool) -> Result<Json<StatusView>, Problem> {
    let operator = scope.operator()?;
    operator.pause(is_to_pause).await?;
    Ok(Json(StatusView::new(&operator.status().await?, None)))
}
