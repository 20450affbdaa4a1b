//! Reads new entries with XREADGROUP, and takes over pending ones with XCLAIM: `Reader::look_for_pending` finds them,
//! the read stage fences their owners, and `Reader::take` claims them by `take.lua`. XAUTOCLAIM does not fit: it takes entries
//! before anybody knows whom to fence.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio_util::sync::CancellationToken;

use super::look::Look;
use super::reply;
use super::{Error, REPLY_TIMEOUT, Stream, script};
use crate::config::Tenant;
use crate::failpoint::failpoint;
use sluicegate_verdicts::{Entry, EntryId};

pub use super::reply::Pending;

/// The number of bytes that a batch may have, estimated from the batch before it. Without this
/// bound, several batches of `BATCH_SIZE` entries of a few MB would need more memory than a machine
/// has.
const BATCH_BYTES: usize = 8 << 20;
/// The largest number of entries in the first batch, when nothing is known yet about their size.
const FIRST_BATCH: usize = 8;
/// A batch may have at most this many times as many entries as the one before it had.
const GROWTH: usize = 4;
/// The longest that a reply may take after timeouts: it may be large, over a slow network.
const MAX_REPLY_TIMEOUT: Duration = Duration::from_secs(300);
/// From this delivery on, an entry is read alone: it may be the one that kills the process, and the
/// others of its batch must not be blamed for it.
const SUSPECT_DELIVERIES: u64 = 4;

/// What the reader reads next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The pending entries of this list after this ID.
    Pending(List, EntryId),
    /// The entries that the group was not given yet.
    New,
}

const FROM_THE_BEGINNING: Position = Position::Pending(List::Own, EntryId::ZERO);

/// A list of pending entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// Entries that were delivered to this consumer before.
    Own,
    /// Entries that consumers have held for too long.
    Abandoned,
}

/// Reads batches, on a connection of its own because it waits there for new entries.
///
/// It begins with entries that an earlier run of this consumer or consumers that are gone left
/// pending. Then it reads new entries, and looks for abandoned ones again at intervals.
pub struct Reader {
    stream: Stream,
    batch_size: usize,
    /// The number of entries to ask for next: fewer, when those before were large.
    wanted: usize,
    block: Duration,
    claim_min_idle: Duration,
    connection: Option<MultiplexedConnection>,
    /// How long a reply may take, beyond the time for which the command blocks.
    patience: Duration,
    position: Position,
    claimed_at: Instant,
    quiet: Quiet,
    /// Whether suspects of this consumer were passed over because they could not be alone.
    has_passed_over: bool,
    /// The ID that was delivered last to the group, after the last read.
    delivered: EntryId,
    /// Whether the group was found to be set back, and this was not reported yet.
    was_set_back: bool,
    /// Where the stream ended at the last read, if fewer entries came than were wanted.
    end: Option<EntryId>,
    /// What the last look at the group found.
    seen: Look,
    /// The number of lost entries that were not reported yet.
    lost: u64,
}

/// The result of one step of the reader.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// No entries came in time, or a list is at its end, or its next entries must wait.
    Nothing,
    /// Entries that the group gives as new ones, in the order of the stream.
    New {
        entries: Vec<Entry>,
        /// Whether fewer entries came than were asked for: a pause makes the next batch fuller.
        is_partial: bool,
        /// Whether the group was set back since the last new entries.
        was_set_back: bool,
        /// The consumers that had some of these entries pending, in a group that was set back.
        owners: BTreeSet<String>,
    },
    /// The group is gone and nothing is in flight: it is to be [remade](Reader::make_group_again).
    GroupIsGone,
    /// Entries that were delivered before, to be [taken](Reader::take) once others are fenced.
    Pending(Vec<Pending>),
}

impl Reader {
    pub(super) fn new(stream: Stream, tenant: &Tenant) -> Self {
        Self {
            stream,
            batch_size: tenant.batch_size,
            wanted: tenant.batch_size.min(FIRST_BATCH),
            block: tenant.block.0,
            claim_min_idle: tenant.claim_min_idle.0,
            connection: None,
            patience: REPLY_TIMEOUT,
            position: FROM_THE_BEGINNING,
            claimed_at: Instant::now(),
            quiet: Quiet::NotWanted,
            has_passed_over: false,
            delivered: EntryId::ZERO,
            was_set_back: false,
            end: None,
            seen: Look::default(),
            lost: 0,
        }
    }

    /// Returns whether the next [`Reader::read`] is to wait until nothing is in flight.
    pub fn quiet(&self) -> Quiet {
        self.quiet
    }

