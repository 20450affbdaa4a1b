//! What a guest prints: kept up to a limit, logged line by line, never more than the log can bear.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::batch::Digest;
use crate::text::printable;

/// Lines logged of one version of the rules in a second.
const MAX_LINES_PER_SECOND: u32 = 100;
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    window: Mutex<Window>,
}

/// What was logged in the running second, and what was not since it was last told.
#[derive(Default)]
struct Window {
    begun: Option<Instant>,
    lines: u32,
    suppressed_lines: u64,
    dropped_bytes: usize,
}

impl PrintLog {
    pub(super) fn new(guest: Digest) -> Self {
        Self { guest, window: Mutex::default() }
    }

    /// Standard output at the level info, standard error as warnings.
    pub(super) fn log(&self, output: &Output) {
        let printed = output.lock();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.begun.is_some_and(|begun| begun.elapsed() >= Duration::from_secs(1)) {
            self.tell_suppressed(&window);
            *window = Window::default();
        }
        if printed.out.is_empty() && printed.err.is_empty() && printed.dropped_bytes == 0 {
            return;
        }
        window.begun.get_or_insert_with(Instant::now);
        window.dropped_bytes = window.dropped_bytes.saturating_add(printed.dropped_bytes);
        for line in String::from_utf8_lossy(&printed.out).lines() {
            if window.has_room() {
                tracing::info!(guest = %self.guest, line = &*printable(line), "guest printed");
            }
        }
        for line in String::from_utf8_lossy(&printed.err).lines() {
            if window.has_room() {
                tracing::warn!(guest = %self.guest, line = &*printable(line), "guest printed to standard error");
            }
        }
    }

    fn tell_suppressed(&self, window: &Window) {
        if window.suppressed_lines > 0 || window.dropped_bytes > 0 {
            tracing::warn!(
                guest = %self.guest,
                lines = window.suppressed_lines,
                bytes = window.dropped_bytes,
                "guest printed more than is logged: {MAX_LINES_PER_SECOND} lines a second, GUEST_LOG a call"
            );
        }
    }
}

impl Drop for PrintLog {
    fn drop(&mut self) {
        let window = std::mem::take(self.window.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.tell_suppressed(&window);
    }
}

impl Window {
    fn has_room(&mut self) -> bool {
        self.lines = self.lines.saturating_add(1);
        let has_room = self.lines <= MAX_LINES_PER_SECOND;
        self.suppressed_lines += u64::from(!has_room);
        has_room
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

    #[test]
    fn a_flood_is_counted() {
        let mut window = Window::default();
        let logged = (0..250).filter(|_| window.has_room()).count();
        assert_eq!((logged, window.suppressed_lines), (100, 150));
    }
}
