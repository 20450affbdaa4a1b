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

/// Returns what is kept of standard error, in one line: there a guest says where and why it gave up.
pub(super) fn last_words(printed: &Printed) -> String {
    printable(printed.err.text().trim_end()).into_owned()
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
}
