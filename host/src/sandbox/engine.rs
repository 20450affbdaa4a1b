//! How components are compiled, and the clock that stops them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::guest::{Guest, State, WeakGuest};
use super::turns::Turns;
use super::{Limits, LoadError};
use crate::batch::Digest;

/// How often the epoch moves on: the grain of the time limit.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Guests that run at the same time, of all tenants, for each processor: one
/// that hangs until its time limit must not hold up the others.
const TURNS_A_PROCESSOR: usize = 4;
/// The same on a machine with one processor, and on one with very many.
const TURNS: RangeInclusive<u32> = 8..=256;

/// The part of a memory that is zeroed by hand when an instance is thrown
/// away; what lies above goes back to the kernel. A batch of 1,000 events takes
/// the default guest 1 MiB.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// Compiles components and holds what all of them share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    linker: Arc<Linker<State>>,
    turns: Arc<Turns>,
    compiled: Arc<Compiled>,
    limits: Limits,
}

/// The components in force, by their digests: tenants with the same rules share them.
type Compiled = Mutex<HashMap<Digest, Arc<Mutex<WeakGuest>>>>;

impl Sandbox {
    /// Starts the engine and its clock. No guest may have more memory than these limits say.
    pub fn new(limits: Limits) -> wasmtime::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = u32::try_from(TURNS_A_PROCESSOR * processors).unwrap_or(u32::MAX);
        let turns = turns.clamp(*TURNS.start(), *TURNS.end());
        let engine = Engine::new(&config(&limits, turns))?;
        start_clock(&engine)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        let (turns, compiled) = (Arc::new(Turns::new(turns)), Arc::default());
        Ok(Self { engine, linker: Arc::new(linker), turns, compiled, limits })
    }

    /// The same engine, for guests with other limits.
    pub fn with(&self, limits: Limits) -> Self {
        Self { limits, ..self.clone() }
    }

    /// Compiles and checks a component: its form, its imports, its exports.
    ///
    /// Takes about 0.2 s for the default guest, seconds for a language
    /// runtime, on all cores: not for a thread that has batches to serve.
    /// Precompiled code is refused by its first bytes; it would run unchecked.
    pub fn load(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        let place = self.place_of(Digest::of(bytes));
        // Held while it is compiled: who wants the same waits for it.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = place.upgrade(self.limits) {
            return Ok(guest);
        }
        let guest = Guest::load(&self.engine, &self.linker, &self.turns, self.limits, bytes)?;
        *place = guest.downgrade();
        Ok(guest)
    }

    /// Where a component is found if it is in force.
    fn place_of(&self, digest: Digest) -> Arc<Mutex<WeakGuest>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        // What is nobody's any more, and is not being compiled.
        compiled.retain(|_, place| {
            Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|place| place.is_in_force())
        });
        Arc::clone(compiled.entry(digest).or_default())
    }
}

fn config(limits: &Limits, turns: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(turns)
        .total_core_instances(8 * turns)
        .total_memories(2 * turns)
        .total_tables(4 * turns)
        .max_memory_size(limits.memory_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(2);
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // The asynchronous component model is not needed, and it slows calls.
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Moves the engine's epoch on, for as long as the engine lives.
///
/// A thread, not a task: a busy runtime must not lengthen a guest's time.
fn start_clock(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new().name("epoch".into()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}
