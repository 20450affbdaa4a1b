//! Serves metrics, health and the admin API by HTTP.
//!
//! - `server`: connections, and their limits
//! - `access`: who may ask: tokens with roles, or local callers
//! - `tokens`: the file with tokens
//! - `problem`, `answers`: errors, as RFC 9457 wants them, and which of them a page can answer with
//! - `document`: what the OpenAPI document says of tokens
//! - `extract`: queries, paths and bodies
//! - `audit`: who has asked for a change, and what came of it
//! - `registry`: the tenants, and what each has before it
//! - `open_letters`: how many dead letters each has
//! - `figures`: the metrics of all tenants
//! - `health`, `scrape`: `/livez`, `/readyz` and `/metrics`
//! - `tenants`, `rules`, `scale`, `dead_letters`, `jobs`, `tap`: parts of `/v1`

mod access;
mod answers;
mod audit;
mod dead_letters;
mod document;
mod extract;
mod figures;
mod health;
mod jobs;
mod open_letters;
mod problem;
mod registry;
mod rules;
mod scale;
mod scrape;
mod server;
mod tap;
mod tenants;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::{Config, Listen, TenantName};
use crate::rules::Sources;
use access::{Access, Guard};
use audit::Refusals;
pub(crate) use figures::Figures;
pub(crate) use open_letters::MAX_OPEN_LETTERS;
use problem::Problem;
pub(crate) use registry::{Observed, Tenants};
pub(crate) use tenants::{TenantList, TenantView};
use tokens::Tokens;

/// The most that a request may bring.
const MAX_BODY_BYTES: usize = 256 << 10;
/// The changes that are made at the same time.
const MAX_CHANGES: usize = 64;
/// So many names of tenants are told whoever has asked for another.
const MAX_NAMES_TOLD: usize = 20;
/// The searches among dead letters at the same time.
const MAX_SEARCHES: usize = 2;

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ADMIN_LISTEN is {address}, which does not work: {source}; wanted a free address, or `off`")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// Everybody who can reach the address could do everything.
    #[error(
        "ADMIN_LISTEN is {0}, which others can reach, and ADMIN_TOKENS_FILE is not set; \
         wanted a file with tokens, or a loopback address such as 127.0.0.1:8700"
    )]
    NoTokens(SocketAddr),
    /// The error repeats nothing that stands in the file.
    #[error("ADMIN_TOKENS_FILE: {file}: {problem}")]
    Tokens { file: PathBuf, problem: String },
}

/// The admin API, which listens already.
pub(crate) struct Admin {
    listener: TcpListener,
    guard: Guard,
}

impl Admin {
    /// Listens as the settings say. Returns `None` if they say `off`, or if the default address is
    /// taken, which is no reason to store nothing.
    pub(crate) async fn bind(config: &Config) -> Result<Option<Self>, Error> {
        let Listen::At(address) = config.admin_listen else { return Ok(None) };
        let tokens = match &config.admin_tokens_file {
            Some(file) => Some(Tokens::read(file).await?),
            None if address.ip().is_loopback() => None,
            None => return Err(Error::NoTokens(address)),
        };
        match server::listen(address) {
            Ok(listener) => Ok(Some(Self { listener, guard: Guard::new(tokens) })),
            Err(source) if config.is_admin_listen_set => Err(Error::Listen { address, source }),
            Err(error) => {
                tracing::warn!(
                    %address, %error,
                    "going on without metrics and the admin API; set ADMIN_LISTEN to a free address, or to `off`"
                );
                Ok(None)
            }
        }
    }

    /// Answers until the shutdown, which no open connection delays.
    pub(crate) async fn serve(self, figures: Figures, sources: Option<Sources>, shutdown: CancellationToken) {
        let Self { listener, guard } = self;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(admin = %address, tokens = guard.has_tokens(), "serving metrics and the admin API");
        }
        let api = Api {
            figures,
            guard: Arc::new(guard),
            sources,
            deploys: Arc::new(Semaphore::new(1)),
            changes: Arc::new(Semaphore::new(MAX_CHANGES)),
            searches: Arc::new(Semaphore::new(MAX_SEARCHES)),
            refusals: Arc::default(),
        };
        server::serve(listener, router(api), shutdown).await;
    }
}

