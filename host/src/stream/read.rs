//! XREADGROUP and XCLAIM: new entries, and those that are pending.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio_util::sync::CancellationToken;

use super::reply::{self, Pending};
use super::{Error, PATIENCE, Stream};
use crate::batch::{Entry, EntryId};
use crate::config::Tenant;
use crate::failpoint::failpoint;

/// The bytes of a batch, about, as far as they can be told from the batch before. So what is in flight has a bound in
/// bytes too: `BATCH_SIZE` entries of a few MB, several times, would be more than a machine has.
const BATCH_BYTES: usize = 8 << 20;
/// From this delivery on an entry is read alone: it may be the one that kills
/// the process, and the others of its batch must not be blamed for it.
const SUSPECT_DELIVERIES: u64 = 4;

/// What the reader goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// What was delivered to this consumer before, after this entry.
    Own(EntryId),
    /// What other consumers have held for too long, after this entry.
    Abandoned(EntryId),
    /// What nobody has been given.
    New,
}

/// Reads batches, on a connection of its own because XREADGROUP blocks.
///
/// It begins with what an earlier run of this consumer left pending, goes on
/// with what consumers that are gone left, then with new entries, and looks for
/// abandoned ones again at intervals.
pub struct Reader {
    stream: Stream,
    batch_size: usize,
    /// Entries of the next batch: fewer, when those before were large.
    wanted: usize,
    block: Duration,
    claim_min_idle: Duration,
    connection: Option<ReadConnection>,
    position: Position,
    claimed_at: Instant,
    quiet: Quiet,
    /// Whether some that this consumer has pending were passed over, because quiet did not come.
    has_passed_over: bool,
    /// Reads since the last one that was answered. What the server delivered
    /// in them never arrived, so nothing can have died of it.
    unanswered: u64,
}

struct ReadConnection {
    connection: MultiplexedConnection,
    /// For CLIENT UNBLOCK.
    client_id: i64,
}

