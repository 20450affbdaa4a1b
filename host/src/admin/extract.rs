//! Reads queries, paths and bodies. What does not read is told as a problem.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Problem;
use crate::dead_letters::object;

/// The query of a request.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query
            .map(|axum::extract::Query(query)| Self(query))
            .map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}

/// The variable parts of a request's path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Self(path))
            .map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}

/// The body of a request, which is a JSON object.
pub(super) struct Body<T>(pub(super) T);

#[derive(Deserialize)]
#[serde(transparent, bound = "T: DeserializeOwned")]
struct Object<T>(#[serde(deserialize_with = "object")] T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = <Json<Object<T>> as FromRequest<S>>::from_request(request, state).await;
        body.map(|Json(Object(body))| Self(body))
            .map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}

/// Nothing and `null` are no body.
impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = <Json<Option<Object<T>>> as OptionalFromRequest<S>>::from_request(request, state).await;
        body.map(|body| body.and_then(|Json(body)| body).map(|Object(body)| Self(body)))
            .map_err(|error| Problem::new(error.status(), error.body_text()))
    }
}
