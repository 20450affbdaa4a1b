//! Runs a real Prometheus, which scrapes a service.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::admin::{Admin, Answer};
use crate::tool::cached;
use crate::wait::until;

/// Holds a Prometheus with data of its own, and kills it when dropped.
pub struct Prometheus {
    child: Child,
    log: PathBuf,
    api: Admin,
}

impl Prometheus {
    /// Starts one that scrapes this API every second, with more lines of the job's settings.
    pub fn start(folder: &Path, scraped: &Admin, settings: &str) -> Self {
        let (config, log) = (folder.join("prometheus.yml"), folder.join("prometheus.log"));
        let target = format!("127.0.0.1:{}", scraped.port());
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n  - job_name: sluicegate\n    \
             static_configs: [{{ targets: [\"{target}\"] }}]\n{settings}"
        );
        fs::write(&config, text).expect("the folder takes a file");
        let output = File::create(&log).expect("a log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(cached("prometheus-trixie-1/bin/prometheus", "prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("setpriv (of util-linux) starts prometheus");
        let address = until("the address of prometheus", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("Listening on"));
            let address = line.and_then(|line| line.rsplit_once("address=")?.1.trim().parse().ok());
            address.ok_or(text)
        });
        let prometheus = Self { child, log, api: Admin::new(address) };
        until("a prometheus that is ready", || match prometheus.get("/-/ready").status {
            200 => Ok(()),
            status => Err(status.to_string()),
        });
        prometheus
    }

    /// Returns what is under `data` of an answer of its API.
    pub fn ask(&self, path: &str) -> Value {
        let answer = self.get(&format!("/api/v1/{path}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["data"].clone()
    }

    fn get(&self, path: &str) -> Answer {
        // An answer to HTTP/1.0 has no chunks, and ends the connection.
        self.api.send(&format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
    }

    /// Returns the value of an expression that has one series, if it has one now.
    pub fn value(&self, expression: &str) -> Option<f64> {
        let data = self.ask(&format!("query?query={expression}"));
        data["result"][0]["value"][1].as_str().map(|value| value.parse().expect("a number"))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
