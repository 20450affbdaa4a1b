//! XADD, for what rules have published and is committed.

use redis::aio::MultiplexedConnection;

use super::{Error, Stream};
use crate::capabilities::Publication;

impl Stream {
    /// Adds entries to their streams. After an error none, some or all may be there.
    pub async fn publish(&self, publications: &[Publication]) -> Result<(), Error> {
        let mut shared = self.redis.shared().await?;
        match publish(self, publications, &mut shared.connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.redis.failed(&shared, error).await),
        }
    }
}

pub(super) async fn publish(
    stream: &Stream,
    publications: &[Publication],
    connection: &mut MultiplexedConnection,
) -> Result<(), Error> {
    if publications.is_empty() {
        return Ok(());
    }
    let mut pipeline = redis::pipe();
    for Publication { stream: name, fields } in publications {
        let command = pipeline.cmd("XADD").arg(name);
        if let Some(length) = stream.publish.get(name).filter(|length| **length > 0) {
            command.arg("MAXLEN").arg("~").arg(length);
        }
        command.arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
    }
    let sent: Result<redis::Value, _> = pipeline.query_async(connection).await;
    sent.map(drop).map_err(|source| stream.error("XADD", source))
}
