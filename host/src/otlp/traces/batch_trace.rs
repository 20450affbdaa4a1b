//! The spans of a batch, with the attributes that OpenTelemetry's conventions for messaging give them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;
use parking_lot::Mutex;

use super::links;
use crate::batch::{Tally, Version};
use crate::config::Tenant;
use crate::metrics::Stage;
use sluicegate_verdicts::Entry;

/// Makes the traces of a tenant's batches.
#[derive(Clone)]
pub(crate) struct TenantTraces {
    tracer: SdkTracer,
    name: Arc<str>,
    attributes: Arc<[KeyValue]>,
}

/// The trace of a batch, whose span ends when this is dropped.
pub(crate) struct BatchTrace {
    tracer: SdkTracer,
    /// Holds the span of the whole batch.
    context: Context,
    began: (SystemTime, Instant),
    ended: Mutex<Tally>,
}

/// Returns a number as attributes have it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl TenantTraces {
    pub(super) fn new(tracer: SdkTracer, tenant: &Tenant) -> Self {
        let attributes = [
            KeyValue::new("messaging.system", "redis"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.destination.name", tenant.stream_name.clone()),
            KeyValue::new("messaging.consumer.group.name", tenant.consumer_group.clone()),
            KeyValue::new("sluicegate.tenant", tenant.name.to_string()),
        ];
        Self { tracer, name: format!("process {}", tenant.stream_name).into(), attributes: attributes.into() }
    }

    /// Begins the trace of a batch that was delivered just now. It is `None` if the sampler does not want it, or if all
    /// of the batch was gone before it could be taken over.
    pub(crate) fn begin(&self, entries: &[Entry]) -> Option<BatchTrace> {
        if entries.is_empty() {
            return None;
        }
        let began = (SystemTime::now(), Instant::now());
        let mut attributes = self.attributes.to_vec();
        let entry_count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        attributes.push(KeyValue::new("messaging.batch.message_count", count(entry_count)));
        let span = SpanBuilder::from_name(self.name.to_string())
            .with_kind(SpanKind::Consumer)
            .with_start_time(began.0)
            .with_attributes(attributes);
        let mut span = self.tracer.build_with_context(span, &Context::new());
        if !span.is_recording() {
            return None;
        }
        links::of_batch(entries).for_each(|context| span.add_link(context, Vec::new()));
        let context = Context::new().with_span(span);
        Some(BatchTrace { tracer: self.tracer.clone(), context, began, ended: Mutex::default() })
    }
}

impl BatchTrace {
    /// Tells of a stage that the batch, or a part of it, has passed now.
    pub(crate) fn passed(&self, stage: Stage, began: Instant) {
        self.child(stage.as_str(), began, Vec::new());
    }

    /// Tells that this version of the rules was asked about the batch, or a part of it, until now.
    pub(crate) fn judged(&self, version: Version, began: Instant) {
        self.child("rules", began, vec![KeyValue::new("sluicegate.rules.version", version.to_string())]);
    }

    /// Counts entries that are committed and acknowledged.
    pub(crate) fn ended(&self, tally: Tally) {
        *self.ended.lock() += tally;
    }

    /// Tells that entries of the batch will never be acknowledged by this run.
    pub(crate) fn lost(&self) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("error.type", "unacknowledged"));
        span.set_status(Status::error("not all of it was acknowledged; the rest is delivered again"));
    }

    /// Sends a part of the trace that ends now.
    fn child(&self, name: &'static str, began: Instant, attributes: Vec<KeyValue>) {
        let span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(self.at(began))
            .with_attributes(attributes);
        self.tracer.build_with_context(span, &self.context).end_with_timestamp(self.at(Instant::now()));
    }

    /// Returns the time of day of a moment, by one clock for all spans of the batch.
    fn at(&self, moment: Instant) -> SystemTime {
        let (time, instant) = self.began;
        time + moment.saturating_duration_since(instant)
    }
}

impl Drop for BatchTrace {
    fn drop(&mut self) {
        let span = self.context.span();
        let outcomes = self.ended.get_mut().outcomes().into_iter().filter(|(_, number)| *number > 0);
        span.set_attributes(
            outcomes.map(|(outcome, number)| {
                KeyValue::new(format!("sluicegate.outcome.{outcome}"), count(number))
            }),
        );
        span.end_with_timestamp(self.at(Instant::now()));
    }
}