/// What one step of the reader gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// In the order of the stream. None when none came in time, or at the end
    /// of a list of pending entries.
    pub entries: Vec<Entry>,
    /// Whether fewer came than were asked for, so that a pause makes the next batch fuller.
    pub is_partial: bool,
    /// The consumers that they were delivered to before, this one or others; none, if they are new.
    pub owners: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(stream: Stream, tenant: &Tenant) -> Self {
        Self {
            stream,
            batch_size: tenant.batch_size,
            wanted: tenant.batch_size,
            block: Duration::from_millis(tenant.block_ms),
            claim_min_idle: Duration::from_millis(tenant.claim_min_idle_ms),
            connection: None,
            position: Position::Own(EntryId::ZERO),
            claimed_at: Instant::now(),
            quiet: Quiet::NotWanted,
            has_passed_over: false,
            unanswered: 0,
        }
    }

    /// Whether the next [`Reader::read`] is to wait until nothing is in flight.
    pub fn quiet(&self) -> Quiet {
        self.quiet
    }

    fn claim_is_due(&self) -> bool {
        self.claimed_at.elapsed() >= self.claim_min_idle
    }

    /// The next entries, at most a batch; none when none came in time or
    /// `shutdown` was called meanwhile. None of those in flight, which are pending too: they would be decided twice.
    ///
    /// After an error the reader begins again with the pending entries, since
    /// the server may have delivered a batch that never arrived.
    pub async fn read(
        &mut self,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        match self.step(is_alone, is_in_flight, shutdown).await {
            Ok(read) => Ok(read),
            // The stream or the group was deleted. A new group at 0 delivers again what is left, and so what is in
            // flight, which must come to its end before; the rows' keys absorb what was stored.
            Err(error) if error.has_code("NOGROUP") => {
                self.position = Position::Own(EntryId::ZERO);
                if std::mem::replace(&mut self.quiet, Quiet::Needed) != Quiet::Needed {
                    tracing::warn!(
                        stream = self.stream.name,
                        group = self.stream.group,
                        "the consumer group is gone"
                    );
                }
                if is_alone {
                    let mut connection = self.stream.connect(PATIENCE).await?;
                    self.stream.make_group(&mut connection).await?;
                    self.quiet = Quiet::NotWanted;
                }
                Ok(Read::default())
            }
            Err(error) => {
                self.connection = None;
                self.position = Position::Own(EntryId::ZERO);
                self.unanswered += 1;
                Err(error)
            }
        }
    }

    async fn step(
        &mut self,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        if self.position == Position::New && self.claim_is_due() {
            self.position = match std::mem::take(&mut self.has_passed_over) {
                true => Position::Own(EntryId::ZERO),
                false => Position::Abandoned(EntryId::ZERO),
            };
        }
        let read = match self.position {
            Position::Own(after) => self.read_own(after, is_alone, is_in_flight, shutdown).await?,
            Position::Abandoned(after) => self.claim(after, is_alone, is_in_flight, shutdown).await?,
            Position::New => {
                self.quiet = Quiet::NotWanted;
                self.read_new(is_in_flight, shutdown).await?
            }
        };
        failpoint!("after_read", self.stream.error("XREADGROUP", std::io::Error::other("failpoint").into()));
        Ok(read)
    }

    /// Whether this part may be read now. A suspect waits until it is alone; in vain, it is passed over for now.
    fn may_read(&mut self, part: &[Pending], is_alone: bool) -> Turn {
        let is_suspect = part.first().is_some_and(Pending::is_suspect);
        let quiet = if is_suspect { Quiet::Wanted } else { Quiet::NotWanted };
        let waited_for = std::mem::replace(&mut self.quiet, quiet);
        match (is_suspect && !is_alone, waited_for) {
            (false, _) => Turn::Now,
            (true, Quiet::NotWanted) => Turn::Quiet,
            (true, Quiet::Wanted | Quiet::Needed) => {
                self.quiet = Quiet::NotWanted;
                Turn::Later
            }
        }
    }

    async fn read_new(
        &mut self,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        let wanted = self.wanted;
        let mut command = self.xreadgroup(wanted);
        command.arg("BLOCK").arg(millis(self.block)).arg("STREAMS").arg(&self.stream.name).arg(">");
        let mut entries = reply::entries(self.ask("XREADGROUP", command, shutdown).await?)?;
        self.unanswered = 0;
        let is_partial = entries.len() < wanted;
        if entries.iter().any(|entry| is_in_flight(entry.id)) {
            // Somebody else has made the group again, or has set it back. They are pending now, and are looked at when
            // it is known what has become of them.
            tracing::warn!("entries that are in flight were delivered again: was the group set back?");
            entries.retain(|entry| !is_in_flight(entry.id));
            (self.position, self.quiet) = (Position::Own(EntryId::ZERO), Quiet::Needed);
        }
        self.note_size(&entries);
        Ok(Read { entries, is_partial, owners: BTreeSet::new() })
    }

    async fn read_own(
        &mut self,
        after: EntryId,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        let mut command = self.xpending();
        command.arg(format!("({after}")).arg("+").arg(self.wanted).arg(&self.stream.consumer);
        let pending = reply::pending(self.ask("XPENDING", command, shutdown).await?)?;
        // XREADGROUP gives what comes next, whatever it is: so no further than to what is in flight.
        let in_flight = pending.iter().take_while(|pending| is_in_flight(pending.id)).count();
        let (in_flight, rest) = pending.split_at_checked(in_flight).unwrap_or_default();
        let end = rest.iter().position(|pending| is_in_flight(pending.id)).unwrap_or(rest.len());
        let after = in_flight.last().map_or(after, |last| last.id);
        let Some(part) = rest.get(..end).and_then(together) else {
            self.position = match in_flight.is_empty() {
                true => Position::Abandoned(EntryId::ZERO),
                false => Position::Own(after),
            };
            return Ok(Read::default());
        };
        match self.may_read(part, is_alone) {
            Turn::Now => {}
            Turn::Quiet => return Ok(Read::default()),
            Turn::Later => {
                self.has_passed_over = true;
                self.position = Position::Own(part.first().map_or(after, |suspect| suspect.id));
                return Ok(Read::default());
            }
        }
        let owners = owners(part);
        let mut command = self.xreadgroup(part.len());
        command.arg("STREAMS").arg(&self.stream.name).arg(after.to_string());
        let mut entries = reply::entries(self.ask("XREADGROUP", command, shutdown).await?)?;
        // If others have taken some of them meanwhile, it goes on with what comes after: another time.
        entries.retain(|entry| part.binary_search_by_key(&entry.id, |pending| pending.id).is_ok());
        self.note_size(&entries);
        if let Some(last) = part.last() {
            self.position = Position::Own(last.id);
        }
        tracing::info!(entries = entries.len(), "reading again what was pending");
        Ok(Read { entries: counted(entries, part, self.unanswered), is_partial: false, owners })
    }

    /// Takes over exactly the entries whose owners are told with them, as long as nobody else has done so meanwhile.
    async fn claim(
        &mut self,
        after: EntryId,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        let min_idle = millis(self.claim_min_idle);
        let mut command = self.xpending();
        command.arg("IDLE").arg(min_idle).arg(format!("({after}")).arg("+").arg(self.wanted);
        let pending = reply::pending(self.ask("XPENDING", command, shutdown).await?)?;
        let Some(last) = pending.last().map(|last| last.id) else {
            self.end_claiming();
            return Ok(Read::default());
        };
        let abandoned: Vec<Pending> =
            pending.into_iter().filter(|pending| !is_in_flight(pending.id)).collect();
        let Some(part) = together(&abandoned) else {
            self.position = Position::Abandoned(last);
            return Ok(Read::default());
        };
        let part_end = part.last().map_or(last, |last| last.id);
        match self.may_read(part, is_alone) {
            Turn::Now => {}
            Turn::Quiet => return Ok(Read::default()),
            Turn::Later => {
                self.position = Position::Abandoned(part_end);
                return Ok(Read::default());
            }
        }
        let owners = owners(part);
        // XCLAIM drops deleted entries from the pending list at once. Instead they are read as they are, and
        // stay pending with the other consumer until their dead letters are committed and they are acknowledged.
        let deleted = self.deleted(part, shutdown).await?;
        if !deleted.is_empty() {
            tracing::info!(entries = deleted.len(), "deleted while other consumers held them");
            return Ok(Read { entries: counted(deleted, part, self.unanswered), is_partial: false, owners });
        }
        let stream = &self.stream;
        let mut command = redis::cmd("XCLAIM");
        command.arg(&stream.name).arg(&stream.group).arg(&stream.consumer).arg(min_idle);
        for pending in part {
            command.arg(pending.id.to_string());
        }
        let claimed = reply::claimed(self.ask("XCLAIM", command, shutdown).await?)?;
        self.position = Position::Abandoned(part_end);
        self.note_size(&claimed);
        if !claimed.is_empty() {
            tracing::info!(entries = claimed.len(), "claimed what other consumers left pending");
        }
        Ok(Read { entries: counted(claimed, part, self.unanswered), is_partial: false, owners })
    }

    /// Those of the pending entries that are no longer in the stream.
    async fn deleted(
        &mut self,
        pending: &[Pending],
        shutdown: &CancellationToken,
    ) -> Result<Vec<Entry>, Error> {
        let mut pipeline = redis::pipe();
        for Pending { id, .. } in pending {
            let id = id.to_string();
            pipeline.cmd("XRANGE").arg(&self.stream.name).arg(&id).arg(&id);
        }
        let ask = async move |connection: &mut MultiplexedConnection| {
            pipeline.query_async::<Vec<Value>>(connection).await
        };
        let found = self.wait_for("XRANGE", ask, shutdown).await?;
        let is_gone = |found: &Value| matches!(found, Value::Array(entries) if entries.is_empty());
        let gone = pending.iter().zip(&found).filter(|(_, found)| is_gone(found));
        Ok(gone.map(|(pending, _)| Entry { id: pending.id, fields: None, deliveries: 1 }).collect())
    }

    /// The next batch is to have about [`BATCH_BYTES`] at most, if its entries are like these.
    fn note_size(&mut self, entries: &[Entry]) {
        let fields = entries.iter().filter_map(|entry| entry.fields.as_ref()).flatten();
        let bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        if let Some(mean) = bytes.checked_div(entries.len()) {
            self.wanted = (BATCH_BYTES / mean.max(1)).clamp(1, self.batch_size);
        }
    }

    fn end_claiming(&mut self) {
        self.position = Position::New;
        self.claimed_at = Instant::now();
    }

    fn xreadgroup(&self, count: usize) -> Cmd {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&self.stream.group).arg(&self.stream.consumer).arg("COUNT").arg(count);
        command
    }

    fn xpending(&self) -> Cmd {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.stream.name).arg(&self.stream.group);
        command
    }

    /// Sends a command and waits for its reply, or ends it when `shutdown` is called.
    async fn ask(
        &mut self,
        name: &'static str,
        command: Cmd,
        shutdown: &CancellationToken,
    ) -> Result<Value, Error> {
        let ask = async move |connection: &mut MultiplexedConnection| command.query_async(connection).await;
        self.wait_for(name, ask, shutdown).await
    }

    async fn wait_for<T>(
        &mut self,
        name: &'static str,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
        shutdown: &CancellationToken,
    ) -> Result<T, Error> {
        let stream = &self.stream;
        let ReadConnection { connection, client_id } = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(stream.connect_for_reading(self.block).await?),
        };
        let mut reply = std::pin::pin!(ask(connection));
        let reply = tokio::select! {
            reply = &mut reply => reply,
            () = shutdown.cancelled() => match stream.unblock(*client_id, reply).await {
                Some(reply) => reply,
                // What it may still deliver stays pending, for the next start.
                None => return Err(Error::Unanswered { command: name }),
            },
        };
        reply.map_err(|source| stream.error(name, source))
    }
}