    /// Returns how many entries were newly found lost: trimmed or deleted before their turn.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Returns the ID that was delivered last before the last read, to any consumer.
    pub fn last_delivered(&self) -> EntryId {
        self.seen.last_delivered
    }

    fn claim_is_due(&self) -> bool {
        self.claimed_at.elapsed() >= self.claim_min_idle
    }

    /// Reads the next entries, at most a batch. Returns none when none came in time or `shutdown`
    /// was called meanwhile. Entries in flight are left out, since they would be decided twice.
    ///
    /// After an error the reader begins again with the pending entries: the server may have
    /// delivered a batch that never arrived.
    pub async fn read(
        &mut self,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        match self.step(is_alone, is_in_flight, shutdown).await {
            // The stream or the group was deleted. A new group at 0 delivers again what is left, so
            // what is in flight must end first. The rows' keys absorb what was stored.
            Err(error) if error.says("NOGROUP") => {
                self.position = FROM_THE_BEGINNING;
                if std::mem::replace(&mut self.quiet, Quiet::Needed) != Quiet::Needed {
                    tracing::warn!(
                        stream = self.stream.name,
                        group = self.stream.group,
                        "the consumer group is gone"
                    );
                }
                Ok(if is_alone { Read::GroupIsGone } else { Read::Nothing })
            }
            read => self.recover(read),
        }
    }

    /// Takes over the entries that [`Reader::read`] found pending, each only if it is still as it
    /// was found: whoever else has taken it meanwhile keeps it.
    pub async fn take(
        &mut self,
        pending: &[Pending],
        shutdown: &CancellationToken,
    ) -> Result<Vec<Entry>, Error> {
        let stream = &self.stream;
        let is_own = |pending: &Pending| pending.owner == stream.consumer.as_bytes();
        let idle = if pending.iter().all(is_own) { 0 } else { millis(self.claim_min_idle) };
        let mut command = script(include_str!("take.lua"), &stream.name);
        command.arg(&stream.group).arg(&stream.consumer).arg(idle);
        for Pending { id, owner, deliveries } in pending {
            command.arg(id.to_string()).arg(owner).arg(*deliveries);
        }
        let taken = self.ask("XCLAIM", command, shutdown).await.and_then(reply::taken);
        let mut entries = self.recover(taken)?;
        for entry in &mut entries {
            if let Ok(at) = pending.binary_search_by_key(&entry.id, |pending| pending.id) {
                entry.deliveries = pending.get(at).map_or(0, |pending| pending.deliveries) + 1;
            }
        }
        self.note_size(&entries);
        if !entries.is_empty() {
            let what = match idle {
                0 => "reading again what was pending",
                _ => "claimed what other consumers left pending",
            };
            tracing::info!(entries = entries.len(), "{what}");
        }
        Ok(entries)
    }

