//! Sends traces and metrics by OTLP, where the environment names a collector.
//!
//! Nothing waits for this, and what a collector does not take is counted.
//!
//! - `environment`: the variables of OpenTelemetry that count
//! - `collector`: sends a request by HTTP, and judges the answer
//! - `traces`: a trace of each batch
//! - `metrics`: what `/metrics` has, at an interval

mod collector;
mod environment;
mod metrics;
mod traces;

use std::time::Duration;

use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_sdk::Resource;

use environment::{Endpoint, Unusable};
pub(crate) use metrics::MetricsPush;
pub(crate) use traces::{BatchTrace, TenantTraces, Traces};

/// How long the exit waits until the last spans and metrics are sent.
const LAST_FLUSH: Duration = Duration::from_secs(1);

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

/// Names who has made what is sent.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sluicegate").with_version(env!("CARGO_PKG_VERSION")).build()
}
