//! Tells a collector at an interval what `/metrics` has.
//!
//! There is one request at a time, and none is sent again: the next one has all that this one had.
//!
//! - `request`: all metrics, as OTLP has them

mod request;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use opentelemetry_http::{HttpClient as _, Request};
use opentelemetry_sdk::Resource;
use prost::Message as _;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::collector::{Collector, LastAnswer};
use super::environment::{Lookup, milliseconds};
use super::{Endpoint, LAST_FLUSH, Unusable, resource};
use crate::admin::Figures;
use crate::client::variable;
use crate::log_limit::Reminder;
use crate::metrics::{AllMetrics, ServiceCounters, Signal};

/// The time between two requests, unless the environment says so.
const INTERVAL: Duration = Duration::from_secs(60);
/// The shortest interval, in milliseconds.
const MIN_INTERVAL_MS: u64 = 100;

/// Sends all metrics, at an interval.
pub(crate) struct MetricsPush {
    endpoint: Endpoint,
    collector: Collector,
    last_answer: LastAnswer,
    resource: Resource,
    interval: Duration,
    reminder: Reminder,
}

/// Metrics that are being sent.
pub(crate) struct Pushing {
    task: AbortOnDropHandle<()>,
    has_drained: CancellationToken,
}

impl MetricsPush {
    /// Prepares to send metrics if the environment names a collector, by the variables of OpenTelemetry.
    pub(crate) fn from_environment(consumer: &str, counters: &Arc<ServiceCounters>) -> Option<Self> {
        let endpoint = Endpoint::of(Signal::Metrics, &variable)?;
        match endpoint.and_then(|endpoint| Self::new(endpoint, consumer, counters)) {
            Ok(push) => {
                tracing::info!(interval = ?push.interval, "sending metrics to the OTLP endpoint");
                Some(push)
            }
            Err(problem) => {
                tracing::warn!("metrics are not sent: {problem}");
                None
            }
        }
    }

    fn new(endpoint: Endpoint, consumer: &str, counters: &Arc<ServiceCounters>) -> Result<Self, Unusable> {
        let interval = interval(&variable)?;
        let collector = Collector::new(Signal::Metrics, endpoint.timeout, Arc::clone(counters));
        let last_answer = collector.last_answer();
        let resource = resource(consumer);
        Ok(Self { endpoint, collector, last_answer, resource, interval, reminder: Reminder::default() })
    }

    /// Sends metrics until the shutdown, and the last ones when all tenants have ended.
    pub(crate) fn start(self, figures: Figures, shutdown: CancellationToken) -> Pushing {
        let has_drained = CancellationToken::new();
        let task = tokio::spawn(self.run(figures, shutdown, has_drained.clone()));
        Pushing { task: AbortOnDropHandle::new(task), has_drained }
    }

    async fn run(mut self, figures: Figures, shutdown: CancellationToken, has_drained: CancellationToken) {
        let mut is_silent = false;
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // the first one comes at once
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => break,
            }
            let pushed = async {
                let metrics = figures.look(&figures.tenants()).await;
                self.push(&metrics).await
            };
            tokio::select! {
                is_taken = pushed => is_silent = !is_taken,
                () = shutdown.cancelled() => {
                    is_silent = true;
                    break;
                }
            }
        }
        has_drained.cancelled().await;
        // A collector that takes nothing is not waited for.
        if !is_silent {
            self.push(&figures.counted()).await;
        }
    }

    /// Sends metrics, and returns whether the collector has taken them.
    async fn push(&mut self, metrics: &AllMetrics) -> bool {
        let body = request::of(metrics, &self.resource, SystemTime::now()).encode_to_vec();
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = hyper::Method::POST;
        if let Ok(uri) = self.endpoint.url.as_str().parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("sluicegate/", env!("CARGO_PKG_VERSION"))));
        headers.extend(self.endpoint.headers.clone());
        // What came of it is told by the outcome.
        let _ = self.collector.send_bytes(request).await;
        let outcome = self.last_answer.get();
        if (!outcome.is_taken || outcome.rejected > 0) && self.reminder.is_due() {
            tracing::warn!(
                collector = outcome.text,
                "metrics were not taken; the next ones have all that these had, and nothing waits for them"
            );
        }
        outcome.is_taken
    }
}

impl Pushing {
    /// Sends what the tenants have counted until their end, for [`LAST_FLUSH`] at most.
    pub(crate) async fn finish(self) {
        self.has_drained.cancel();
        if tokio::time::timeout(LAST_FLUSH, self.task).await.is_err() {
            tracing::warn!("the last metrics were not sent within {} s", LAST_FLUSH.as_secs());
        }
    }
}

/// Returns how often metrics are sent. What counts up from the start is all that is sent.
fn interval(lookup: &impl Lookup) -> Result<Duration, Unusable> {
    let temporality = lookup("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
    if let Some(other) = temporality.filter(|name| !name.eq_ignore_ascii_case("cumulative")) {
        return Err(Unusable::Temporality(other));
    }
    let name = "OTEL_METRIC_EXPORT_INTERVAL";
    Ok(milliseconds(name, lookup(name), MIN_INTERVAL_MS)?.unwrap_or(INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_and_the_temporality_are_checked() {
        let read = |variable: &'static str, value: &'static str| {
            interval(&move |name: &str| (name == variable).then(|| value.to_owned()))
        };
        let (every, preference) =
            ("OTEL_METRIC_EXPORT_INTERVAL", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
        assert_eq!(read("NOTHING", ""), Ok(INTERVAL));
        assert_eq!(read(every, "500"), Ok(Duration::from_millis(500)));
        assert_eq!(read(preference, "Cumulative"), Ok(INTERVAL));
        assert!(read(every, "0").is_err());
        assert_eq!(read(preference, "delta"), Err(Unusable::Temporality("delta".to_owned())));
    }
}