    /// After an error, lets the next read use a new connection and begin with what is pending.
    fn recover<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome {
            if error.is_timeout() {
                // The size of the reply may be the reason.
                self.patience = (self.patience * 2).min(MAX_REPLY_TIMEOUT);
                self.wanted = (self.wanted / GROWTH).max(1);
            }
            self.connection = None;
            self.end = None;
            self.position = FROM_THE_BEGINNING;
        }
        outcome
    }

    /// Makes the group at the stream's beginning, unless somebody else has made it meanwhile. The
    /// group delivers again what is left, so nobody may be at work on any of that.
    pub async fn make_group_again(&mut self) -> Result<(), Error> {
        let mut connection = self.stream.connect(REPLY_TIMEOUT).await?;
        let is_made = self.stream.make_group(&mut connection).await?;
        let look = Look::command(&self.stream, 0).query_async(&mut connection).await;
        let now = Look::from_reply(look.map_err(|source| self.stream.error("XINFO", source))?)?;
        // A stream to which fewer entries were added is another one. One replica reports it.
        if is_made && now.added < self.seen.added {
            self.lost += self.seen.unread.unwrap_or(0);
        }
        (self.delivered, self.was_set_back) = (now.last_delivered, false);
        self.seen = now;
        self.quiet = Quiet::NotWanted;
        Ok(())
    }

    async fn step(
        &mut self,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        if self.position == Position::New && self.claim_is_due() {
            let list = if std::mem::take(&mut self.has_passed_over) { List::Own } else { List::Abandoned };
            self.position = Position::Pending(list, EntryId::ZERO);
        }
        let read = match self.position {
            Position::Pending(list, after) => {
                self.look_for_pending(list, after, is_alone, is_in_flight, shutdown).await?
            }
            Position::New => {
                self.quiet = Quiet::NotWanted;
                self.read_new(is_in_flight, shutdown).await?
            }
        };
        failpoint!("after_read", self.stream.error("XREADGROUP", std::io::Error::other("failpoint").into()));
        Ok(read)
    }

    /// Decides when this part is read. A suspect that waits in vain to be alone is passed over.
    fn may_read(&mut self, part: &[Pending], is_alone: bool) -> WhenToRead {
        let is_suspect = part.first().is_some_and(Pending::is_suspect);
        let quiet = if is_suspect { Quiet::Wanted } else { Quiet::NotWanted };
        let waited_for = std::mem::replace(&mut self.quiet, quiet);
        match (is_suspect && !is_alone, waited_for) {
            (false, _) => WhenToRead::Now,
            (true, Quiet::NotWanted) => WhenToRead::Quiet,
            (true, Quiet::Wanted | Quiet::Needed) => {
                self.quiet = Quiet::NotWanted;
                WhenToRead::Later
            }
        }
    }

    async fn read_new(
        &mut self,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        let wanted = self.wanted;
        let mut entries = match self.end {
            // The last read has just reached the end of the stream.
            Some(_) => Vec::new(),
            None => self.read_what_is_there(wanted, shutdown).await?,
        };
        if entries.is_empty() && self.wait_for_news(shutdown).await? {
            entries = self.read_what_is_there(wanted, shutdown).await?;
        }
        let is_partial = entries.len() < wanted;
        if entries.iter().any(|entry| is_in_flight(entry.id)) {
            // Somebody else has made the group again, or has set it back. The entries are pending
            // now, and are looked at when it is known what has become of them.
            tracing::warn!("entries that are in flight were delivered again: was the group set back?");
            entries.retain(|entry| !is_in_flight(entry.id));
            (self.position, self.quiet) = (FROM_THE_BEGINNING, Quiet::Needed);
        }
        self.note_size(&entries);
        Ok(match entries.is_empty() {
            true => Read::Nothing,
            false => Read::New {
                entries,
                is_partial,
                was_set_back: std::mem::take(&mut self.was_set_back),
                owners: std::mem::take(&mut self.seen.owners),
            },
        })
    }

    /// Reads and looks for lost entries in one transaction: after the read none would be found.
    async fn read_what_is_there(
        &mut self,
        wanted: usize,
        shutdown: &CancellationToken,
    ) -> Result<Vec<Entry>, Error> {
        let stream = &self.stream;
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&stream.group).arg(&stream.consumer).arg("COUNT").arg(wanted);
        read.arg("STREAMS").arg(&stream.name).arg(">");
        let mut pipeline = redis::pipe();
        pipeline.atomic().add_command(Look::command(stream, wanted)).add_command(read);
        let ask = async move |connection: &mut MultiplexedConnection| {
            pipeline.query_async::<(Value, Value)>(connection).await
        };
        let (look, entries) = self.wait_for("XREADGROUP", ask, shutdown).await?;
        self.seen = Look::from_reply(look)?;
        self.lost += self.seen.lost;
        let entries = reply::entries(entries)?;
        let read = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        self.seen.unread = self.seen.unread.map(|unread| unread.saturating_sub(read));
        let last = entries.last().map_or(self.seen.last_delivered, |last| last.id);
        self.end = (entries.len() < wanted).then_some(last);
        self.was_set_back |= self.seen.last_delivered < self.delivered;
        self.delivered = last;
        Ok(entries)
    }

    /// Waits for a while, and returns whether there are entries that the group was not given yet.
    ///
    /// It uses XREAD: what XREADGROUP delivers to nobody would stay pending until the next start.
    /// After a wait in vain the group is asked again, because it may have been set back.
    async fn wait_for_news(&mut self, shutdown: &CancellationToken) -> Result<bool, Error> {
        let end = self.end.take().unwrap_or(self.seen.last_delivered);
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis(self.block));
        command.arg("STREAMS").arg(&self.stream.name).arg(end.to_string());
        tokio::select! {
            news = self.ask("XREAD", command, shutdown) => Ok(news? != Value::Nil),
            () = shutdown.cancelled() => Ok(false),
        }
    }

    async fn look_for_pending(
        &mut self,
        list: List,
        after: EntryId,
        is_alone: bool,
        is_in_flight: &(dyn Fn(EntryId) -> bool + Sync),
        shutdown: &CancellationToken,
    ) -> Result<Read, Error> {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.stream.name).arg(&self.stream.group);
        if list == List::Abandoned {
            command.arg("IDLE").arg(millis(self.claim_min_idle));
        }
        command.arg(format!("({after}")).arg("+").arg(self.wanted);
        if list == List::Own {
            command.arg(&self.stream.consumer);
        }
        let pending = reply::pending(self.ask("XPENDING", command, shutdown).await?)?;
        let Some(last) = pending.last().map(|last| last.id) else {
            self.position = match list {
                List::Own => Position::Pending(List::Abandoned, EntryId::ZERO),
                List::Abandoned => {
                    self.claimed_at = Instant::now();
                    Position::New
                }
            };
            return Ok(Read::Nothing);
        };
        let free: Vec<Pending> = pending.into_iter().filter(|pending| !is_in_flight(pending.id)).collect();
        let Some(part) = together(&free) else {
            self.position = Position::Pending(list, last);
            return Ok(Read::Nothing);
        };
        let part_end = part.last().map_or(last, |last| last.id);
        match self.may_read(part, is_alone) {
            WhenToRead::Now => {
                self.position = Position::Pending(list, part_end);
                Ok(Read::Pending(part.to_vec()))
            }
            WhenToRead::Quiet => Ok(Read::Nothing),
            WhenToRead::Later => {
                self.has_passed_over |= list == List::Own;
                self.position = Position::Pending(list, part_end);
                Ok(Read::Nothing)
            }
        }
    }

    /// Limits the next batch to about [`BATCH_BYTES`], judging by these entries. Only entries reset
    /// the patience: a list of pending ones is short, and arrives when they do not.
    fn note_size(&mut self, entries: &[Entry]) {
        let fields = entries.iter().filter_map(|entry| entry.fields.as_ref()).flatten();
        let bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        if let Some(mean) = bytes.checked_div(entries.len()) {
            self.patience = REPLY_TIMEOUT;
            let most = self.batch_size.min(GROWTH * self.wanted);
            self.wanted = (BATCH_BYTES / mean.max(1)).clamp(1, most);
        }
    }

    /// Sends a command and waits for its reply, after the shutdown for one second more. What it
    /// delivers and nobody receives stays pending until the next start.
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
        let given_up = async {
            shutdown.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        let asked = async {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => none.insert(stream.connect(self.block + self.patience).await?),
            };
            ask(connection).await.map_err(|source| stream.error(name, source))
        };
        tokio::select! {
            reply = asked => reply,
            () = given_up => Err(Error::Unanswered { command: name }),
        }
    }
}

