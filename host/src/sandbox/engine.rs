//! How components are compiled, and the clock that stops them.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::guest::{Guest, State};
use super::{Limits, LoadError};

/// How often the epoch moves on: the grain of the time limit.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Instances alive at the same time. Batches are judged one after the other,
/// and a new version may be tried meanwhile.
const INSTANCES_MAX: u32 = 16;

/// The part of a memory that is zeroed by hand when an instance is thrown
/// away; what lies above goes back to the kernel. A batch of 1,000 events takes
/// the default guest 1 MiB.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// Compiles components and holds what all of them share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    engine: Engine,
    linker: Arc<Linker<State>>,
    limits: Limits,
}

impl Sandbox {
    /// Starts the engine and its clock.
    pub fn new(limits: Limits) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config(&limits))?;
        start_clock(&engine)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
        Ok(Self { engine, linker: Arc::new(linker), limits })
    }

    /// Compiles and checks a component: its form, its imports, its exports.
    ///
    /// Takes about 0.2 s for the default guest, seconds for a language
    /// runtime, on all cores: not for a thread that has batches to serve.
    /// Precompiled code is refused by its first bytes; it would run unchecked.
    pub fn load(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        Guest::load(&self.engine, &self.linker, self.limits, bytes)
    }
}

fn config(limits: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(8 * INSTANCES_MAX)
        .total_memories(2 * INSTANCES_MAX)
        .total_tables(4 * INSTANCES_MAX)
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
