//! Reads the variables of OpenTelemetry that say where a signal is sent to. What cannot be used is told in the log, and is
//! no reason to store nothing.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::metrics::Signal;

/// How long a request may take, unless the environment says so.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a signal is sent to, and how.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    /// They may be secret, and are shown nowhere.
    pub(super) headers: HeaderMap,
    /// How long a request may take.
    pub(super) timeout: Duration,
}

/// Why a signal is not sent. It repeats nothing that may be secret: an endpoint may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unusable {
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
    #[error("OTEL_EXPORTER_OTLP_HEADERS does not read; wanted name=value, more of them after commas")]
    Headers,
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {0:?}; wanted http/protobuf, which collectors take at port 4318")]
    Protocol(String),
    #[error("OTEL_EXPORTER_OTLP_COMPRESSION is {0:?}; wanted none, to a collector nearby")]
    Compression(String),
    #[error("{variable} is {found:?}; wanted a number of milliseconds, {least} or more")]
    Milliseconds { variable: &'static str, found: String, least: u64 },
    #[error(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is {0:?}; wanted cumulative, as /metrics counts"
    )]
    Temporality(String),
    #[error("the variables OTEL_… are not as OpenTelemetry defines them")]
    Variables,
}

/// Returns a variable's value. One that is empty counts as unset.
pub(super) trait Lookup: Fn(&str) -> Option<String> {}
impl<F: Fn(&str) -> Option<String>> Lookup for F {}

impl Endpoint {
    /// Returns where a signal is to be sent, or `None` if it is not.
    pub(super) fn of(signal: Signal, lookup: &impl Lookup) -> Option<Result<Self, Unusable>> {
        let of_signal = |name: &str| lookup(&variable(signal, name));
        let endpoint = of_signal("ENDPOINT").or_else(|| {
            let endpoint = lookup("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            let endpoint = endpoint.strip_suffix('/').unwrap_or(&endpoint);
            Some(format!("{endpoint}/v1/{}", signal.as_str()))
        })?;
        let exporter = match signal {
            Signal::Traces => lookup("OTEL_TRACES_EXPORTER"),
            Signal::Metrics => lookup("OTEL_METRICS_EXPORTER"),
        };
        // It is a list.
        let goes_elsewhere = exporter.is_some_and(|names| names.split(',').all(|name| name.trim() != "otlp"));
        let is_disabled = lookup("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if goes_elsewhere || is_disabled {
            return None;
        }
        let of_any = |name: &str| of_signal(name).or_else(|| lookup(&format!("OTEL_EXPORTER_OTLP_{name}")));
        Some(Self::read(&endpoint, &of_any))
    }

    fn read(endpoint: &str, of_any: &impl Lookup) -> Result<Self, Unusable> {
        let url = read_url(endpoint)?;
        if let Some(other) = of_any("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
            return Err(Unusable::Protocol(other));
        }
        if let Some(other) = of_any("COMPRESSION").filter(|compression| compression != "none") {
            return Err(Unusable::Compression(other));
        }
        let timeout = milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", of_any("TIMEOUT"), 1)?;
        Ok(Self {
            url,
            headers: read_headers(&of_any("HEADERS").unwrap_or_default())?,
            timeout: timeout.unwrap_or(REQUEST_TIMEOUT),
        })
    }
}

/// Returns the name of the variable that is for one signal.
fn variable(signal: Signal, name: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.as_str().to_uppercase())
}

fn read_url(endpoint: &str) -> Result<Url, Unusable> {
    let url = Url::parse(endpoint).map_err(|_| Unusable::Endpoint)?;
    match url.scheme() {
        "http" if !url.username().is_empty() || url.password().is_some() => Err(Unusable::Credentials),
        "http" => Ok(url),
        "https" => Err(Unusable::Tls),
        _ => Err(Unusable::Endpoint),
    }
}

/// Reads `name=value,…`, in which values are percent-encoded.
fn read_headers(text: &str) -> Result<HeaderMap, Unusable> {
    let mut headers = HeaderMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Unusable::Headers)?;
        let name: HeaderName = name.trim().parse().map_err(|_| Unusable::Headers)?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value).map_err(|_| Unusable::Headers)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Reads a time of a variable, if it is set.
pub(super) fn milliseconds(
    variable: &'static str,
    found: Option<String>,
    least: u64,
) -> Result<Option<Duration>, Unusable> {
    let Some(found) = found else { return Ok(None) };
    match found.trim().parse().ok().filter(|number| *number >= least) {
        Some(number) => Ok(Some(Duration::from_millis(number))),
        None => Err(Unusable::Milliseconds { variable, found, least }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(signal: Signal, variables: &[(&str, &str)]) -> Option<Result<Endpoint, Unusable>> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Endpoint::of(signal, &lookup)
    }

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
            assert_eq!(read_url(endpoint).map(|_| ()), outcome, "{endpoint}");
        }
    }

    #[test]
    fn a_path_is_added_to_the_endpoint_of_all_signals() {
        let all = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let own = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
        for (variables, wanted) in [
            (&[(all, "http://a:4318")][..], "http://a:4318/v1/metrics"),
            (&[(all, "http://a:4318/")], "http://a:4318/v1/metrics"),
            (&[(all, "http://a/otlp")], "http://a/otlp/v1/metrics"),
            (&[(all, "http://a"), (own, "http://b/x/")], "http://b/x/"),
            (&[(own, "http://b")], "http://b/"),
        ] {
            let found = endpoint(Signal::Metrics, variables).expect("one").expect("a good one");
            assert_eq!(found.url.as_str(), wanted, "{variables:?}");
        }
        assert!(endpoint(Signal::Traces, &[(own, "http://b")]).is_none());
    }

    #[test]
    fn a_signal_can_be_left_out() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318");
        for (name, value, is_sent) in [
            ("OTEL_METRICS_EXPORTER", "none", false),
            ("OTEL_METRICS_EXPORTER", "prometheus", false),
            ("OTEL_METRICS_EXPORTER", "prometheus, otlp", true),
            ("OTEL_TRACES_EXPORTER", "none", true),
            ("OTEL_SDK_DISABLED", "TRUE", false),
            ("OTEL_SDK_DISABLED", "yes", true),
        ] {
            assert_eq!(endpoint(Signal::Metrics, &[all, (name, value)]).is_some(), is_sent, "{name}={value}");
        }
    }

    #[test]
    fn headers_are_decoded_and_hidden() {
        let headers = read_headers("api-key=a%20b%3D, x = y=z,").expect("headers");
        assert_eq!(
            (&headers["api-key"], &headers["x"]),
            (&HeaderValue::from_static("a b="), &HeaderValue::from_static("y=z"))
        );
        assert!(!format!("{headers:?}").contains("a b="));
        for bad in ["api-key", "a b=c", "x=%0d%0a", "=x"] {
            assert_eq!(read_headers(bad).expect_err(bad), Unusable::Headers);
        }
    }

    #[test]
    fn a_time_has_a_least_value() {
        let read = |text: &str| milliseconds("X", Some(text.to_owned()), 100);
        assert_eq!(read(" 100 "), Ok(Some(Duration::from_millis(100))));
        for bad in ["99", "1s", "-1", ""] {
            let error = read(bad).expect_err(bad).to_string();
            assert!(error.contains("wanted a number of milliseconds, 100 or more"), "{error}");
        }
    }
}
