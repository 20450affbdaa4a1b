//! Takes what the service sends by OTLP, as a collector does.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;

/// Holds a collector that lives as long as the test's process.
pub struct Collector {
    pub url: String,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// Holds a request as it came.
#[derive(Clone)]
struct Taken {
    head: String,
    body: Vec<u8>,
}

impl Collector {
    /// Starts a collector that takes everything.
    pub fn start() -> Self {
        Self::answering("200 OK", b"")
    }

    /// Starts one that answers all requests in this way.
    pub fn answering(status: &'static str, body: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::<Mutex<Vec<Taken>>>::default();
        let to = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if let Some(request) = take(&mut stream) {
                    to.lock().unwrap().push(request);
                    let length = body.len();
                    let head =
                        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                    // The service may be gone meanwhile.
                    let _ = stream.write_all(&[head.as_bytes(), body].concat());
                }
            }
        });
        Self { url, taken }
    }

    /// Returns the requests with traces, each with its head in lower case.
    pub fn traces(&self) -> Vec<(String, ExportTraceServiceRequest)> {
        self.sent_to("/v1/traces")
    }

    /// Returns the requests with metrics, each with its head in lower case.
    pub fn metrics(&self) -> Vec<(String, ExportMetricsServiceRequest)> {
        self.sent_to("/v1/metrics")
    }

    fn sent_to<M: Message + Default>(&self, path: &str) -> Vec<(String, M)> {
        let taken = self.taken.lock().unwrap();
        let taken = taken.iter().filter(|taken| taken.head.starts_with(&format!("post {path} ")));
        taken.map(|taken| (taken.head.clone(), M::decode(taken.body.as_slice()).unwrap())).collect()
    }
}

/// Reads a request, unless the service ends in the middle of it.
fn take(stream: &mut TcpStream) -> Option<Taken> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut more = [0; 4_096];
        let read = stream.read(&mut more).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&more[..read]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes.drain(..end + 4).collect()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            break (head.clone(), length.parse::<usize>().unwrap());
        }
    };
    let mut rest = vec![0; length - bytes.len()];
    stream.read_exact(&mut rest).ok()?;
    bytes.extend(rest);
    Some(Taken { head, body: bytes })
}

/// Returns the attributes of something, their values as text.
pub fn attributes(pairs: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.as_str(), text(&pair.value))).collect()
}
