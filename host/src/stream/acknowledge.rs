//! XACK, for what is committed.

use redis::aio::MultiplexedConnection;

use super::{Error, PATIENCE, Stream};
use crate::failpoint::failpoint;
use crate::store::Committed;

/// Sends XACK, for committed entries only.
pub struct Acknowledger {
    stream: Stream,
    connection: Option<MultiplexedConnection>,
}

impl Acknowledger {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, connection: None }
    }

    /// Acknowledges all entries of these batches. After an error none, some or
    /// all may be acknowledged: call again with the same.
    pub async fn acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let acknowledged = self.try_acknowledge(batches).await;
        if acknowledged.is_err() {
            self.connection = None;
        }
        acknowledged
    }

    async fn try_acknowledge(&mut self, batches: &[Committed]) -> Result<(), Error> {
        let stream = &self.stream;
        failpoint!("before_ack", stream.error("XACK", std::io::Error::other("failpoint").into()));
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(stream.connect(PATIENCE).await?),
        };
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
