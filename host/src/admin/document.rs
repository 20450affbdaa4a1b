//! The OpenAPI document: what is the same for all pages is said here.

use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr};

use super::problem;

/// The name of the tokens in the document.
const TOKEN: &str = "token";

/// Completes the document: errors are problems, and wanted tokens are told.
pub(super) fn complete(document: &mut OpenApi, has_tokens: bool) {
    for page in document.paths.paths.values_mut() {
        problems(page);
    }
    if has_tokens {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
    }
}

/// Names the type of the problems that a page answers with.
fn problems(page: &mut PathItem) {
    let PathItem { get, put, post, delete, options, head, patch, trace, .. } = page;
    for operation in [get, put, post, delete, options, head, patch, trace].into_iter().flatten() {
        for response in operation.responses.responses.values_mut() {
            let RefOr::T(response) = response else { continue };
            let content = std::mem::take(&mut response.content);
            let of_problems = |(content_type, content)| match is_problem(&content) {
                true => (problem::CONTENT_TYPE.to_owned(), content),
                false => (content_type, content),
            };
            response.content = content.into_iter().map(of_problems).collect();
        }
    }
}

fn is_problem(content: &RefOr<Content>) -> bool {
    let RefOr::T(Content { schema: Some(RefOr::Ref(Ref { ref_location, .. })), .. }) = content else {
        return false;
    };
    ref_location.ends_with("/Problem")
}
