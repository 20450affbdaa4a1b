//! How components are compiled, and the clock that stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::cache::Cache;
use super::compile::compile;
use super::guest::{Guest, State};
use super::limits::{MEMORIES_MAX, TABLES_MAX};
use super::load::{check_form, describe};
use super::{Limits, LoadError, powers, wasi};
use crate::config::{self, Grants};

/// How often the epoch moves on: the grain of the time limit.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Calls at the same time. Batches are judged one after the other, a new
/// version may be tried meanwhile, and an old one be in its last call.
const CALLS_MAX: u32 = 4;

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
    settings: Arc<BTreeMap<String, String>>,
    grants: Arc<Grants>,
    cache: Option<Cache>,
}

impl Sandbox {
    /// Starts the engine and its clock. Guests get no settings and no grants.
    pub fn new(limits: Limits) -> wasmtime::Result<Self> {
        Self::granting(limits, Grants::default())
    }

    fn granting(limits: Limits, grants: Grants) -> wasmtime::Result<Self> {
        let mut config = code_config(&limits);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&limits)));
        let engine = Engine::new(&config)?;
        start_clock(&engine)?;
        let mut linker = Linker::new(&engine);
        wasi::link(&mut linker)?;
        powers::link(&mut linker, &grants)?;
        let (linker, grants) = (Arc::new(linker), Arc::new(grants));
        Ok(Self { engine, linker, limits, settings: Arc::default(), grants, cache: None })
    }

    /// As the settings say.
    pub fn configured(config: &config::Config) -> wasmtime::Result<Self> {
        let sandbox = Self::granting(Limits::from(config), config.grants.clone())?;
        let cache = config.guest_cache.as_deref().map(Cache::new);
        Ok(Self { settings: Arc::new(config.guest_settings.clone()), cache, ..sandbox })
    }

    /// What guests may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Compiles a stranger's component, in a process of its own, and checks it: its form, its imports, its
    /// exports, its start. Only for the program `sluicegate` itself: see [`compile`](super::compile).
    ///
    /// Takes seconds for a language runtime: not for a thread that has batches to serve.
    pub fn load(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        check_form(bytes, self.limits.component_bytes)?;
        let component = compile(&self.engine, &self.limits, self.cache.as_ref(), bytes)?;
        self.checked(&component, bytes)
    }

    /// The same in this process, for a component that came with the program. Takes about 0.2 s.
    pub fn load_trusted(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        let component = Component::from_binary(&self.engine, bytes);
        self.checked(&component.map_err(|error| LoadError::Compile(describe(&error)))?, bytes)
    }

    fn checked(&self, component: &Component, bytes: &[u8]) -> Result<Guest, LoadError> {
        let (settings, grants) = (Arc::clone(&self.settings), Arc::clone(&self.grants));
        Guest::new(component, bytes, &self.linker, self.limits, settings, grants)
    }
}

/// What compiled code depends on, and no more: it must be the same wherever code is compiled and run.
pub(super) fn code_config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(limits.fuel > 0)
        .max_wasm_stack(limits.stack_bytes)
        // The asynchronous component model is not needed, and it slows calls.
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Room for so many calls at the same time, whatever each of them takes.
fn pool(limits: &Limits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(CALLS_MAX)
        .total_core_instances(CALLS_MAX * limits.instances)
        .total_memories(CALLS_MAX * MEMORIES_MAX)
        .total_tables(CALLS_MAX * TABLES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_core_instances_per_component(limits.instances)
        .table_elements(limits.table_elements)
        .max_memory_size(limits.memory_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(2);
    pool
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
