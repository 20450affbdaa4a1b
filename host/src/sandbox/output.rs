//! What a guest prints: kept up to a limit, logged line by line, never more than the log can bear.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::batch::Digest;
use crate::log_limit::{LogLimit, MAX_LINES_PER_SECOND};
use crate::text::printable;

/// What a write may hold; a guest with more to say writes again.
const MAX_WRITE_BYTES: usize = 4 << 10;

/// What is kept of what a guest prints during one call: the beginning. The rest is swallowed.
///
/// wasmtime's `MemoryOutputPipe` would trap a guest that prints too much.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<Printed>>);

struct Printed {
    out: Vec<u8>,
    err: Vec<u8>,
    room: usize,
    dropped_bytes: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Channel {
    Out,
    Err,
}

impl Output {
    pub(super) fn new(most_bytes: usize) -> Self {
        let printed = Printed { out: Vec::new(), err: Vec::new(), room: most_bytes, dropped_bytes: 0 };
        Self(Arc::new(Mutex::new(printed)))
    }

    pub(super) fn stream(&self, channel: Channel) -> Stream {
        Stream(self.clone(), channel)
    }

    /// What was printed to standard error, in one line: there a Rust guest says where and why it panicked.
    pub(super) fn error_text(&self) -> String {
        printable(String::from_utf8_lossy(&self.lock().err).trim_end()).into_owned()
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.0.lock()
    }
}

/// Standard output or standard error, as the guest has it. Never blocks: there is nobody to wait for.
pub(super) struct Stream(Output, Channel);

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink()) // for WASI 0.3, which is not linked
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Self(self.0.clone(), self.1))
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        let mut printed = self.0.lock();
        let kept = bytes.get(..bytes.len().min(printed.room)).unwrap_or_default();
        match self.1 {
            Channel::Out => printed.out.extend(kept),
            Channel::Err => printed.err.extend(kept),
        }
        printed.room -= kept.len();
        printed.dropped_bytes = printed.dropped_bytes.saturating_add(bytes.len() - kept.len());
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

/// Logs what one version of the rules prints.
pub(super) struct PrintLog {
    guest: Digest,
    printed: Mutex<Logged>,
}

/// What is told of what is not logged.
#[derive(Default)]
struct Logged {
    limit: LogLimit,
    dropped_bytes: usize,
}

impl PrintLog {
    pub(super) fn new(guest: Digest) -> Self {
        Self { guest, printed: Mutex::default() }
    }

    /// Standard output at the level info, standard error as warnings.
    pub(super) fn log(&self, output: &Output) {
        let printed = output.lock();
        let mut logged = self.printed.lock();
        if let Some(lines) = logged.limit.end_of_second() {
            self.tell_suppressed(lines, std::mem::take(&mut logged.dropped_bytes));
        }
        if printed.dropped_bytes > 0 {
            logged.limit.begin();
            logged.dropped_bytes = logged.dropped_bytes.saturating_add(printed.dropped_bytes);
        }
        for line in String::from_utf8_lossy(&printed.out).lines() {
            if logged.limit.has_room() {
                tracing::info!(guest = %self.guest, line = &*printable(line), "guest printed");
            }
        }
        for line in String::from_utf8_lossy(&printed.err).lines() {
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
                "guest printed more than is logged: {MAX_LINES_PER_SECOND} lines a second, GUEST_LOG_SIZE a call"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_not_trapped() {
        let output = Output::new(5_000);
        let [mut out, mut err] = [Channel::Out, Channel::Err].map(|channel| output.stream(channel));
        out.write(vec![b'x'; 3_000].into()).expect("never fails");
        err.write(vec![b'y'; 3_000].into()).expect("never fails");
        out.write(vec![b'z'; 3_000].into()).expect("never fails");
        let printed = output.lock();
        assert_eq!((printed.out.len(), printed.err.len(), printed.dropped_bytes), (3_000, 2_000, 4_000));
    }
}
