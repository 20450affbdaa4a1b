//! XACK, for what is committed.

use redis::aio::MultiplexedConnection;

use super::publish::publish;
use super::{Error, Stream};
use crate::failpoint::failpoint;
use crate::store::Committed;

/// Sends XACK, for committed entries only, and before it what their rules have published.
pub struct Acknowledger {
    stream: Stream,
    /// The batches whose publications were sent, of those that could not be acknowledged yet.
    published: usize,
}

impl Acknowledger {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, published: 0 }
    }

    /// Acknowledges all entries of these batches. After an error none, some or
    /// all may be acknowledged: call again with the same.
    pub async fn acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let mut shared = self.stream.redis.shared().await?;
        match self.try_acknowledge(batches, &mut shared.connection).await {
            Ok(()) => {
                self.published = 0;
                Ok(())
            }
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }

    async fn try_acknowledge(
        &mut self,
        batches: &[Committed],
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Error> {
        let stream = &self.stream;
        failpoint!("before_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
        // First what is published, then the XACK: what is not acknowledged comes again
        // and is published again, so it may come twice, but is not lost.
        for batch in batches.iter().skip(self.published) {
            let has_surplus = batch.publications().len() > batch.ids().len();
            publish(stream, batch.publications(), has_surplus, connection).await?;
            self.published += 1;
        }
        let mut pipeline = redis::pipe();
        for batch in batches {
            let command = pipeline.cmd("XACK").arg(&stream.name).arg(&stream.group);
            for id in batch.ids() {
                command.arg(id.to_string());
            }
        }
        let counts: Vec<u64> =
            pipeline.query_async(connection).await.map_err(|source| stream.error("XACK", source))?;
        failpoint!("after_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
        let expected: usize = batches.iter().map(|batch| batch.ids().len()).sum();
        tracing::debug!(expected, acknowledged = counts.iter().sum::<u64>(), "acknowledged");
        Ok(())
    }
}
