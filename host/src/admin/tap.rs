//! `/v1/tenants/{name}/tap`: entries and verdicts, as they are committed.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use enum_map::EnumMap;
use futures_util::stream;
use url::form_urlencoded;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Role;
use super::answers::OfLook;
use super::extract::Path;
use super::server::Place;
use super::{Access, Api, Problem};
use crate::batch::Ended;
use crate::config::TenantName;
use crate::tap::{DEFAULT_RATE, MAX_RATE, MAX_WATCHERS, Selection, Watch};

/// The codes that a caller may choose.
const MAX_CODES: usize = 16;
/// How long a caller may go on without another look at its token.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(tap))
}

/// What somebody wants to see.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// The outcomes that are wanted, also as a list with commas; all without it.
    outcome: Option<Vec<Ended>>,
    /// The codes of violations of which an entry must have one; at most 16.
    code: Option<Vec<String>>,
    /// Only the first of so many entries.
    #[param(minimum = 1)]
    sample: Option<u64>,
    /// The most entries a second; 20 without it.
    #[param(minimum = 1, maximum = 100)]
    rate: Option<u32>,
    /// The stream ends after so many entries.
    #[param(minimum = 1)]
    limit: Option<u64>,
    /// Whether the content is shown too, which operators may see.
    payload: Option<bool>,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "outcome" => {
                    for outcome in value.split(',') {
                        asked.outcome.get_or_insert_default().push(parse(&name, outcome, OUTCOMES)?);
                    }
                }
                "code" => asked.code.get_or_insert_default().push(value.into_owned()),
                "sample" => asked.sample = Some(parse(&name, &value, "a whole number from 1 on")?),
                "rate" => asked.rate = Some(parse(&name, &value, "1 to 100")?),
                "limit" => asked.limit = Some(parse(&name, &value, "a whole number from 1 on")?),
                "payload" => asked.payload = Some(parse(&name, &value, "true or false")?),
                _ => {
                    return Err(unwanted(
                        "parameter",
                        &name,
                        "outcome, code, sample, rate, limit or payload",
                    ));
                }
            }
        }
        Ok(asked)
    }

    fn selection(self) -> Result<Selection, Problem> {
        let selection = Selection {
            outcomes: match &self.outcome {
                Some(wanted) => EnumMap::from_fn(|ended| wanted.contains(&ended)),
                None => EnumMap::from_fn(|_| true),
            },
            codes: self.code.unwrap_or_default(),
            one_in: self.sample.unwrap_or(1),
            rate: self.rate.unwrap_or(DEFAULT_RATE),
            limit: self.limit.unwrap_or(u64::MAX),
            with_payload: self.payload.unwrap_or(false),
        };
        if selection.codes.len() > MAX_CODES {
            return Err(unwanted("number of codes", &selection.codes.len().to_string(), "16 at most"));
        }
        if selection.one_in == 0 || selection.limit == 0 {
            return Err(unwanted("sample or limit", "0", "a whole number from 1 on"));
        }
        match (1..=MAX_RATE).contains(&selection.rate) {
            true => Ok(selection),
            false => Err(unwanted("rate", &selection.rate.to_string(), "1 to 100")),
        }
    }
}

const OUTCOMES: &str = "stored, duplicate, rejected, discarded or dead_lettered";

fn parse<T: std::str::FromStr>(name: &str, value: &str, wanted: &str) -> Result<T, Problem> {
    value.parse().map_err(|_| unwanted(name, value, wanted))
}

fn unwanted(name: &str, found: &str, wanted: &str) -> Problem {
    let found: String = found.chars().take(100).collect();
    Problem::new(StatusCode::BAD_REQUEST, format!("{name} is {found:?}; wanted {wanted}"))
}

