//! Keeps what a guest prints, up to a limit: the beginning and the end.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::sandbox::print_log::{Excerpt, Printed};
use crate::text::printable;

/// Bounds the bytes of one write. A guest with more to say writes again.
const MAX_WRITE_BYTES: usize = 4 << 10;
/// Is what the line says by which Rust begins to tell of a panic.
const PANICKED: &str = "panicked at ";
/// Begins the line by which Rust ends what it tells of a panic.
const BACKTRACE_HINT: &str = "note: run with `RUST_BACKTRACE";

/// Holds the two streams of one call. Each keeps half of its room for the beginning, and half for the end.
///
/// wasmtime's `MemoryOutputPipe` would trap a guest that prints too much.
pub(super) struct Output {
    pub(super) out: Stream,
    pub(super) err: Stream,
}

impl Output {
    /// Makes the two streams, with room for so many bytes of each.
    pub(super) fn new(room: usize) -> Self {
        Self { out: Stream::new(room), err: Stream::new(room) }
    }

    pub(super) fn take(&self) -> Printed {
        Printed { out: self.out.take(), err: self.err.take() }
    }
}

/// Bounds the characters of what a guest said last: the cause has to find room in a dead letter beside it.
const MAX_LAST_WORDS: usize = 600;

/// Holds what a guest printed to standard error, where it says where and why it gave up. Both are one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LastWords {
    /// Holds what it said last: a panic with its place, or the error of another language. Empty if it said nothing.
    pub(super) last: String,
    /// Holds what it printed before.
    pub(super) before: String,
}

/// Finds what a guest said last. Rust's panic is followed by hints, and its message may have several lines; other languages
/// print an error last, perhaps with indented lines that belong to it.
pub(super) fn last_words(printed: &Printed) -> LastWords {
    let text = printed.err.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.retain(|line| !line.trim().is_empty() && !line.starts_with(BACKTRACE_HINT));
    let is_panic = |line: &&str| line.contains(PANICKED) || line.starts_with("panic: ");
    let is_whole = |line: &&str| !line.starts_with([' ', '\t']);
    let at = lines.iter().rposition(is_panic).or_else(|| lines.iter().rposition(is_whole)).unwrap_or(0);
    let (before, last) = lines.split_at(at);
    let last = last.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    // Which thread it was says nothing: a guest has one.
    let last = match (last.starts_with("thread '"), last.find(PANICKED)) {
        (true, Some(at)) => last.get(at..).unwrap_or_default(),
        _ => &last,
    };
    let cut = match last.char_indices().nth(MAX_LAST_WORDS) {
        Some((end, _)) => format!("{}…", last.get(..end).unwrap_or_default()),
        None => last.to_owned(),
    };
    LastWords { last: printable(&cut).into_owned(), before: printable(&before.join("\n")).into_owned() }
}

/// This is standard output or standard error, as the guest has it. It never blocks: nobody else is waited for.
#[derive(Clone)]
pub(super) struct Stream(Arc<Mutex<Kept>>);

struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped_bytes: usize,
    room: usize,
}

impl Stream {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept { head: Vec::new(), tail: VecDeque::new(), dropped_bytes: 0, room })))
    }

    fn take(&self) -> Excerpt {
        let mut kept = self.0.lock();
        Excerpt {
            head: std::mem::take(&mut kept.head),
            tail: std::mem::take(&mut kept.tail).into(),
            dropped_bytes: std::mem::take(&mut kept.dropped_bytes),
        }
    }
}

impl Kept {
    fn keep(&mut self, bytes: &[u8]) {
        let to_head = (self.room.div_ceil(2)).saturating_sub(self.head.len()).min(bytes.len());
        let (head, tail) = bytes.split_at(to_head);
        self.head.extend(head);
        self.tail.extend(tail);
        let excess = self.tail.len().saturating_sub(self.room / 2);
        self.tail.drain(..excess);
        self.dropped_bytes = self.dropped_bytes.saturating_add(excess);
    }
}

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
        Box::new(self.clone())
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.0.lock().keep(&bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_and_the_end_are_kept_of_each_stream() {
        let output = Output::new(10);
        let [mut out, mut err] = [output.out.clone(), output.err.clone()];
        out.write(b"begin".to_vec().into()).expect("never fails");
        out.write(vec![b'x'; 3_000].into()).expect("never fails");
        err.write(b"error".to_vec().into()).expect("never fails");
        out.write(b"the end".to_vec().into()).expect("never fails");
        let Printed { out, err } = output.take();
        assert_eq!((out.head, out.tail, out.dropped_bytes), (b"begin".into(), b"e end".into(), 3_002));
        assert_eq!((err.head.as_slice(), err.tail.len(), err.dropped_bytes), (&b"error"[..], 0, 0));
    }

    /// What the author needs is found among what the runtimes print around it.
    #[test]
    fn a_panic_or_the_last_error_is_what_was_said_last() {
        let said = |text: &str| {
            let err = Excerpt { head: text.into(), ..Excerpt::default() };
            let LastWords { last, before } = last_words(&Printed { err, ..Printed::default() });
            (last, before)
        };
        let hint = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        for (text, last, before) in [
            ("", "", ""),
            (
                "entry 1-0: TypeError: no, at judge (src/rules.js:21:17)\n",
                "entry 1-0: TypeError: no, at judge (src/rules.js:21:17)",
                "",
            ),
            (
                &format!(
                    "read\nlooked\n\nthread '<unnamed>' (1) panicked at src/lib.rs:7:5:\nprovoked\n{hint}"
                ),
                "panicked at src/lib.rs:7:5: provoked",
                "read\\nlooked",
            ),
            (
                &format!(
                    "\nthread 'main' panicked at src/lib.rs:9:1:\nassertion `left == right` failed\n  left: 1\n right: 2\n{hint}"
                ),
                "panicked at src/lib.rs:9:1: assertion `left == right` failed left: 1 right: 2",
                "",
            ),
            (
                "Traceback (most recent call last):\n  File \"rules.py\", line 3, in judge\nKeyError: 'plan'\n",
                "KeyError: 'plan'",
                "Traceback (most recent call last):\\n  File \"rules.py\", line 3, in judge",
            ),
            ("panic: no plan\n\ngoroutine 1 [running]:\n", "panic: no plan goroutine 1 [running]:", ""),
            ("Error: no\n    at f (x.js:1:2)\n", "Error: no at f (x.js:1:2)", ""),
        ] {
            assert_eq!(said(text), (last.to_owned(), before.to_owned()));
        }
        let (last, _) = said(&format!("thread 'main' panicked at src/lib.rs:9:1:\n{}\n", "x".repeat(5_000)));
        assert!(
            last.starts_with("panicked at src/lib.rs:9:1: xxx") && last.chars().count() == MAX_LAST_WORDS + 1
        );
    }
}