/// What all handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    figures: Figures,
    guard: Arc<Guard>,
    /// What versions of the rules come from, unless the rules were given.
    sources: Option<Sources>,
    /// Lets one component at a time be in memory.
    deploys: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    refusals: Arc<Refusals>,
}

impl Api {
    /// Returns the tenants that the caller may see, in the order of their names.
    pub(crate) fn visible(&self, access: &Access) -> Vec<Arc<Observed>> {
        let mut tenants = self.figures.tenants();
        tenants.retain(|tenant| access.sees(&tenant.config.name));
        tenants
    }

    /// Returns where versions of the rules are.
    fn sources(&self) -> Result<&Sources, Problem> {
        self.sources.as_ref().ok_or_else(|| Problem::not_found("the rules of this process have no versions"))
    }

    /// Returns a tenant. One that the caller may not see is as if it were not there.
    pub(crate) fn tenant(&self, access: &Access, name: &str) -> Result<Arc<Observed>, Problem> {
        let name = TenantName::new(name).filter(|name| access.sees(name));
        name.and_then(|name| self.figures.tenants.get(&name)).ok_or_else(|| self.no_such_tenant(access))
    }

    fn no_such_tenant(&self, access: &Access) -> Problem {
        let tenants = self.visible(access);
        let names: Vec<&str> = tenants.iter().map(|tenant| tenant.config.name.as_str()).collect();
        Problem::not_found(&match names.len() {
            0 => "no such tenant".to_owned(),
            1..=MAX_NAMES_TOLD => format!("no such tenant; wanted one of: {}", names.join(", ")),
            _ => "no such tenant; wanted one of those that /v1/tenants lists".to_owned(),
        })
    }
}

/// Returns what to ask for the page after these rows with, if there may be one.
fn next_page(numbers: impl ExactSizeIterator<Item = i64>, limit: u32) -> Option<i64> {
    let is_full = u32::try_from(numbers.len()).is_ok_and(|found| found >= limit);
    numbers.last().filter(|_| is_full)
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Sluicegate",
        description = "Metrics, health and administration of a running service. Errors are application/problem+json."
    ),
    // A parameter names `Ended`, which does not put it into the document.
    components(schemas(Problem, crate::batch::Ended))
)]
struct Document;

/// The parts of `/v1`: a line for each. A caller is known to all of them, by [`Access`].
fn v1() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(tenants::routes())
        .merge(scale::routes())
        .merge(rules::routes())
        .merge(tap::routes())
        .merge(dead_letters::routes())
        .merge(jobs::routes())
        .merge(audit::routes())
}

fn router(api: Api) -> Router {
    let guarded =
        OpenApiRouter::with_openapi(Document::openapi()).routes(routes!(scrape::metrics)).nest("/v1", v1());
    let open = OpenApiRouter::new().routes(routes!(health::livez)).routes(routes!(health::readyz));
    let (guarded, mut document) = guarded.split_for_parts();
    let (open, health) = open.split_for_parts();
    document.merge(health);
    if api.guard.has_tokens() {
        document::want_tokens(&mut document);
    }
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let openapi = get(async move || ([("content-type", "application/json")], document.to_string()));
    guarded
        .route("/v1/openapi.json", openapi)
        .route_layer(middleware::from_fn_with_state(api.clone(), access::authenticate))
        .merge(open)
        .fallback(async || Problem::not_found("no such page; /v1/openapi.json lists them").into_response())
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(api.clone(), access::refuse_other_sites))
        .layer(middleware::map_response(problem::in_one_form))
        .with_state(api)
}
