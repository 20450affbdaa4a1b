//! XACK, for what is committed.

use redis::aio::MultiplexedConnection;

use super::{Error, Stream};
use crate::failpoint::failpoint;
use crate::store::Committed;

/// Sends XACK, for committed entries only.
pub struct Acknowledger {
    stream: Stream,
}

impl Acknowledger {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream }
    }

    /// Acknowledges all entries of these batches. After an error none, some or
    /// all may be acknowledged: call again with the same.
    pub async fn acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let mut shared = self.stream.redis.shared().await?;
        match self.try_acknowledge(batches, &mut shared.connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.stream.redis.failed(&shared, error).await),
        }
    }

    async fn try_acknowledge(
        &self,
        batches: &[Committed],
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Error> {
        let stream = &self.stream;
        failpoint!("before_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
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