/// Shows entries as they are committed, how they ended and why, as server-sent events.
#[utoipa::path(
    get, path = "/tenants/{name}/tap", tag = "tap",
    params(("name" = String, Path, description = "The tenant's name"), Asked),
    responses(
        (
            status = 200, content_type = "text/event-stream", body = String,
            description = "A stream that ends with the tenant, or after `limit`. An event `entry` has the ID of the \
                entry, and as data a JSON object: `entry`, `outcome`, `reason`, `version`, `violations` (`path`, \
                `code`), `truncated`; with `payload` also `deliveries`, `fields`, `events` and the violations' \
                `message`. An event `dropped` tells how many entries were left out since the last one: \
                `{\"slow\": 0, \"rate\": 0}`. Nothing is sent again: `Last-Event-ID` has no effect."
        ),
        OfLook,
        (
            status = 503, description = "Too many watch already", body = Problem,
            content_type = "application/problem+json"
        ),
    )
)]
async fn tap(
    State(api): State<Api>,
    access: Access,
    Extension(place): Extension<Place>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let tenant = api.tenant(&access, &name)?;
    let selection = Asked::parse(query.as_deref().unwrap_or_default())?.selection()?;
    let with_payload = selection.with_payload;
    if with_payload {
        access.require(Role::Operator)?;
    }
    let watch = tenant.tap.watch(selection).ok_or_else(|| {
        let detail =
            format!("{MAX_WATCHERS} watch already, which is the most; wanted fewer, try again later");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    place.give_up();
    let credentials = headers.get(header::AUTHORIZATION).cloned();
    let may_see = MaySee {
        api,
        tenant: tenant.config.name.clone(),
        with_payload,
        headers: credentials.map(|credentials| (header::AUTHORIZATION, credentials)).into_iter().collect(),
        looked_at: Instant::now(),
    };
    let begin = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b": watching\n\n"))]);
    let events = stream::unfold((watch, may_see, place), next);
    let body = Body::from_stream(futures_util::StreamExt::chain(begin, events));
    // Without the last header nginx would collect events before it passes them on.
    Ok(([("content-type", "text/event-stream"), ("x-accel-buffering", "no")], body))
}

async fn next(
    (mut watch, mut may_see, place): (Watch, MaySee, Place),
) -> Option<(Result<Bytes, std::convert::Infallible>, (Watch, MaySee, Place))> {
    place.goes_on();
    let event = watch.next().await?;
    may_see.still().await.then_some((Ok(event), (watch, may_see, place)))
}

/// What a stream was allowed by, which may change while it lasts.
struct MaySee {
    api: Api,
    tenant: TenantName,
    with_payload: bool,
    /// The credentials alone.
    headers: HeaderMap,
    looked_at: Instant,
}

impl MaySee {
    /// Returns whether the caller may still see what it asked for.
    async fn still(&mut self) -> bool {
        if self.looked_at.elapsed() < LOOK_EVERY {
            return true;
        }
        self.looked_at = Instant::now();
        let access = self.api.guard.access(&self.headers).await;
        access.is_some_and(|access| {
            access.sees(&self.tenant) && (!self.with_payload || access.require(Role::Operator).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(query: &str) -> Result<Selection, Problem> {
        Asked::parse(query)?.selection()
    }

    #[test]
    fn outcomes_are_repeated_or_listed() {
        for query in ["outcome=rejected,dead_lettered", "outcome=rejected&outcome=dead_lettered&rate=1"] {
            let selection = selection(query).expect(query);
            let wanted: Vec<Ended> = selection
                .outcomes
                .into_iter()
                .filter(|(_, wanted)| *wanted)
                .map(|(ended, _)| ended)
                .collect();
            assert_eq!(wanted, [Ended::Rejected, Ended::DeadLettered]);
        }
        assert!(selection("").expect("all").outcomes.values().all(|wanted| *wanted));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for query in [
            "outcome=stord",
            "outcome=",
            "sample=0",
            "sample=-1",
            "rate=0",
            "rate=101",
            "limit=0",
            "payload=yes",
            "outcomes=stored",
        ] {
            let problem = selection(query).expect_err(query);
            let problem = serde_json::to_value(problem).expect("JSON");
            assert!(
                problem["status"] == 400 && problem["detail"].to_string().contains("; wanted"),
                "{problem}"
            );
        }
        assert!(selection(&"code=a&".repeat(17)).is_err());
    }
}
