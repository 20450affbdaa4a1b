//! Sends and receives the frames between the service and a worker. A frame is a header, then a message in the encoding
//! of postcard.
//!
//! A header is eight bytes: the version of this layout, three zeros, and the length of the message as a `u32`, low byte
//! first. The two ends take turns: whoever has sent a frame waits for one. A length is compared with what the reader
//! allows before room is made for it, and the fields of entries are borrowed from the frame.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::print_log::Printed;
use super::{Limits, LoadError, World};
use crate::capabilities::{Effects, Measured, StatementResult, Usage, Value};
use crate::config::Grants;
use crate::judge::{Batch, Fault};
use sluicegate_verdicts::Verdict;
use sluicegate_verdicts::bounded;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// Bounds the bytes that a buffer keeps between two frames. A batch of a thousand usual entries takes 300 kB.
const KEPT_BYTES: usize = 1 << 20;
/// The lists of a message may take so many times as much memory as the message may have bytes: a row of few letters is
/// small in a frame, and larger in memory.
const LIST_FACTOR: usize = 4;

/// Holds a message from the service to a worker.
#[derive(Serialize, Deserialize)]
pub(super) enum ToWorker<'a> {
    Load(Load),
    #[serde(borrow)]
    Call(Call<'a>),
    Queried(StatementResult<Vec<Vec<Value>>>),
    Executed(StatementResult<u64>),
}

/// Holds a message from a worker to the service. Its content is not to be trusted: the worker may have been taken over.
#[derive(Serialize, Deserialize)]
pub(super) enum FromWorker {
    Loaded(Result<Loaded, LoadError>),
    Query(String, #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")] Vec<Value>),
    Execute(String, #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")] Vec<Value>),
    Returned(Returned),
}

/// Holds what a worker needs to know of its guest before the first call. The code comes by another descriptor.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) limits: Limits,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) granted: Granted,
    /// Says whether an instance is started on trial.
    pub(super) is_trial: bool,
    /// Says whether calls tell where their time went.
    pub(super) takes_samples: bool,
}

/// Holds what a worker must know of the grants.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Granted {
    pub(super) stream: bool,
    pub(super) publish: BTreeSet<String>,
    pub(super) statements: bool,
    pub(super) metrics: bool,
}

impl From<&Grants> for Granted {
    fn from(grants: &Grants) -> Self {
        Self {
            stream: grants.stream,
            publish: grants.publish.keys().cloned().collect(),
            statements: !grants.statements.is_empty(),
            metrics: grants.metrics,
        }
    }
}

/// Describes a guest that can be called.
#[derive(Serialize, Deserialize)]
pub(super) struct Loaded {
    pub(super) world: World,
    /// Names the walls that this kernel does not have.
    pub(super) missing_walls: Vec<String>,
}

/// Asks for one call of the guest.
#[derive(Serialize, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub(super) batch: Batch<'a>,
    /// Bounds the processor time of the call.
    pub(super) time: Duration,
    pub(super) lag: Option<u64>,
    /// Counts what the batch has left for its commit in earlier calls.
    pub(super) earlier: Usage,
}

/// Says how a call ended.
#[derive(Serialize, Deserialize)]
pub(super) struct Returned {
    pub(super) verdicts: Result<Verdicts, Fault>,
    pub(super) effects: Effects,
    pub(super) printed: Printed,
    /// Is boxed, so that questions are small.
    pub(super) measured: Box<Measured>,
}

/// Holds what the guest returned. A guest that is right keeps the order of the batch.
#[derive(Serialize, Deserialize)]
pub(super) struct Verdicts(
    #[serde(deserialize_with = "sluicegate_verdicts::bounded::list")] pub(super) Vec<Verdict>,
);

/// Says why no message was sent or received.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the other end is closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What was read is not what the other end should have sent.
    #[error("found {found}, wanted {wanted}")]
    Nonsense { found: String, wanted: String },
    /// The caller has given up.
    #[error("no answer in time")]
    GaveUp,
}

