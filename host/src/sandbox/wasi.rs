//! The little of WASI that a guest sees (invariant 5), and why none of it waits (invariant 4).
//!
//! No arguments, no environment, no files, no sockets, no standard input. The
//! clock stands still at the time of the batch's first entry, and randomness
//! comes from that entry's ID: the same batch sees the same world again.
//!
//! The time limit stops what a guest computes, not what the host does for it.
//! So no call to the host may wait. What of WASI 0.2 could:
//!
//! | interface | why it does not |
//! |---|---|
//! | `clocks/monotonic-clock` | ours: where time stands still, waiting takes none, and a deadline is there at once |
//! | `io/poll` | ours: looks once; what is not ready then never will be, and is a trap |
//! | `io/streams`, `cli/std*` | standard input is closed; the other two are [`Stream`](super::output), which is always ready |
//! | `filesystem/types` | works on descriptors, which come from `preopens` alone: it has none |
//! | `sockets/*` | sockets and lookups are refused before there is a handle to wait for |
//! | `random/*` | deterministic, and bounded in bytes |
//!
//! `wasi:config` answers from memory. Shared memories, whose atomic waits
//! block, need the engine's feature `threads`, which is not built in.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng as _;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::sync::io::poll;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::runtime::poll_noop;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiView as _};
use wasmtime_wasi_io::bindings::wasi::io::poll as asynchronous;

use super::guest::State;
use super::output::{Channel, Output};
use crate::batch::EntryId;

use config::wasi::config::store;

mod config {
    // Not `wasmtime-wasi-config`: its `get-all` gives the settings in an order that differs from run to run.
    wasmtime::component::bindgen!({
        inline: "
            package wasi:config@0.2.0-rc.1;
            interface store {
                variant error { upstream(string), io(string) }
                get: func(key: string) -> result<option<string>, error>;
                get-all: func() -> result<list<tuple<string, string>>, error>;
            }
            world imports { import store; }
        ",
        world: "wasi:config/imports",
    });
}

/// The bytes of randomness that one WASI call may ask for.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// The interfaces that a guest may import, as [`link`] provides them; of WASI in any version 0.2.
pub(super) const GRANTED: [&str; 28] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:config/store",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Links what guests may import.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    poll::add_to_linker::<State, Timeless>(linker, timeless)?;
    monotonic_clock::add_to_linker::<State, Timeless>(linker, timeless)?;
    linker.allow_shadowing(false);
    store::add_to_linker::<State, Settings<'static>>(linker, |state| Settings(state.settings()))
}

/// What the guest sees while it judges a batch that begins with this entry.
pub(super) fn context(first: EntryId, output: &Output) -> WasiCtx {
    let seed = u128::from(first.milliseconds) << 64 | u128::from(first.sequence);
    WasiCtxBuilder::new()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(Stopped(first.milliseconds))
        .monotonic_clock(Stopped(first.milliseconds))
        .secure_random(randomness(seed, 0))
        .insecure_random(randomness(seed, 1))
        .insecure_random_seed(seed)
        .max_random_size(MAX_RANDOM_BYTES)
        .stdout(output.stream(Channel::Out))
        .stderr(output.stream(Channel::Err))
        .build()
}

/// Of a cipher, since guests make IDs of it: those of two batches must not meet. Not wasmtime's `Deterministic`, which
/// repeats its seed; and not `rand`'s standard generator, which may be another one in the next version (invariant 5).
fn randomness(seed: u128, stream: u64) -> ChaCha12Rng {
    let mut key = chacha20::Seed::default();
    for (to, from) in key.iter_mut().zip(seed.to_le_bytes()) {
        *to = from;
    }
    let mut randomness = ChaCha12Rng::from_seed(key);
    randomness.set_stream(stream);
    randomness
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

/// Clocks and polls of a world in which time stands still.
struct Timeless;

struct View<'a> {
    now_ns: u64,
    table: &'a mut ResourceTable,
}

impl HasData for Timeless {
    type Data<'a> = View<'a>;
}

fn timeless(state: &mut State) -> View<'_> {
    View { now_ns: HostMonotonicClock::now(&Stopped(state.now_ms())), table: state.ctx().table }
}

/// A deadline: it is there at once.
struct Deadline;

#[wasmtime_wasi::async_trait]
impl Pollable for Deadline {
    async fn ready(&mut self) {}
}

impl View<'_> {
    fn deadline(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let deadline = self.table.push(Deadline)?;
        subscribe(self.table, deadline)
    }
}

impl monotonic_clock::Host for View<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.now_ns)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::resolution(&Stopped(0)))
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.deadline()
    }

    fn subscribe_duration(&mut self, _duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.deadline()
    }
}

/// Looks once, and does not wait.
fn now_or_never<T>(looking: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    poll_noop(pin!(looking)).unwrap_or_else(|| {
        Err(wasmtime::format_err!("it waits for what never comes: a guest has nothing to wait for"))
    })
}

impl poll::Host for View<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        now_or_never(asynchronous::Host::poll(self.table, pollables))
    }
}

impl poll::HostPollable for View<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        now_or_never(asynchronous::HostPollable::ready(self.table, pollable))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        now_or_never(asynchronous::HostPollable::block(self.table, pollable))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        asynchronous::HostPollable::drop(self.table, pollable)
    }
}

/// The guest's settings, in the order of their names.
struct Settings<'a>(&'a BTreeMap<String, String>);

impl HasData for Settings<'static> {
    type Data<'a> = Settings<'a>;
}

impl store::Host for Settings<'_> {
    fn get(&mut self, key: String) -> Result<Option<String>, store::Error> {
        Ok(self.0.get(&key).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, store::Error> {
        Ok(self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use chacha20::rand_core::Rng as _;

    use super::*;

    #[test]
    fn what_is_not_ready_is_not_waited_for() {
        assert!(now_or_never(async { Ok(1) }).is_ok());
        let error = now_or_never(std::future::pending::<wasmtime::Result<()>>()).expect_err("pending");
        assert!(error.to_string().contains("never comes"), "{error}");
    }

    #[test]
    fn randomness_is_the_same_for_a_batch_and_another_for_each() {
        let drawn = |seed, stream| {
            let mut randomness = randomness(seed, stream);
            [0; 16].map(|_: u32| randomness.next_u32())
        };
        assert_eq!(drawn(5, 0), drawn(5, 0));
        let all = [(5, 0), (6, 0), (5 << 64, 0), (5, 1)].map(|(seed, stream)| drawn(seed, stream));
        let mut words = all.as_flattened().to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 4 * 16, "none repeats, nor is any the same in two: {all:?}");
        // Guests have made IDs of it: another version of the cipher's crate must give the same.
        assert_eq!(drawn(5, 0)[0], 1_168_585_921);
    }

    #[test]
    fn a_deadline_is_there_at_once() {
        let mut table = ResourceTable::new();
        let mut view = View { now_ns: 5, table: &mut table };
        for when in [0, 5, 6, u64::MAX] {
            let pollable = monotonic_clock::Host::subscribe_instant(&mut view, when).expect("a pollable");
            poll::HostPollable::block(&mut view, pollable).expect("no wait");
            let pollable = monotonic_clock::Host::subscribe_duration(&mut view, when).expect("a pollable");
            let found = poll::Host::poll(&mut view, vec![pollable]).expect("no wait");
            assert_eq!(found, [0]);
        }
    }
}