/// Whether a read is to wait until nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// No.
    NotWanted,
    /// If that does not take too long: an entry that is suspected to kill the process should be alone with it.
    Wanted,
    /// However long it takes: what is in flight would be delivered again.
    Needed,
}

/// When pending entries are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Now,
    /// When nothing else is in flight.
    Quiet,
    /// Not now.
    Later,
}

impl Pending {
    fn is_suspect(&self) -> bool {
        self.deliveries + 1 >= SUSPECT_DELIVERIES
    }
}

/// The pending entries that may be read in one batch: all up to the first
/// suspect, or the suspect alone. `None` when nothing is pending.
fn together(pending: &[Pending]) -> Option<&[Pending]> {
    let suspect = pending.iter().position(Pending::is_suspect);
    pending.get(..suspect.unwrap_or(pending.len()).max(1)).filter(|part| !part.is_empty())
}

fn owners(pending: &[Pending]) -> BTreeSet<String> {
    pending.iter().map(|pending| pending.owner.clone()).collect()
}

/// The entries with the number of their deliveries, this one included, those that never arrived left out.
fn counted(mut entries: Vec<Entry>, pending: &[Pending], unanswered: u64) -> Vec<Entry> {
    for entry in &mut entries {
        if let Ok(at) = pending.binary_search_by_key(&entry.id, |pending| pending.id) {
            let before = pending.get(at).map_or(0, |pending| pending.deliveries);
            entry.deliveries = before.saturating_sub(unanswered) + 1;
        }
    }
    entries
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Stream {
    async fn connect_for_reading(&self, block: Duration) -> Result<ReadConnection, Error> {
        let mut connection = self.connect(block + PATIENCE).await?;
        let client_id = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await
            .map_err(|source| self.error("CLIENT ID", source))?;
        Ok(ReadConnection { connection, client_id })
    }

    /// Ends a blocked XREADGROUP and gives its reply, entries included; `None`
    /// when there is none within a second.
    ///
    /// Dropping the request instead could leave entries pending that the
    /// server delivered at that very moment. They would not be lost, but they
    /// would wait for the next start.
    async fn unblock<T>(
        &self,
        client_id: i64,
        reply: impl Future<Output = Result<T, RedisError>>,
    ) -> Option<Result<T, RedisError>> {
        let unblock = async {
            if let Ok(mut connection) = self.connect(PATIENCE).await {
                loop {
                    // Repeated, because it does nothing while the request is still on its way.
                    let _: Result<i64, RedisError> =
                        redis::cmd("CLIENT").arg("UNBLOCK").arg(client_id).query_async(&mut connection).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            reply = reply => Some(reply),
            () = unblock => None,
            () = tokio::time::sleep(Duration::from_secs(1)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(deliveries: &[u64]) -> Vec<Pending> {
        (0..)
            .zip(deliveries)
            .map(|(sequence, &deliveries)| Pending { id: id(sequence), owner: String::new(), deliveries })
            .collect()
    }

    fn id(sequence: u64) -> EntryId {
        EntryId { milliseconds: 1, sequence }
    }

    #[test]
    fn a_suspect_is_read_alone() {
        let length = |deliveries: &[u64]| together(&pending(deliveries)).map_or(0, <[Pending]>::len);
        assert_eq!(length(&[]), 0);
        assert_eq!(length(&[1, 2, 1]), 3);
        assert_eq!(length(&[1, 2, SUSPECT_DELIVERIES - 1, 1]), 2, "up to the suspect");
        assert_eq!(length(&[SUSPECT_DELIVERIES - 1, 1, 1]), 1, "the suspect alone");
        assert_eq!(length(&[SUSPECT_DELIVERIES - 1, SUSPECT_DELIVERIES, 1]), 1, "two suspects, one by one");
    }

    #[test]
    fn deliveries_are_those_before_and_this_one() {
        let entry = |sequence| Entry { id: id(sequence), fields: None, deliveries: 1 };
        let found = counted(vec![entry(0), entry(1), entry(7)], &pending(&[1, 4]), 0);
        assert_eq!(found.iter().map(|entry| entry.deliveries).collect::<Vec<_>>(), [2, 5, 1]);
        let found = counted(vec![entry(0), entry(1)], &pending(&[1, 4]), 2);
        assert_eq!(
            found.iter().map(|entry| entry.deliveries).collect::<Vec<_>>(),
            [1, 3],
            "two never arrived"
        );
    }
}
