//! The problems that a page can answer with, for its description: a type for each kind of page.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema as _};

use super::Problem;
use super::problem::CONTENT_TYPE;

type Responses = BTreeMap<String, RefOr<Response>>;

/// What every page can answer: pages of other sites are refused.
pub(super) struct OfAnyPage;

/// What a page for those who look can answer.
pub(super) struct OfLook;

/// What a page that looks into PostgreSQL can answer.
pub(super) struct OfStoredLook;

/// What a page that changes something can answer.
pub(super) struct OfChange;

const SITE: (StatusCode, &str) =
    (StatusCode::FORBIDDEN, "The role may not do this, or a page of another site asks");
const LOOK: [(StatusCode, &str); 4] = [
    (StatusCode::BAD_REQUEST, "The path or the query does not read"),
    (StatusCode::UNAUTHORIZED, "There is no token, or it is not known"),
    SITE,
    (StatusCode::NOT_FOUND, "There is none, or the caller may not see it"),
];
const STORED: [(StatusCode, &str); 3] = [
    (StatusCode::TOO_MANY_REQUESTS, "Others ask too much at this moment"),
    (StatusCode::INTERNAL_SERVER_ERROR, "The service has a defect, or its rules cannot run"),
    (StatusCode::SERVICE_UNAVAILABLE, "PostgreSQL does not answer, or not in time"),
];
const CHANGE: [(StatusCode, &str); 4] = [
    (StatusCode::CONFLICT, "It is not in a state in which this can be done"),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is of another type"),
    (StatusCode::UNPROCESSABLE_ENTITY, "The body reads, and says something that cannot be"),
];

fn responses<'a>(problems: impl IntoIterator<Item = &'a (StatusCode, &'a str)>) -> Responses {
    let response = |(status, description): &(StatusCode, &str)| {
        let body = Content::new(Some(Ref::from_schema_name(Problem::name())));
        let response = ResponseBuilder::new().description(*description).content(CONTENT_TYPE, body).build();
        (status.as_u16().to_string(), RefOr::T(response))
    };
    problems.into_iter().map(response).collect()
}

impl IntoResponses for OfAnyPage {
    fn responses() -> Responses {
        responses(&[SITE])
    }
}

impl IntoResponses for OfLook {
    fn responses() -> Responses {
        responses(&LOOK)
    }
}

impl IntoResponses for OfStoredLook {
    fn responses() -> Responses {
        responses(LOOK.iter().chain(&STORED))
    }
}

impl IntoResponses for OfChange {
    fn responses() -> Responses {
        responses(LOOK.iter().chain(&STORED).chain(&CHANGE))
    }
}
