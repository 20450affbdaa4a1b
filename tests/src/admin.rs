//! Asks the admin API of a service, byte by byte where a test is about that.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sluicegate::batch::Digest;

use crate::tool::cached;
use crate::wait::until;

/// Names an admin API, and asks it with the headers of a plain client.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    headers: String,
}

/// Holds an answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Holds the lines of the head, in lower case.
    pub head: String,
    pub body: String,
}

impl Admin {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, headers: String::new() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the same API, asked with a header more.
    #[must_use]
    pub fn with(&self, header: &str) -> Self {
        Self { address: self.address, headers: format!("{}{header}\r\n", self.headers) }
    }

    /// Returns the same API, asked by the holder of a token.
    #[must_use]
    pub fn as_holder(&self, token: &str) -> Self {
        self.with(&format!("Authorization: Bearer {token}"))
    }

    /// Opens a connection on which nothing was sent yet.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the service listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    pub fn ask(&self, method: &str, path: &str) -> Answer {
        let host = match self.headers.to_lowercase().contains("host:") {
            true => String::new(),
            false => format!("Host: {}\r\n", self.address),
        };
        self.send(&format!("{method} {path} HTTP/1.1\r\n{host}{}\r\n", self.headers))
    }

    /// Sends a body of this type.
    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            self.headers,
            body.len()
        );
        self.send_bytes(&[head.as_bytes(), body].concat())
    }

    /// Sends JSON.
    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/json", body.to_string().as_bytes())
    }

    /// Waits until a job is in this state, and returns it.
    pub fn until_job(&self, id: i64, state: &str) -> Value {
        until(&format!("job {id} {state}"), || match self.get(&format!("/v1/jobs/{id}")).json() {
            job if job["state"] == state => Ok(job),
            job => Err(job.to_string()),
        })
    }

    /// Sends this, and returns what comes until the server closes the connection.
    pub fn send(&self, request: &str) -> Answer {
        self.send_bytes(request.as_bytes())
    }

    fn send_bytes(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).expect("the service reads");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the service answers");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// Opens a stream of events, and waits until it has begun.
    pub fn watch(&self, path: &str) -> Watch {
        let mut stream = self.connect();
        // An answer to HTTP/1.0 has no chunks.
        let head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n{}\r\n", self.address, self.headers);
        stream.write_all(head.as_bytes()).expect("the service reads");
        let mut watch = Watch(BufReader::new(stream));
        let mut head = String::new();
        while watch.0.read_line(&mut head).expect("the service answers") > 2 {}
        let head = head.to_lowercase();
        assert!(head.contains(" 200 ") && head.contains("content-type: text/event-stream"), "{head}");
        let mut begin = String::new();
        watch.0.read_line(&mut begin).expect("the stream begins");
        assert_eq!(begin, ": watching\n");
        watch
    }

    /// Returns the value of a sample of `/metrics`, as in `entries_total{tenant="a"}`, if it is there.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200, "{page:?}");
        let value = page.body.lines().find_map(|line| line.strip_prefix("sluicegate_")?.strip_prefix(sample));
        value.map(|value| value.trim().parse().expect("a number"))
    }

    /// Waits until `/readyz` answers this, and returns the body.
    pub fn until_ready(&self, is_ready: bool) -> Value {
        until(&format!("ready: {is_ready}"), || {
            let answer = self.get("/readyz");
            match answer.json()["ready"] == is_ready {
                true => Ok(answer.json()),
                false => Err(answer.body),
            }
        })
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns what a problem says, after a look at its form.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Reads server-sent events.
pub struct Watch(BufReader<TcpStream>);

/// Holds an event: its kind and what it says.
pub type Told = (String, Value);

impl Watch {
    /// Waits for the next entry, and passes over other events.
    pub fn entry(&mut self) -> Value {
        loop {
            match self.next() {
                Some((kind, entry)) if kind == "entry" => return entry,
                Some(_) => {}
                None => panic!("the stream has ended"),
            }
        }
    }
}

impl Iterator for Watch {
    type Item = Told;

    /// Waits for the next event, or for the end of the stream.
    fn next(&mut self) -> Option<Told> {
        let (mut kind, mut id, mut data) = (None, None, None);
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                // What is unread when the service ends is lost.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no event: {error}"),
            }
            let Some((name, value)) = line.trim_end_matches('\n').split_once(": ") else {
                let Some(kind) = kind.take() else { continue };
                let data: String = data.expect("an event has data");
                let data: Value = serde_json::from_str(&data).expect("JSON");
                if let Some(id) = id {
                    assert_eq!(data["entry"], Value::String(id));
                }
                return Some((kind, data));
            };
            match name {
                "event" => kind = Some(value.to_owned()),
                "id" => id = Some(value.to_owned()),
                "data" => data = Some(value.to_owned()),
                _ => panic!("no line of an event: {line:?}"),
            }
        }
    }
}

/// Makes the lines for a token in the file. Its name is the token itself.
pub fn token_line(token: &str, role: &str, more: &str) -> String {
    let digest = Digest::new(token.as_bytes()).to_hex();
    format!("[[token]]\nname = \"{token}\"\nsha256 = \"{digest}\"\nrole = \"{role}\"\n{more}\n")
}

/// Has Prometheus' own tool read a page of metrics, and fails unless it has nothing to say.
pub fn check_metrics(page: &str) {
    let mut promtool = Command::new(cached("prometheus-trixie-1/bin/promtool", "prometheus"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(page.as_bytes()).expect("promtool reads");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\nof:\n{page}");
}