/// Whether a read is to wait until nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    NotWanted,
    /// It waits for a while, because a suspect should be read alone.
    Wanted,
    /// It waits however long it takes, because entries in flight would be delivered again.
    Needed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenToRead {
    Now,
    /// When nothing else is in flight.
    Quiet,
    Later,
}

impl Pending {
    fn is_suspect(&self) -> bool {
        self.deliveries + 1 >= SUSPECT_DELIVERIES
    }
}

/// Returns the pending entries that may be read in one batch: all up to the first suspect, or the
/// suspect alone. Returns `None` when nothing is pending.
fn together(pending: &[Pending]) -> Option<&[Pending]> {
    let suspect = pending.iter().position(Pending::is_suspect);
    pending.get(..suspect.unwrap_or(pending.len()).max(1)).filter(|part| !part.is_empty())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(deliveries: &[u64]) -> Vec<Pending> {
        (0..)
            .zip(deliveries)
            .map(|(sequence, &deliveries)| Pending { id: id(sequence), owner: Vec::new(), deliveries })
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

    /// The lists arrive, and the entries do not: the next try has more time for fewer.
    #[test]
    fn what_takes_too_long_gets_more_time_until_entries_arrive() {
        let config = crate::config::Config {
            redis_url: crate::config::Secret::from("redis://h".to_owned()),
            ..crate::config::Config::default()
        };
        let redis = crate::stream::Redis::new(&config).expect("a URL");
        let tenant = Tenant::default();
        let mut reader = redis.stream(&config, &tenant).reader(&tenant);
        for wanted in [2, 4, 8] {
            let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
            let late = reader.stream.error("XCLAIM", late.into());
            assert!(reader.recover(Err::<(), _>(late)).is_err());
            assert!(reader.recover(Ok(Read::Pending(Vec::new()))).is_ok());
            reader.note_size(&[]);
            assert_eq!(reader.patience, wanted * REPLY_TIMEOUT);
        }
        assert_eq!(reader.wanted, 1);
        reader.note_size(&[Entry { id: id(1), fields: Some(Vec::new()), deliveries: 1 }]);
        assert_eq!((reader.patience, reader.wanted), (REPLY_TIMEOUT, GROWTH));
    }
}
