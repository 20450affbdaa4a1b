//! Sends requests to a collector by HTTP, and judges its answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;
use url::Url;

use crate::client::exchange;
use crate::metrics::{ServiceCounters, Signal};

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends on the service's runtime, also for a thread that has none.
pub(super) struct Collector {
    runtime: Handle,
    /// How long a request may take.
    timeout: Duration,
    signal: Signal,
    counters: Arc<ServiceCounters>,
    last_answer: LastAnswer,
}

/// What came of the last request.
#[derive(Clone, Default)]
pub(super) struct LastAnswer(Arc<Mutex<Outcome>>);

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the collector has taken something, if not all.
    pub(super) is_taken: bool,
    /// The spans or samples that it has not taken out of a request that it took.
    pub(super) rejected: u64,
    /// What there is to be said, in our own words: the collector's could repeat a secret header.
    pub(super) text: String,
}

impl LastAnswer {
    pub(super) fn get(&self) -> Outcome {
        self.0.lock().clone()
    }
}

impl Outcome {
    fn failed(text: String) -> Self {
        Self { is_taken: false, rejected: 0, text }
    }

    /// Judges an answer. The answers for all signals are of the same form.
    fn of(answer: &Response<Bytes>) -> Self {
        let status = answer.status();
        if !status.is_success() {
            return Self::failed(format!("it answers {status}"));
        }
        let Ok(read) = ExportMetricsServiceResponse::decode(answer.body().clone()) else {
            return Self::failed(format!("it answers {status}, but not as a collector does"));
        };
        let rejected = read.partial_success.map_or(0, |partial| partial.rejected_data_points);
        let rejected = u64::try_from(rejected).unwrap_or(0);
        let text = match rejected {
            0 => format!("it answers {status}"),
            rejected => format!("it has not taken {rejected} of what it was sent"),
        };
        Self { is_taken: true, rejected, text }
    }
}

impl Collector {
    /// Must be called on the runtime.
    pub(super) fn new(signal: Signal, timeout: Duration, counters: Arc<ServiceCounters>) -> Self {
        counters.sends(signal);
        Self { runtime: Handle::current(), timeout, signal, counters, last_answer: LastAnswer::default() }
    }

    pub(super) fn last_answer(&self) -> LastAnswer {
        self.last_answer.clone()
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let timeout = self.timeout;
        // The timer, too, needs the runtime.
        let sent = self.runtime.spawn(async move { tokio::time::timeout(timeout, send(request)).await });
        let answer = match sent.await? {
            Ok(answer) => answer,
            Err(_) => Err(format!("it has not answered within {timeout:?}").into()),
        };
        let outcome = match &answer {
            Ok(answer) => Outcome::of(answer),
            Err(error) => Outcome::failed(error.to_string()),
        };
        self.counters.requested(self.signal, outcome.is_taken);
        *self.last_answer.0.lock() = outcome;
        answer
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let url = Url::parse(&request.uri().to_string())?;
    let mut request = request.map(Full::new);
    request.headers_mut().insert(HOST, HeaderValue::from_str(url.authority())?);
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = path.into();
    }
    let mut answer = exchange(&url, request).await?;
    let body = Limited::new(answer.body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    let mut response = Response::new(body);
    *response.status_mut() = answer.status();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };

    use super::*;

    fn outcome(status: u16, body: impl Into<Bytes>) -> Outcome {
        let mut answer = Response::new(body.into());
        *answer.status_mut() = status.try_into().expect("a status");
        Outcome::of(&answer)
    }

    #[test]
    fn only_what_a_collector_answers_counts_as_taken() {
        let taken = outcome(200, "");
        assert_eq!((taken.is_taken, taken.rejected), (true, 0));
        for (status, body) in [(500, ""), (301, ""), (404, "no"), (200, "<html>"), (200, "ok"), (200, "{}")] {
            let failed = outcome(status, body);
            assert!(!failed.is_taken && failed.text.contains(&status.to_string()), "{body}: {failed:?}");
        }
    }

    #[test]
    fn a_part_that_was_not_taken_is_told_for_each_signal() {
        let partial = ExportMetricsPartialSuccess { rejected_data_points: 7, error_message: "x".into() };
        let metrics = ExportMetricsServiceResponse { partial_success: Some(partial) };
        let partial = ExportTracePartialSuccess { rejected_spans: 7, error_message: "x".into() };
        let traces = ExportTraceServiceResponse { partial_success: Some(partial) };
        for body in [metrics.encode_to_vec(), traces.encode_to_vec()] {
            let taken = outcome(200, body);
            assert_eq!((taken.is_taken, taken.rejected), (true, 7), "{taken:?}");
        }
    }
}
