//! What the OpenAPI document says of tokens.

use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

/// The name of the tokens in the document.
const TOKEN: &str = "token";

/// Tells that the pages want a token, except those that say otherwise.
pub(super) fn want_tokens(document: &mut OpenApi) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer));
    document.security = Some(vec![SecurityRequirement::new(TOKEN, [""; 0])]);
}
