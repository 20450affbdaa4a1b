//! Makes the events of the benchmark, the same in every run.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use redis::aio::MultiplexedConnection;
use uuid::Uuid;

/// Counts the entries sent at once.
const CHUNK: usize = 1_000;

/// Makes valid events of about 250 bytes, all different.
pub(crate) struct Events {
    random: fastrand::Rng,
    time: DateTime<Utc>,
}

impl Events {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            time: DateTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
        }
    }
}

impl Iterator for Events {
    type Item = String;

    /// Returns the value of the field `data`.
    fn next(&mut self) -> Option<String> {
        self.time += Duration::from_millis(1);
        let random = &mut self.random;
        let event_id = uuid::Builder::from_random_bytes(random.u128(..).to_le_bytes()).into_uuid();
        Some(format!(
            r#"{{"event_id":"{}","event_type":"{}","user_id":"user-{}","timestamp":"{}","properties":{{"page":"/products/{}","referrer":"https://example.com/","amount":{}.5,"tags":["a","b"]}}}}"#,
            Uuid::hyphenated(event_id),
            random.choice(["page_view", "click", "purchase"]).unwrap_or_default(),
            random.u32(..10_000),
            self.time.to_rfc3339_opts(SecondsFormat::Millis, true),
            random.u32(..100_000),
            random.u32(..1_000),
        ))
    }
}

/// Fills a stream with events.
pub(crate) async fn preload(
    redis: &mut MultiplexedConnection,
    stream: &str,
    events: usize,
) -> anyhow::Result<()> {
    let mut source = Events::new(1).take(events);
    loop {
        let mut pipeline = redis::pipe();
        for event in source.by_ref().take(CHUNK) {
            pipeline.cmd("XADD").arg(stream).arg("*").arg("data").arg(event).ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        pipeline.query_async::<()>(redis).await?;
    }
}
