//! Provides the little of WASI that a guest sees (invariant 5), of which nothing waits (invariant 4).
//!
//! A guest has no arguments, no environment, no files, no sockets and no standard input. The clock begins at the time
//! of the batch's first entry and moves only when the guest looks at it or waits for it, and randomness comes from that
//! entry's ID: the same batch sees the same world again.
//!
//! The time limit stops what a guest computes, not what the host does for it. So no call to the host may wait. These
//! interfaces of WASI 0.2 could:
//!
//! | interface | why it does not |
//! |---|---|
//! | `clocks/monotonic-clock` | it is ours: each look moves it by a nanosecond, and a wait moves it to the deadline |
//! | `io/poll` | it is ours: it waits for deadlines only; what is not ready without them never will be, and is a trap |
//! | `io/streams`, `cli/std*` | standard input is closed; the other two are a [`Stream`](super::output), always ready |
//! | `filesystem/types` | it works on descriptors, which come from `preopens` alone, and that has none |
//! | `sockets/*` | sockets and lookups are refused before there is a handle to wait for |
//! | `random/*` | it is deterministic, and bounded in bytes |
//!
//! `wasi:config` answers from memory. Shared memories, whose atomic waits
//! block, need the engine's feature `threads`, which is not built in.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chacha20::ChaCha12Rng;
use chacha20::rand_core::SeedableRng as _;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::sync::io::poll;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::runtime::poll_noop;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_io::bindings::wasi::io::poll as asynchronous;

use super::instance::State;
use super::output::Output;
use sluicegate_verdicts::EntryId;

use config::wasi::config::store;

mod config {
    // This is not `wasmtime-wasi-config`, whose `get-all` gives the settings in an order that differs from run to run.
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

/// Bounds the bytes of randomness that one WASI call may ask for.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Names the interfaces that a guest may import, as [`link`] provides them. Those of WASI may have any version 0.2,
/// except `wasi:config`.
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

/// Links the interfaces that guests may import.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    linker.allow_shadowing(true);
    poll::add_to_linker::<State, OwnTime>(linker, own_time)?;
    monotonic_clock::add_to_linker::<State, OwnTime>(linker, own_time)?;
    linker.allow_shadowing(false);
    store::add_to_linker::<State, Settings<'static>>(linker, |state| Settings(state.settings()))
}

/// Returns what the guest sees while it judges a batch that begins with this entry.
pub(super) fn context(first: EntryId, clock: &Clock, output: &Output) -> WasiCtx {
    let seed = u128::from(first.milliseconds) << 64 | u128::from(first.sequence);
    WasiCtxBuilder::new()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .wall_clock(clock.clone())
        .monotonic_clock(clock.clone())
        .secure_random(randomness(seed, 0))
        .insecure_random(randomness(seed, 1))
        .insecure_random_seed(seed)
        .max_random_size(MAX_RANDOM_BYTES)
        .stdout(output.out.clone())
        .stderr(output.err.clone())
        .build()
}

/// Returns the randomness of a cipher, since guests make IDs of it: those of two batches must not meet. It is not
/// wasmtime's `Deterministic`, which repeats its seed, and not `rand`'s standard generator, which may be another one in
/// the next version (invariant 5).
fn randomness(seed: u128, stream: u64) -> ChaCha12Rng {
    let mut key = chacha20::Seed::default();
    for (to, from) in key.iter_mut().zip(seed.to_le_bytes()) {
        *to = from;
    }
    let mut randomness = ChaCha12Rng::from_seed(key);
    randomness.set_stream(stream);
    randomness
}

/// Holds the clock of one call, in nanoseconds since the Unix epoch.
///
/// It moves as the guest uses it, and by nothing else, so that it is the same again for the same batch.
#[derive(Clone)]
pub(super) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn new(milliseconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(milliseconds.saturating_mul(1_000_000))))
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves the clock by a nanosecond, and reads it: whoever looks again until time has passed sees it pass.
    fn look(&self) -> u64 {
        self.move_to(self.read().saturating_add(1))
    }

    fn move_to(&self, when: u64) -> u64 {
        self.0.fetch_max(when, Ordering::Relaxed).max(when)
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.look())
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.look()
    }
}

/// Stands for the clocks and polls of a world in which time is the guest's own.
struct OwnTime;

struct View<'a> {
    clock: Clock,
    deadlines: &'a mut Deadlines,
    table: &'a mut ResourceTable,
}

/// Holds the deadlines of pollables, by the numbers of these in the table of resources.
pub(super) type Deadlines = BTreeMap<u32, u64>;

