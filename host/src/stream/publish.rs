//! XADD, for what rules have published and is committed.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::{Error, Stream};
use crate::capabilities::Publication;

/// Entries of one pipeline.
const ENTRIES_AT_ONCE: usize = 100;
/// Bytes of one pipeline, unless they are of a single entry.
const BYTES_AT_ONCE: usize = 256 << 10;

/// Between two pipelines of a batch that publishes more than it brought: all tenants wait for the server, and for
/// the disk on which it keeps a log.
const PAUSE: Duration = Duration::from_millis(10);

impl Stream {
    /// Adds entries to their streams. After an error none, some or all may be there.
    pub async fn publish(&self, publications: &[Publication]) -> Result<(), Error> {
        let mut shared = self.redis.shared().await?;
        match publish(self, publications, false, &mut shared.connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.redis.failed(&shared, error).await),
        }
    }
}

pub(super) async fn publish(
    stream: &Stream,
    publications: &[Publication],
    with_pauses: bool,
    connection: &mut MultiplexedConnection,
) -> Result<(), Error> {
    let mut rest = publications;
    while !rest.is_empty() {
        let (portion, later) = rest.split_at(at_once(rest));
        add(stream, portion, connection).await?;
        rest = later;
        if with_pauses && !rest.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// How many of these go in one pipeline, at least one: the connection is not
/// this tenant's alone, and neither is the thread that fills it.
fn at_once(publications: &[Publication]) -> usize {
    let mut bytes = 0_usize;
    let fits = |publication: &&Publication| {
        bytes = bytes.saturating_add(publication.bytes());
        bytes <= BYTES_AT_ONCE
    };
    publications.iter().take(ENTRIES_AT_ONCE).take_while(fits).count().max(1).min(publications.len())
}

async fn add(
    stream: &Stream,
    publications: &[Publication],
    connection: &mut MultiplexedConnection,
) -> Result<(), Error> {
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
