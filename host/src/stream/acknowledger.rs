//! Acknowledges with XACK what is committed.

use redis::aio::MultiplexedConnection;

use super::publish::Unsent;
use super::{Error, Stream};
use crate::batch::Tally;
use crate::failpoint::failpoint;
use crate::store::Committed;

/// Sends XACK for committed entries only, and before it what their rules have published.
pub struct Acknowledger {
    stream: Stream,
}

/// Committed entries on their way to XACK.
#[derive(Debug)]
pub struct Unacknowledged {
    committed: Committed,
    unsent: Unsent,
    is_paced: bool,
    is_acknowledged: bool,
}

impl Unacknowledged {
    /// Wraps entries of which nothing was sent. If `is_paced`, publications go with pauses.
    pub fn new(committed: Committed, is_paced: bool) -> Self {
        Self { unsent: Unsent::all(committed.publications()), committed, is_paced, is_acknowledged: false }
    }

    /// Returns whether Redis has acknowledged the entries.
    pub fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> usize {
        self.committed.ids().len()
    }

    pub fn tally(&self) -> Tally {
        self.committed.tally()
    }
}

impl Acknowledger {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Sends what these batches have published, and acknowledges all of their entries. After an
    /// error, the batches that are not acknowledged are to be given again.
    pub async fn acknowledge<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a mut Unacknowledged>,
    ) -> Result<(), Error> {
        let mut shared = self.stream.redis.shared().await?;
        match self.try_acknowledge(batches.collect(), &mut shared.connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }

    /// Acknowledges first what publishes nothing: a server that is out of memory takes XACK, which
    /// frees memory. Then it sends publications, and then their XACK. An entry without XACK comes
    /// again and publishes again, so a publication may be sent twice but is not lost.
    async fn try_acknowledge(
        &self,
        batches: Vec<&mut Unacknowledged>,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Error> {
        let stream = &self.stream;
        failpoint!("before_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
        let (mut silent, publishing): (Vec<_>, Vec<_>) =
            batches.into_iter().partition(|batch| batch.unsent.is_empty());
        self.send(&mut silent, connection).await?;
        let mut sent = Vec::new();
        let mut outcome = Ok(());
        for batch in publishing {
            outcome =
                batch.unsent.send(stream, batch.committed.publications(), batch.is_paced, connection).await;
            if outcome.is_err() {
                break;
            }
            sent.push(batch);
        }
        self.send(&mut sent, connection).await?;
        outcome
    }

    async fn send(
        &self,
        batches: &mut [&mut Unacknowledged],
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Error> {
        if batches.is_empty() {
            return Ok(());
        }
        let stream = &self.stream;
        let mut pipeline = redis::pipe();
        for batch in &*batches {
            let command = pipeline.cmd("XACK").arg(&stream.name).arg(&stream.group);
            for id in batch.committed.ids() {
                command.arg(id.to_string());
            }
        }
        let counts: Vec<u64> =
            pipeline.query_async(connection).await.map_err(|source| stream.error("XACK", source))?;
        failpoint!("after_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
        let mut expected = 0;
        for batch in batches {
            batch.is_acknowledged = true;
            expected += batch.entries();
        }
        tracing::debug!(expected, acknowledged = counts.iter().sum::<u64>(), "acknowledged");
        Ok(())
    }
}
