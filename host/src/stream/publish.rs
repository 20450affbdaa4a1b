//! Sends with XADD what rules have published, once it is committed.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::{Error, Stream};
use crate::capabilities::Publication;

/// The largest number of entries in one pipeline.
const ENTRIES_AT_ONCE: usize = 100;
/// The largest number of bytes in one pipeline, unless a single entry has more.
const BYTES_AT_ONCE: usize = 256 << 10;

/// The pause of a heavy batch for each [`BYTES_AT_ONCE`] sent, begun or whole: at most 25 MiB a
/// second. All tenants wait for the server, and for the disk on which it keeps a log.
const PAUSE: Duration = Duration::from_millis(10);

impl Stream {
    /// Adds entries to their streams. After an error, none, some or all of them may be there.
    pub async fn publish(&self, publications: &[Publication]) -> Result<(), Error> {
        let mut shared = self.redis.shared().await?;
        let mut unsent = Unsent::all(publications);
        match unsent.send(self, publications, false, &mut shared.connection).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.redis.failed(&shared, error).await),
        }
    }
}

/// The publications of a batch that are not sent yet. A server that is out of memory refuses some
/// and takes others, time and again; those that it took are not sent twice.
#[derive(Debug)]
pub(super) struct Unsent(Vec<usize>);

impl Unsent {
    pub(super) fn all(publications: &[Publication]) -> Self {
        Self((0..publications.len()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends what is left, in its order, up to the first portion in which something is refused. If
    /// the connection breaks, nobody knows what of a portion arrived, and all of it is left.
    pub(super) async fn send(
        &mut self,
        stream: &Stream,
        publications: &[Publication],
        with_pauses: bool,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Error> {
        while !self.is_empty() {
            let left: Vec<&Publication> = self.0.iter().filter_map(|at| publications.get(*at)).collect();
            let portion = at_once(&left);
            let pause = pause_after(left.iter().take(portion).map(|publication| publication.bytes()).sum());
            let results = add(stream, left.iter().take(portion), connection).await?;
            let mut refusal = None;
            let mut results = results.into_iter();
            // The refused publications of the portion remain, and so do those after the portion.
            self.0.retain(|_| match results.next() {
                Some(Ok(_)) => false,
                Some(Err(error)) => {
                    refusal.get_or_insert(error);
                    true
                }
                None => true,
            });
            if let Some(source) = refusal {
                return Err(stream.error("XADD", source));
            }
            if with_pauses {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }
}

/// Returns how many of these go into one pipeline, at least one: the connection, and the thread
/// that fills it, are not this tenant's alone.
fn at_once(publications: &[&Publication]) -> usize {
    let mut bytes = 0_usize;
    let fits = |publication: &&&Publication| {
        bytes = bytes.saturating_add(publication.bytes());
        bytes <= BYTES_AT_ONCE
    };
    publications.iter().take(ENTRIES_AT_ONCE).take_while(fits).count().max(1).min(publications.len())
}

/// Returns the pause after a pipeline of this many bytes.
fn pause_after(bytes: usize) -> Duration {
    PAUSE * u32::try_from(bytes.div_ceil(BYTES_AT_ONCE)).unwrap_or(u32::MAX)
}

/// Adds these entries, and returns the result of each.
async fn add<'a>(
    stream: &Stream,
    publications: impl Iterator<Item = &'a &'a Publication>,
    connection: &mut MultiplexedConnection,
) -> Result<Vec<RedisResult<Value>>, Error> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
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
    pipeline.query_async(connection).await.map_err(|source| stream.error("XADD", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_what_was_sent() {
        assert_eq!(
            [1, BYTES_AT_ONCE, BYTES_AT_ONCE + 1, 1 << 20].map(pause_after),
            [1, 1, 2, 4].map(|n| n * PAUSE)
        );
    }
}
