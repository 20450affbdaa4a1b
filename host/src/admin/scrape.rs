//! `/metrics`, for Prometheus.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;

use super::answers::OfStoredLook;
use super::{Access, Api, Problem};
use crate::metrics::Format;

/// All metrics, in the text format of Prometheus or as OpenMetrics.
#[utoipa::path(
    get, path = "/metrics", tag = "metrics",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain"), OfStoredLook)
)]
pub(super) async fn metrics(
    State(api): State<Api>,
    access: Access,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let tenants = api.visible(&access);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted_by(accept);
    let page = api.figures.look(&tenants).await.write(format).map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics were not written: this is a defect")
    })?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], page))
}
