//! The little of WASI that a guest sees (invariant 5).
//!
//! No arguments, no environment, no files, no sockets, no standard input. The
//! clock stands still at the time of the batch's first entry, and randomness
//! comes from that entry's ID: the same batch sees the same world again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder};

use crate::batch::EntryId;

/// The bytes kept of what a guest prints during a batch.
const OUTPUT_MAX_BYTES: usize = 4 << 10;
/// The bytes of randomness that one WASI call may ask for.
const RANDOM_MAX_BYTES: u64 = 64 << 10;

/// What the guest sees while it judges a batch that begins with this entry.
pub(super) fn context(first: EntryId, output: &Output) -> WasiCtx {
    let mut seed = [0; 16];
    for (to, from) in
        seed.iter_mut().zip(first.milliseconds.to_le_bytes().into_iter().chain(first.sequence.to_le_bytes()))
    {
        *to = from;
    }
    WasiCtxBuilder::new()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(Stopped(first.milliseconds))
        .monotonic_clock(Stopped(first.milliseconds))
        .secure_random(Deterministic::new(seed.to_vec()))
        .insecure_random(Deterministic::new(seed.to_vec()))
        .insecure_random_seed(u128::from_le_bytes(seed))
        .max_random_size(RANDOM_MAX_BYTES)
        .stdout(output.clone())
        .stderr(output.clone())
        .build()
}

/// A clock that stands still, at these milliseconds since the Unix epoch.
struct Stopped(u64);

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl HostMonotonicClock for Stopped {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.0.saturating_mul(1_000_000)
    }
}

/// Keeps the beginning of what a guest prints and swallows the rest.
///
/// wasmtime's `MemoryOutputPipe` would trap a guest that prints too much.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// What was printed, control characters but line ends replaced.
    pub(super) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes)
            .trim_end()
            .chars()
            .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
            .collect()
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink()) // for WASI 0.3, which is not linked
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_MAX_BYTES.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(OUTPUT_MAX_BYTES)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_not_trapped() {
        let output = Output::default();
        let mut stream = output.clone();
        for _ in 0..3 {
            stream.write(vec![b'x'; OUTPUT_MAX_BYTES].into()).expect("never fails");
        }
        assert_eq!(output.text().len(), OUTPUT_MAX_BYTES);
    }

    #[test]
    fn output_cannot_forge_a_terminal() {
        let output = Output::default();
        output.clone().write(bytes::Bytes::from_static(b"a\x1b[2Jb\n")).expect("never fails");
        assert_eq!(output.text(), "a\u{fffd}[2Jb");
    }
}
