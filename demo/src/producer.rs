//! Sends what the generator makes, at a steady rate, and writes it into the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError};

use super::Error;
use super::generator::{Generator, Sample};
use super::ledger::Ledger;
use super::place::connect_redis;
use sluicegate_verdicts::EntryId;

/// Sets the interval at which entries are sent.
const TICK: Duration = Duration::from_millis(10);
/// Bounds the entries sent at once, because there is much to catch up with after an outage.
const AT_ONCE: u64 = 1_000;
/// Bounds how long Redis may be away.
const MAX_OUTAGE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Sends entries and knows what it has sent.
#[derive(Debug)]
pub struct Producer {
    redis_url: String,
    stream: String,
    generator: Generator,
    ledger: Ledger,
    connection: Option<MultiplexedConnection>,
    sent: Arc<AtomicU64>,
}

impl Producer {
    /// Makes a producer that is not connected yet.
    #[must_use]
    pub fn new(redis_url: &str, stream: &str, generator: Generator, ledger: Ledger) -> Self {
        Self {
            redis_url: redis_url.to_owned(),
            stream: stream.to_owned(),
            generator,
            ledger,
            connection: None,
            sent: Arc::default(),
        }
    }

    /// Returns the counter of the entries that Redis has taken, for somebody who watches.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// Sends `a_second` entries per second for `duration`, and returns what was sent.
    ///
    /// While Redis is away it tries again, for half a minute at most; then it catches up.
    pub async fn run(mut self, a_second: u64, duration: Duration) -> Result<Ledger, Error> {
        let start = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut made = 0;
        loop {
            ticks.tick().await;
            let elapsed = start.elapsed().min(duration);
            let due = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_mul(a_second) / 1_000;
            let now = due.saturating_sub(made).min(AT_ONCE);
            // The time of an event is when it is handed to Redis, to the microsecond.
            let samples: Vec<Sample> = (0..now).map(|_| self.generator.sample(Utc::now())).collect();
            self.send(samples).await?;
            made += now;
            if elapsed == duration && made == due {
                return Ok(self.ledger);
            }
        }
    }

    /// Sends these entries, and tries again until Redis has taken all of them.
    async fn send(&mut self, samples: Vec<Sample>) -> Result<(), Error> {
        if samples.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + MAX_OUTAGE;
        loop {
            match self.try_send(&samples).await {
                Ok(ids) => {
                    self.sent.fetch_add(u64::try_from(ids.len()).unwrap_or(0), Ordering::Relaxed);
                    samples.into_iter().zip(ids).for_each(|(sample, id)| self.ledger.sent(sample, id));
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {
                    self.connection = None;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn try_send(&mut self, samples: &[Sample]) -> Result<Vec<EntryId>, Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect_redis(&self.redis_url).await?),
        };
        let mut pipeline = Pipeline::with_capacity(samples.len());
        for sample in samples {
            let command = pipeline.cmd("XADD").arg(&self.stream).arg("*");
            for (name, value) in &sample.fields {
                command.arg(name.as_slice()).arg(value.as_slice());
            }
        }
        let replies: Result<Vec<String>, RedisError> = pipeline.query_async(connection).await;
        let ids = replies.map(|ids| ids.iter().map_while(|id| EntryId::parse(id.as_bytes())).collect());
        match ids {
            Ok(ids) => Ok(ids),
            Err(source) => {
                samples.iter().for_each(|sample| self.ledger.unanswered(sample));
                Err(Error::Redis { what: "XADD", source })
            }
        }
    }
}
