//! Stands in for the host's capabilities where there is no service: `wac plug` puts it into a guest of the world `pipeline`,
//! which the plain `wasmtime` command line runs then. docs/wasmtime.md shows how.
//!
//! It answers as a database without rows and a stream without a past do, and tells on standard error what it was asked:
//!
//! | call | answer |
//! |---|---|
//! | `stream.lag` | not known |
//! | `stream.delivery-count` | 1 |
//! | `stream.publish` | it is published |
//! | `store.query` | no rows |
//! | `store.execute` | no row changed |
//! | `metrics.add`, `metrics.observe` | they have none |
//!
//! It is also the example to copy for stubs of one's own.

use std::fmt::Debug;

use bindings::exports::sluicegate::guest::metrics::Guest as Metrics;
use bindings::exports::sluicegate::guest::store::{Error, Guest as Store, Value};
use bindings::exports::sluicegate::guest::stream::{Guest as Stream, PublishError};
use bindings::sluicegate::guest::types::EntryId;

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package sluicegate:stubs;
            world stubs {
                export sluicegate:guest/%stream@0.1.0;
                export sluicegate:guest/store@0.1.0;
                export sluicegate:guest/metrics@0.1.0;
            }
        ",
        world: "sluicegate:stubs/stubs",
        generate_all,
    });
}

/// Implements what the component exports.
pub struct Component;

#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "what wit-bindgen makes of an export")]
mod exported {
    use super::{Component, bindings};

    bindings::export!(Component with_types_in bindings);
}

impl Stream for Component {
    fn lag() -> Option<u64> {
        None
    }

    fn delivery_count(_: EntryId) -> Option<u64> {
        Some(1)
    }

    fn publish(stream: String, fields: Vec<(String, String)>) -> Result<(), PublishError> {
        tell("stream.publish", &stream, &fields);
        Ok(())
    }
}

impl Store for Component {
    fn query(statement: String, parameters: Vec<Value>) -> Result<Vec<Vec<Value>>, Error> {
        tell("store.query", &statement, &parameters);
        Ok(Vec::new())
    }

    fn execute(statement: String, parameters: Vec<Value>) -> Result<u64, Error> {
        tell("store.execute", &statement, &parameters);
        Ok(0)
    }
}

impl Metrics for Component {
    fn add(name: String, labels: Vec<(String, String)>, count: u64) {
        tell("metrics.add", &name, &(labels, count));
    }

    fn observe(name: String, labels: Vec<(String, String)>, value: f64) {
        tell("metrics.observe", &name, &(labels, value));
    }
}

/// The most characters that a line shows of what came with a call.
const MAX_SHOWN: usize = 300;

/// Tells of a call. What `Debug` makes has no line breaks and no control characters.
fn tell(call: &str, name: &str, with: &impl Debug) {
    let shown: String = format!("{name:?} {with:?}").chars().take(MAX_SHOWN).collect();
    eprintln!("stub: {call} {shown}");
}