impl HasData for OwnTime {
    type Data<'a> = View<'a>;
}

fn own_time(state: &mut State) -> View<'_> {
    let clock = state.clock.clone();
    let (deadlines, table) = state.deadlines();
    View { clock, deadlines, table }
}

/// Is ready when the clock has come so far.
struct Deadline {
    clock: Clock,
    when: u64,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Deadline {
    async fn ready(&mut self) {
        match self.clock.read() >= self.when {
            true => ready(()).await,
            false => pending().await,
        }
    }
}

impl View<'_> {
    fn deadline(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let deadline = self.table.push(Deadline { clock: self.clock.clone(), when })?;
        let pollable = subscribe(self.table, deadline)?;
        self.deadlines.insert(pollable.rep(), when);
        Ok(pollable)
    }

    /// Looks, and if nothing is ready moves the clock to the first of these deadlines and looks again.
    fn wait<T>(
        &mut self,
        pollables: &[u32],
        mut look: impl FnMut(&mut ResourceTable) -> Option<wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        if let Some(found) = look(self.table) {
            return found;
        }
        let first = pollables.iter().filter_map(|pollable| self.deadlines.get(pollable)).min();
        let first = first.map(|first| self.clock.move_to(*first));
        let found = first.and_then(|_| look(self.table));
        found.unwrap_or_else(|| {
            Err(wasmtime::format_err!(
                "it waits for what never comes: a guest has nothing to wait for but its clock"
            ))
        })
    }
}

impl monotonic_clock::Host for View<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.look())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::resolution(&self.clock))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.deadline(when)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.deadline(self.clock.read().saturating_add(duration))
    }
}

impl poll::Host for View<'_> {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let numbers: Vec<u32> = pollables.iter().map(Resource::rep).collect();
        self.wait(&numbers, |table| {
            let pollables = numbers.iter().map(|number| Resource::new_borrow(*number)).collect();
            poll_noop(pin!(asynchronous::Host::poll(table, pollables)))
        })
    }
}

impl poll::HostPollable for View<'_> {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        poll_noop(pin!(asynchronous::HostPollable::ready(self.table, pollable))).unwrap_or(Ok(false))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        let number = pollable.rep();
        self.wait(&[number], |table| {
            poll_noop(pin!(asynchronous::HostPollable::block(table, Resource::new_borrow(number))))
        })
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.deadlines.remove(&pollable.rep());
        asynchronous::HostPollable::drop(self.table, pollable)
    }
}

/// Gives the guest's settings, in the order of their names.
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

    /// Is never ready.
    struct Never;

    #[wasmtime_wasi::async_trait]
    impl Pollable for Never {
        async fn ready(&mut self) {
            pending().await
        }
    }

    #[test]
    fn a_wait_takes_no_time_and_moves_the_clock_to_the_first_deadline() {
        let (mut table, mut deadlines) = (ResourceTable::new(), Deadlines::new());
        let view = &mut View { clock: Clock::new(5), deadlines: &mut deadlines, table: &mut table };
        let now = |view: &mut View<'_>| monotonic_clock::Host::now(view).expect("a reading");
        assert_eq!([now(view), now(view)], [5_000_001, 5_000_002], "each look moves it");
        let in_ns = |view: &mut View<'_>, ns| {
            monotonic_clock::Host::subscribe_duration(view, ns).expect("a pollable").rep()
        };
        let (later, sooner) = (in_ns(view, 2_000), in_ns(view, 1_000));
        let borrow = |number: u32| Resource::<DynPollable>::new_borrow(number);
        assert!(!poll::HostPollable::ready(view, borrow(sooner)).expect("a look"), "a look does not wait");
        let never = view.table.push(Never).expect("room");
        let never = subscribe(view.table, never).expect("a pollable").rep();
        let both = vec![borrow(never), borrow(later), borrow(sooner)];
        assert_eq!(poll::Host::poll(view, both).expect("no wait"), [2], "the other is later");
        assert_eq!(now(view), 5_001_003);
        poll::HostPollable::block(view, borrow(later)).expect("no wait");
        assert_eq!(now(view), 5_002_003);
        let past = monotonic_clock::Host::subscribe_instant(view, 0).expect("a pollable").rep();
        poll::HostPollable::block(view, borrow(past)).expect("it is there");
        assert_eq!(now(view), 5_002_004, "nothing was waited for");
        let error = poll::HostPollable::block(view, borrow(never)).expect_err("nobody will wake it");
        assert!(error.to_string().contains("never comes"), "{error}");
    }
}
