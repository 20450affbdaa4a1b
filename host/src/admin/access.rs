//! Decides who may ask. With tokens it is their holders, each by role and tenants. Without, it is
//! whoever can run a program on this machine, but no page in a browser there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;

use super::tokens::Tokens;
use super::{Api, Problem, audit};
use crate::config::TenantName;

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// May look.
    Viewer,
    /// May change what the service does.
    Operator,
    /// May do everything.
    Admin,
}

/// Who asks, and what it may do: an extractor for every handler under `/v1`.
#[derive(Clone, Debug)]
pub(crate) struct Access(Arc<AccessInner>);

#[derive(Debug)]
struct AccessInner {
    name: String,
    role: Role,
    /// `None` for all.
    tenants: Option<BTreeSet<TenantName>>,
}

impl Access {
    pub(super) fn new(name: &str, role: Role, tenants: Option<BTreeSet<TenantName>>) -> Self {
        Self(Arc::new(AccessInner { name: name.to_owned(), role, tenants }))
    }

    /// Returns the name of the token.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn sees(&self, tenant: &TenantName) -> bool {
        self.0.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }

    /// Returns the names of the tenants that it sees, or `None` for all.
    pub(super) fn tenants(&self) -> Option<Vec<String>> {
        Some(self.0.tenants.as_ref()?.iter().map(TenantName::to_string).collect())
    }

    /// Returns whether it has this role, or a higher one.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.0.role >= role
    }

    /// Refuses who has a lesser role.
    pub(crate) fn require(&self, role: Role) -> Result<(), Problem> {
        match self.has(role) {
            true => Ok(()),
            false => {
                let wanted = match role {
                    Role::Viewer => "viewer or higher",
                    Role::Operator => "operator or higher",
                    Role::Admin => "admin",
                };
                Err(Problem::forbidden(format!("your role may not do this; wanted {wanted}")))
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // A route that is not guarded knows nobody.
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthorized)
    }
}

/// Decides by the tokens, if there are any.
pub(super) struct Guard {
    tokens: Option<Tokens>,
    local: Access,
}

impl Guard {
    pub(super) fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens, local: Access::new("local", Role::Admin, None) }
    }

    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    pub(super) async fn access(&self, headers: &HeaderMap) -> Option<Access> {
        let Some(tokens) = &self.tokens else { return Some(self.local.clone()) };
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        match scheme.eq_ignore_ascii_case("bearer") {
            true => tokens.access(token.trim()).await,
            false => None,
        }
    }
}

fn unauthorized() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "wanted the header `Authorization: Bearer` with a token that is known",
    )
}

/// Finds out who asks. Whoever may only look changes nothing, whatever the handler asks for.
pub(super) async fn authenticate(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let access = api.guard.access(request.headers()).await.ok_or_else(unauthorized)?;
    request.extensions_mut().insert(access.clone());
    match is_safe(request.method()) {
        true => Ok(next.run(request).await),
        false => audit::change(api, access, request, next).await,
    }
}

fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Refuses what a page of another site has made a browser ask.
///
/// Where no token is wanted, it also refuses names that are not of this machine: a site could give
/// its own name this address, and then be of the same site.
pub(super) async fn refuse_other_sites(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let headers = request.headers();
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Problem::forbidden(
            "a page of another site asks; wanted a program, or a page of this server",
        ));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_same =
        |origin: &str| host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, of)| of == host));
    if headers.get(header::ORIGIN).is_some_and(|origin| !origin.to_str().is_ok_and(is_same)) {
        return Err(Problem::forbidden("the header Origin names another server; wanted this one, or none"));
    }
    let is_local = |authority: &Authority| is_loopback(authority.host());
    let names_local =
        host.and_then(|host| host.parse::<Authority>().ok()).is_some_and(|host| is_local(&host))
            && request.uri().authority().is_none_or(is_local);
    if !api.guard.has_tokens() && !names_local {
        return Err(Problem::forbidden(
            "the header Host names another machine; wanted localhost, or a loopback address; \
             where others are to ask by name, set ADMIN_TOKENS_FILE",
        ));
    }
    Ok(next.run(request).await)
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "localhost.evil.example", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "[::]", "::1]"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn roles_are_in_their_order() {
        let access = Access::new("a", Role::Operator, None);
        assert!(access.require(Role::Viewer).is_ok() && access.require(Role::Operator).is_ok());
        assert!(access.require(Role::Admin).is_err());
    }
}
