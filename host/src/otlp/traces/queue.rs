//! What waits to be sent, and what was lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use parking_lot::Mutex;

use crate::log_limit::Reminder;
use crate::metrics::ServiceCounters;
use crate::otlp::collector::LastAnswer;

/// The most spans that wait or are being sent.
const MAX_SPANS: usize = 4_096;

/// Passes spans on to the thread that sends them, if there is room.
#[derive(Debug)]
pub(super) struct Queue {
    sender: BatchSpanProcessor,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The spans that wait or are being sent.
    held: AtomicUsize,
    /// The spans that there was no room for, and those that the collector did not take, and nobody was told of yet.
    lost: AtomicU64,
    counters: Arc<ServiceCounters>,
}

impl Counts {
    fn lost(&self, spans: u64) {
        self.lost.fetch_add(spans, Ordering::Relaxed);
        self.counters.lost_spans(spans);
    }
}

impl Queue {
    pub(super) fn new(
        exporter: OtlpExporter,
        last_answer: LastAnswer,
        counters: Arc<ServiceCounters>,
    ) -> Self {
        let counts = Arc::new(Counts { counters, ..Counts::default() });
        let exporter =
            Counted { exporter, counts: Arc::clone(&counts), last_answer, reminder: Mutex::default() };
        let config = BatchConfigBuilder::default().with_max_queue_size(MAX_SPANS).build();
        Self { sender: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), counts }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.counts.held.fetch_add(1, Ordering::Relaxed) < MAX_SPANS {
            self.sender.on_end(span);
        } else {
            self.counts.held.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.sender.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.sender.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.sender.set_resource(resource);
    }
}

/// Sends spans, and tells of those that are lost.
struct Counted {
    exporter: OtlpExporter,
    counts: Arc<Counts>,
    last_answer: LastAnswer,
    reminder: Mutex<Reminder>,
}

impl fmt::Debug for Counted {
    // The exporter holds headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Counted {
    fn tell_lost(&self) {
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                spans = lost,
                collector = self.last_answer.get().text,
                "spans are lost; nothing else is, and nothing waits for them"
            );
        }
    }
}

impl SpanExporter for Counted {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        let outcome = self.exporter.export(spans).await;
        self.counts.held.fetch_sub(count, Ordering::Relaxed);
        let last = self.last_answer.get();
        match outcome.is_ok() && last.is_taken {
            true => self.counts.lost(last.rejected),
            false => self.counts.lost(u64::try_from(count).unwrap_or(u64::MAX)),
        }
        if self.counts.lost.load(Ordering::Relaxed) > 0 && self.reminder.lock().is_due() {
            self.tell_lost();
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.tell_lost();
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;
    use crate::metrics::Signal;
    use crate::otlp::collector::Collector;

    #[tokio::test]
    async fn what_there_is_no_room_for_is_dropped_and_counted() {
        // The kernel takes the connection, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let counters = Arc::<ServiceCounters>::default();
        let collector = Collector::new(Signal::Traces, Duration::from_secs(60), Arc::clone(&counters));
        let last_answer = collector.last_answer();
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_endpoint(format!("http://{}", silent.local_addr().expect("its address")))
            .build()
            .expect("an exporter");
        let queue = Queue::new(exporter, last_answer, Arc::clone(&counters));
        let counts = Arc::clone(&queue.counts);
        let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
        let tracer = provider.tracer("test");
        (0..MAX_SPANS + 7).for_each(|_| tracer.start("span").end());
        assert_eq!(counts.held.load(Ordering::Relaxed), MAX_SPANS);
        assert_eq!((counts.lost.load(Ordering::Relaxed), counters.now().lost_spans), (7, 7));
        provider.shutdown_with_timeout(Duration::ZERO).expect_err("it is not sent");
    }
}
