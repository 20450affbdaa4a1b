//! A trace for each batch.
//!
//! A span goes into a bounded queue, or is dropped and counted where there is no room, and a thread of its own sends what is
//! in the queue.
//!
//! - `batch_trace`: the spans of a batch
//! - `links`: where a producer says that an entry comes from
//! - `queue`: what waits to be sent, and what was lost

mod batch_trace;
mod links;
mod queue;

use std::sync::Arc;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;

pub(crate) use batch_trace::{BatchTrace, TenantTraces};
use queue::Queue;

use super::collector::Collector;
use super::{Endpoint, LAST_FLUSH, Unusable, resource, scope};
use crate::client::variable;
use crate::config::Tenant;
use crate::metrics::{ServiceCounters, Signal};

/// Makes the traces of all tenants, and sends them.
#[derive(Clone)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to send traces if the environment names a collector, by the variables of OpenTelemetry.
    pub(crate) fn from_environment(consumer: &str, counters: &Arc<ServiceCounters>) -> Option<Self> {
        let traces = Endpoint::of(Signal::Traces, &variable)?
            .and_then(|endpoint| Self::new(&endpoint, consumer, counters));
        match traces {
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

    fn new(endpoint: &Endpoint, consumer: &str, counters: &Arc<ServiceCounters>) -> Result<Self, Unusable> {
        let collector = Collector::new(Signal::Traces, endpoint.timeout, Arc::clone(counters));
        let last_answer = collector.last_answer();
        // It reads the headers from the same variables.
        let exporter = SpanExporter::builder().with_http().with_http_client(collector);
        let exporter = exporter.with_endpoint(endpoint.url.as_str()).build();
        let queue = Queue::new(exporter.map_err(|_| Unusable::Variables)?, last_answer, Arc::clone(counters));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(consumer))
            .with_max_links_per_span(links::MAX_LINKS)
            .with_span_processor(queue)
            .build();
        Ok(Self { provider })
    }

    /// Returns what makes the traces of this tenant's batches.
    pub(crate) fn of_tenant(&self, tenant: &Tenant) -> TenantTraces {
        TenantTraces::new(self.provider.tracer_with_scope(scope()), tenant)
    }

    /// Sends what is left, for [`LAST_FLUSH`] at most.
    pub(crate) async fn shutdown(self) {
        let shutdown = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(LAST_FLUSH));
        if !matches!(shutdown.await, Ok(Ok(()))) {
            tracing::warn!("the last traces were not sent within {} s", LAST_FLUSH.as_secs());
        }
    }
}
