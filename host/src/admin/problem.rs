//! Errors in the form of RFC 9457, `application/problem+json`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::audit::Told;
use crate::store;

pub(super) const CONTENT_TYPE: &str = "application/problem+json";

/// How many rows a list has that does not say how many.
const LIMIT: u32 = 20;
/// How many rows a list may have.
const MAX_LIMIT: u32 = 1_000;

/// Why a request failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// The name of the status.
    #[schema(example = "Not Found")]
    title: &'static str,
    /// What was found and what is wanted, for people.
    #[schema(example = "no such tenant")]
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { status: status.as_u16(), title, detail: detail.into() }
    }

    pub(crate) fn not_found(detail: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }
}

/// Says that the request is at fault.
pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Returns how many rows a list is to have.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(LIMIT);
    match (1..=MAX_LIMIT).contains(&limit) {
        true => Ok(limit),
        false => Err(bad(format!("limit is {limit}; wanted 1 to {MAX_LIMIT}"))),
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("postgres: {error}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let told = Told { tenant: None, detail: self.detail.clone() };
        let mut response =
            (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], Extension(told), Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Gives the errors of axum itself the same form, and keeps answers out of caches.
pub(super) async fn in_one_form(response: Response) -> Response {
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let is_of_axum = content_type.is_none_or(|found| found.as_bytes().starts_with(b"text/plain"));
    let mut response = match (status.is_client_error() || status.is_server_error()) && is_of_axum {
        false => response,
        true => {
            let allow = response.headers().get(header::ALLOW).cloned();
            let detail = status.canonical_reason().unwrap_or_default().to_lowercase();
            let mut problem = Problem::new(status, detail).into_response();
            if let Some(allow) = allow {
                problem.headers_mut().insert(header::ALLOW, allow);
            }
            problem
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
