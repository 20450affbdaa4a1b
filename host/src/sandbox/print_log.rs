//! Logs what guests print, line by line and never more than the log can bear.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::batch::Digest;
use crate::log_limit::{LogLimit, MAX_LINES_PER_SECOND};
use crate::text::printable;

/// Holds what a guest printed in one call.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Printed {
    pub(super) out: Excerpt,
    pub(super) err: Excerpt,
}

impl Printed {
    /// Returns whether it is no more than so many bytes for each stream.
    pub(super) fn is_within(&self, room: usize) -> bool {
        [&self.out, &self.err].iter().all(|excerpt| excerpt.head.len() + excerpt.tail.len() <= room)
    }
}

/// Holds the beginning and the end of what was printed to one stream: languages say an error last.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Excerpt {
    pub(super) head: Vec<u8>,
    pub(super) tail: Vec<u8>,
    /// Counts the bytes between the two that were not kept.
    pub(super) dropped_bytes: usize,
}

impl Excerpt {
    /// Returns the text in one piece, with a mark where some is missing.
    pub(super) fn text(&self) -> String {
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&self.tail));
        match self.dropped_bytes {
            0 => String::from_utf8_lossy(&[self.head.as_slice(), &self.tail].concat()).into_owned(),
            dropped => format!("{head} [{dropped} bytes left out] {tail}"),
        }
    }
}

/// Logs what one version of the rules prints.
pub(super) struct PrintLog {
    guest: Digest,
    printed: Mutex<Logged>,
}

/// Counts what is not logged, so that it can be told how much that is.
#[derive(Default)]
struct Logged {
    limit: LogLimit,
    dropped_bytes: usize,
}

impl PrintLog {
    pub(super) fn new(guest: Digest) -> Self {
        Self { guest, printed: Mutex::default() }
    }

    /// Logs standard output at the level info, and standard error as warnings.
    pub(super) fn log(&self, printed: &Printed) {
        let mut logged = self.printed.lock();
        if let Some(lines) = logged.limit.end_of_second() {
            self.tell_suppressed(lines, std::mem::take(&mut logged.dropped_bytes));
        }
        let dropped_bytes = printed.out.dropped_bytes.saturating_add(printed.err.dropped_bytes);
        if dropped_bytes > 0 {
            logged.limit.begin();
            logged.dropped_bytes = logged.dropped_bytes.saturating_add(dropped_bytes);
        }
        for line in printed.out.text().lines() {
            if logged.limit.has_room() {
                tracing::info!(guest = %self.guest, line = &*printable(line), "guest printed");
            }
        }
        for line in printed.err.text().lines() {
            if logged.limit.has_room() {
                tracing::warn!(guest = %self.guest, line = &*printable(line), "guest printed to standard error");
            }
        }
    }

    fn tell_suppressed(&self, lines: u64, bytes: usize) {
        if lines > 0 || bytes > 0 {
            tracing::warn!(
                guest = %self.guest,
                lines,
                bytes,
                "guest printed more than is logged: {MAX_LINES_PER_SECOND} lines a second, GUEST_LOG_SIZE a call and stream"
            );
        }
    }
}

impl Drop for PrintLog {
    fn drop(&mut self) {
        let logged = self.printed.get_mut();
        let (lines, bytes) = (logged.limit.take_suppressed(), logged.dropped_bytes);
        self.tell_suppressed(lines, bytes);
    }
}
