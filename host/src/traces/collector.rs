//! Sends spans to a collector by HTTP.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use url::Url;

use crate::client::exchange;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Sends on the service's runtime, for a thread that has none.
pub(super) struct Collector {
    runtime: Handle,
    /// How long a request may take.
    timeout: Duration,
    last_answer: LastAnswer,
}

/// What came of the last request, in our own words: the collector's could repeat a secret header.
#[derive(Clone, Default)]
pub(super) struct LastAnswer(Arc<Mutex<String>>);

impl LastAnswer {
    pub(super) fn get(&self) -> String {
        self.0.lock().clone()
    }

    fn set(&self, answer: String) {
        *self.0.lock() = answer;
    }
}

impl Collector {
    /// Must be called on the runtime.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { runtime: Handle::current(), timeout, last_answer: LastAnswer::default() }
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
        self.last_answer.set(match &answer {
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) => error.to_string(),
        });
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