/// Holds the frames of one direction, one at a time.
#[derive(Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// Gives back the memory that a large frame took.
    pub(super) fn shrink(&mut self) {
        self.0.truncate(KEPT_BYTES);
        self.0.shrink_to(KEPT_BYTES);
    }

    /// Sends a message. `go_on` is asked after each step that is not the last.
    pub(super) fn send(
        &mut self,
        message: &impl Serialize,
        stream: &mut impl Write,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES);
        bytes.extend([VERSION, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = postcard::to_io(message, bytes).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len() - HEADER_BYTES).map_err(io::Error::other)?;
        for (to, from) in bytes.iter_mut().skip(4).zip(length.to_le_bytes()) {
            *to = from;
        }
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            match stream.write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) => is_only_slow(error)?,
            }
            // An end that takes a byte now and then is not waited for without limit either.
            if !left.is_empty() && !go_on() {
                return Err(Error::GaveUp);
            }
        }
        self.0 = bytes;
        Ok(())
    }

    /// Waits for a message of at most `limit` bytes. `go_on` is asked after each step that is not the last.
    pub(super) fn receive<'a, M: Deserialize<'a>>(
        &'a mut self,
        stream: &mut impl Read,
        limit: usize,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<M, Error> {
        let Self(bytes) = self;
        bytes.resize(bytes.len().clamp(64 << 10, KEPT_BYTES), 0);
        bytes.shrink_to(KEPT_BYTES);
        let (mut filled, mut end) = (0, HEADER_BYTES);
        while filled < end {
            match stream.read(bytes.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => return Err(Error::Closed),
                Ok(read) => filled += read,
                Err(error) => is_only_slow(error)?,
            }
            if filled < end && !go_on() {
                return Err(Error::GaveUp);
            }
            if let (HEADER_BYTES, [version, 0, 0, 0, length @ ..]) = (end, bytes.as_slice())
                && filled >= HEADER_BYTES
            {
                end += length_within(limit, *version, length)?;
                bytes.resize(bytes.len().max(end), 0);
            } else if filled >= HEADER_BYTES && end == HEADER_BYTES {
                return Err(nonsense("another header", "a header of three zeros after the version"));
            }
        }
        if filled > end {
            return Err(nonsense(&format!("{} bytes after the message", filled - end), "to be asked first"));
        }
        let message = bytes.get(HEADER_BYTES..end).unwrap_or_default();
        let (message, rest) =
            bounded::within(LIST_FACTOR.saturating_mul(limit), || postcard::take_from_bytes(message))
                .map_err(|error| nonsense(&format!("a message that cannot be read: {error}"), "another"))?;
        match rest {
            [] => Ok(message),
            rest => Err(nonsense(&format!("a message with {} bytes too many", rest.len()), "none")),
        }
    }
}

fn length_within(limit: usize, version: u8, length: &[u8]) -> Result<usize, Error> {
    if version != VERSION {
        return Err(nonsense(&format!("version {version}"), &format!("version {VERSION}")));
    }
    let length = length.first_chunk().map_or(u32::MAX, |length| u32::from_le_bytes(*length));
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(nonsense(&format!("a message of {length} bytes"), &format!("at most {limit}"))),
    }
}

/// Returns no error if a wait was only cut short.
fn is_only_slow(error: io::Error) -> Result<(), Error> {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(()),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Err(Error::Closed),
        _ => Err(error.into()),
    }
}

/// Returns the error for what was read and is not what the other end should have sent.
pub(super) fn nonsense(found: &str, wanted: &str) -> Error {
    Error::Nonsense { found: found.to_owned(), wanted: wanted.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        Buffer::default().send(message, &mut bytes, || true).expect("a frame");
        bytes
    }

    fn received(bytes: &[u8], limit: usize) -> Result<String, String> {
        let mut buffer = Buffer::default();
        let message: Result<&str, Error> = buffer.receive(&mut { bytes }, limit, || true);
        message.map(str::to_owned).map_err(|error| error.to_string())
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        for text in [String::new(), "text".to_owned(), "ü".repeat(3 << 20)] {
            assert_eq!(received(&sent(&text), 16 << 20), Ok(text));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_there_is_room_for_it() {
        let frame = sent(&"text");
        let refusal = |bytes: &[u8], limit| received(bytes, limit).expect_err("a refusal");
        assert!(refusal(&frame, 4).contains("at most 4"), "one byte of it is the length");
        assert!(refusal(&[2, 0, 0, 0, 0, 0, 0, 0], 9).contains("version 2"));
        assert!(refusal(&[1, 7, 0, 0, 0, 0, 0, 0], 9).contains("another header"));
        assert!(refusal(&[1, 0, 0, 0, 255, 255, 255, 255], 9).contains("4294967295 bytes"));
        assert!(refusal(&[frame.clone(), frame.clone()].concat(), 9).contains("after the message"));
        assert!(refusal(frame.get(..7).expect("a part"), 9).contains("closed"));
        assert!(refusal(frame.get(..9).expect("a part"), 9).contains("closed"));
        let mut damaged = frame.clone();
        damaged.extend([0]);
        damaged[4] += 1;
        assert!(refusal(&damaged, 9).contains("too many"));
        damaged[9] = 0xff;
        assert!(refusal(&damaged, 9).contains("cannot be read"), "not UTF-8");
    }
}
