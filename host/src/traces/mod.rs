//! Traces by OTLP: a trace for each batch, where the environment names a collector.
//!
//! Nothing waits for this: a span goes into a bounded queue, or is dropped and counted where there is no room, and a thread
//! of its own sends what is in the queue.
//!
//! - `batch_trace`: the spans of a batch
//! - `links`: where a producer says that an entry comes from
//! - `queue`: what waits to be sent, and what was lost
//! - `collector`: sends it by HTTP

mod batch_trace;
mod collector;
mod links;
mod queue;

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use url::Url;

pub(crate) use batch_trace::{BatchTrace, TenantTraces};
use collector::Collector;
use queue::Queue;

use crate::client::variable;
use crate::config::Tenant;

/// How long the exit waits until the last spans are sent.
const LAST_FLUSH: Duration = Duration::from_secs(1);
/// How long a request may take, unless the environment says so.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the traces of all tenants, and sends them.
#[derive(Clone)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

/// Why no traces are sent. It repeats nothing that may be secret: an endpoint may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Unusable {
    #[error("the OTLP endpoint is no URL; wanted one such as http://localhost:4318")]
    Endpoint,
    #[error(
        "the OTLP endpoint is an https one, and TLS is not spoken here; wanted a collector beside the service, such as \
         http://localhost:4318, which sends them on by TLS"
    )]
    Tls,
    #[error(
        "the OTLP endpoint has a user or a password; wanted a header in OTEL_EXPORTER_OTLP_HEADERS instead"
    )]
    Credentials,
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0:?}; wanted http/protobuf, which collectors take at port 4318")]
    Protocol(String),
    #[error("the variables OTEL_EXPORTER_OTLP_… are not as OpenTelemetry defines them")]
    Variables,
}

/// Returns what the environment says of this for traces, or else for all signals.
fn otlp_variable(name: &str) -> Option<String> {
    variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
        .or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
}

fn check_endpoint(endpoint: &str) -> Result<(), Unusable> {
    let url = Url::parse(endpoint).map_err(|_| Unusable::Endpoint)?;
    match url.scheme() {
        "http" if !url.username().is_empty() || url.password().is_some() => Err(Unusable::Credentials),
        "http" => Ok(()),
        "https" => Err(Unusable::Tls),
        _ => Err(Unusable::Endpoint),
    }
}

impl Traces {
    /// Begins to send traces if the environment names a collector, by the variables of OpenTelemetry. What cannot be used is
    /// told in the log, and is no reason to store nothing.
    pub(crate) fn from_environment(consumer: &str) -> Option<Self> {
        let endpoint = otlp_variable("ENDPOINT")?;
        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none")
        {
            return None;
        }
        match Self::new(&endpoint, consumer) {
            Ok(traces) => {
                tracing::info!("sending a trace of each batch to the OTLP endpoint");
                Some(traces)
            }
            Err(problem) => {
                tracing::warn!("traces are not sent: {problem}");
                None
            }
        }
    }

    fn new(endpoint: &str, consumer: &str) -> Result<Self, Unusable> {
        check_endpoint(endpoint)?;
        if let Some(other) = otlp_variable("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(Unusable::Protocol(other));
        }
        let timeout = match otlp_variable("TIMEOUT") {
            Some(text) => Duration::from_millis(text.trim().parse().map_err(|_| Unusable::Variables)?),
            None => REQUEST_TIMEOUT,
        };
        let collector = Collector::new(timeout);
        let last_answer = collector.last_answer();
        let exporter = SpanExporter::builder().with_http().with_http_client(collector).build();
        let queue = Queue::new(exporter.map_err(|_| Unusable::Variables)?, last_answer);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(consumer))
            .with_max_links_per_span(links::MAX_LINKS)
            .with_span_processor(queue)
            .build();
        Ok(Self { provider })
    }

    /// Returns what makes the traces of this tenant's batches.
    pub(crate) fn of_tenant(&self, tenant: &Tenant) -> TenantTraces {
        let scope =
            InstrumentationScope::builder("sluicegate").with_version(env!("CARGO_PKG_VERSION")).build();
        TenantTraces::new(self.provider.tracer_with_scope(scope), tenant)
    }

    /// Sends what is left, for [`LAST_FLUSH`] at most.
    pub(crate) async fn shutdown(self) {
        let shutdown = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST_FLUSH));
        if !matches!(shutdown.await, Ok(Ok(()))) {
            tracing::warn!("the last traces were not sent within {} s", LAST_FLUSH.as_secs());
        }
    }
}

/// Describes this replica: what the environment says of it, and what it does not say.
fn resource(consumer: &str) -> Resource {
    let named = Resource::builder().build();
    // The SDK's name for what has none is no name.
    let is_named = |key: &'static str| {
        named.get(&Key::new(key)).is_some_and(|value| !value.as_str().starts_with("unknown_service"))
    };
    let own = [
        ("service.name", "sluicegate".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", consumer.to_owned()),
    ];
    let missing = own.into_iter().filter(|(key, _)| !is_named(key));
    let missing: Vec<KeyValue> = missing.map(|(key, value)| KeyValue::new(key, value)).collect();
    Resource::builder().with_attributes(missing).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_will_not_do_says_why() {
        for (endpoint, outcome) in [
            ("http://localhost:4318", Ok(())),
            ("http://[::1]:4318/path", Ok(())),
            ("https://localhost:4318", Err(Unusable::Tls)),
            ("http://user@localhost:4318", Err(Unusable::Credentials)),
            ("http://:hunter2@localhost:4318", Err(Unusable::Credentials)),
            ("localhost:4318", Err(Unusable::Endpoint)),
            ("http://", Err(Unusable::Endpoint)),
            ("4318", Err(Unusable::Endpoint)),
        ] {
            assert_eq!(check_endpoint(endpoint), outcome, "{endpoint}");
        }
    }
}
