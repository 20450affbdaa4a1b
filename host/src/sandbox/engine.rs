//! How components are compiled, and the clock that stops them.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
};

use super::cache::Cache;
use super::compile::compile;
use super::guest::{Guest, State};
use super::limits::{MEMORIES_MAX, TABLES_MAX};
use super::load::{check_form, describe};
use super::{Limits, LoadError, powers, wasi};
use crate::batch::Digest;
use crate::config::{self, Grants, Tenant};
use crate::turns::{Turn, Turns};

/// How often the epoch moves on: the grain of the time limit.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Calls at the same time, of all tenants, for each processor: one that hangs
/// until its time limit must not hold up the others.
const CALLS_A_PROCESSOR: usize = 4;
/// The same on a machine with one processor, and on one with very many.
const CALLS: RangeInclusive<u32> = 8..=64;

/// The part of a memory that is cleared by hand when an instance is thrown
/// away, as far as the guest had it; what lies above goes back to the kernel,
/// and each page of it costs the next instance a fault. The usual stack of a
/// guest is the first MiB; a batch of 1,000 events takes the default guest one more.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// What the guests of all tenants share: engines, their clock, and turns. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes(Arc<Shared>);

struct Shared {
    /// Nearly always one: code that counts fuel, or has another stack, needs another engine.
    engines: BTreeMap<Code, Engine>,
    calls: Turns,
    /// Who may compile now.
    compiling: Turns,
    compiled: Mutex<HashMap<(Code, Digest), Arc<Place>>>,
    cache: Option<Cache>,
}

/// What compiled code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Code {
    counts_fuel: bool,
    stack_bytes: usize,
}

/// Where a component is found while it is in force: tenants with the same rules share it.
type Place = Mutex<Weak<Component>>;

impl Code {
    fn of(limits: &Limits) -> Self {
        Self { counts_fuel: limits.fuel > 0, stack_bytes: limits.stack_bytes }
    }
}

impl Sandboxes {
    /// For the guests of all tenants of the settings.
    pub fn new(config: &config::Config) -> wasmtime::Result<Self> {
        let limits: Vec<Limits> = config.tenants.iter().map(Limits::from).collect();
        Self::start(
            &limits,
            config.guest_cache.as_deref().map(|folder| Cache::new(folder, config.tenants.len())),
        )
    }

    /// Starts the engines and their clock, with room for guests of these limits.
    fn start(limits: &[Limits], cache: Option<Cache>) -> wasmtime::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let calls = u32::try_from(CALLS_A_PROCESSOR * processors).unwrap_or(u32::MAX);
        let calls = calls.clamp(*CALLS.start(), *CALLS.end());
        let mut rooms: BTreeMap<Code, Limits> = BTreeMap::new();
        for limits in limits {
            rooms
                .entry(Code::of(limits))
                .and_modify(|room| *room = room.with_room_for(limits))
                .or_insert(*limits);
        }
        let engine = |(code, room): (Code, Limits)| {
            let mut config = code_config(&room);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&room, calls)));
            Ok((code, Engine::new(&config)?))
        };
        let engines = rooms.into_iter().map(engine).collect::<wasmtime::Result<BTreeMap<Code, Engine>>>()?;
        start_clock(engines.values().map(Engine::weak).collect())?;
        let compiling = Turns::new(u32::try_from(processors).unwrap_or(u32::MAX).max(2));
        let (calls, compiled) = (Turns::new(calls), Mutex::default());
        Ok(Self(Arc::new(Shared { engines, calls, compiling, compiled, cache })))
    }

    /// The one for the guest of this tenant.
    pub fn of(&self, tenant: &Tenant) -> wasmtime::Result<Sandbox> {
        self.sandbox(Limits::from(tenant), tenant.guest_settings.clone(), tenant.grants.clone())
    }

    fn sandbox(
        &self,
        limits: Limits,
        settings: BTreeMap<String, String>,
        grants: Grants,
    ) -> wasmtime::Result<Sandbox> {
        let engine = self.0.engines.get(&Code::of(&limits));
        let engine = engine.ok_or_else(|| wasmtime::format_err!("no engine was started for these limits"))?;
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker)?;
        powers::link(&mut linker, &grants)?;
        let (linker, settings, grants) = (Arc::new(linker), Arc::new(settings), Arc::new(grants));
        Ok(Sandbox { sandboxes: self.clone(), engine: engine.clone(), linker, limits, settings, grants })
    }

    /// Blocks until a guest may be called.
    pub(super) fn turn(&self) -> Turn<'_> {
        self.0.calls.take()
    }

    fn place_of(&self, code: Code, digest: Digest) -> Arc<Place> {
        let mut compiled = self.0.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        // What is nobody's any more, and is not being compiled.
        compiled.retain(|_, place| {
            Arc::strong_count(place) > 1
                || place.try_lock().is_ok_and(|component| component.strong_count() > 0)
        });
        Arc::clone(compiled.entry((code, digest)).or_default())
    }
}

/// Compiles a tenant's components, and holds what all of them share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    sandboxes: Sandboxes,
    engine: Engine,
    linker: Arc<Linker<State>>,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    grants: Arc<Grants>,
}

impl Sandbox {
    /// With an engine of its own. Guests get no settings and no grants.
    pub fn new(limits: Limits) -> wasmtime::Result<Self> {
        Sandboxes::start(&[limits], None)?.sandbox(limits, BTreeMap::new(), Grants::default())
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
        check_form(bytes, &self.limits)?;
        self.checked(bytes, || {
            let _turn = self.sandboxes.0.compiling.take();
            compile(&self.engine, &self.limits, self.sandboxes.0.cache.as_ref(), bytes)
        })
    }

    /// The same in this process, for a component that came with the program. Takes about 0.2 s.
    pub fn load_trusted(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        self.checked(bytes, || {
            let component = Component::from_binary(&self.engine, bytes);
            component.map_err(|error| LoadError::Compile(describe(&error)))
        })
    }

    fn checked(
        &self,
        bytes: &[u8],
        compile: impl FnOnce() -> Result<Component, LoadError>,
    ) -> Result<Guest, LoadError> {
        let digest = Digest::of(bytes);
        let component = self.compiled(digest, compile)?;
        let (settings, grants) = (Arc::clone(&self.settings), Arc::clone(&self.grants));
        Guest::new(component, digest, &self.linker, self.limits, settings, grants, self.sandboxes.clone())
    }

    /// The component as another tenant has it, or compiled now.
    fn compiled(
        &self,
        digest: Digest,
        compile: impl FnOnce() -> Result<Component, LoadError>,
    ) -> Result<Arc<Component>, LoadError> {
        let place = self.sandboxes.place_of(Code::of(&self.limits), digest);
        // Held while it is compiled: who wants the same waits for it.
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = place.upgrade() {
            return Ok(component);
        }
        let component = Arc::new(compile()?);
        *place = Arc::downgrade(&component);
        Ok(component)
    }
}

/// What compiled code depends on, and no more: it must be the same wherever code is compiled and run.
pub(super) fn code_config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .consume_fuel(limits.fuel > 0)
        .max_wasm_stack(limits.stack_bytes)
        // The same bits on every processor (invariant 5).
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // The asynchronous component model is not needed, and it slows calls.
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Room for so many calls at the same time, whatever each of them takes.
fn pool(limits: &Limits, calls: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls * limits.instances)
        .total_memories(calls * MEMORIES_MAX)
        .total_tables(calls * TABLES_MAX)
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

/// Moves the engines' epochs on, for as long as any of them lives.
///
/// A thread, not a task: a busy runtime must not lengthen a guest's time.
fn start_clock(engines: Vec<EngineWeak>) -> wasmtime::Result<()> {
    std::thread::Builder::new().name("epoch".into()).spawn(move || {
        let tick = |engine: &EngineWeak| engine.upgrade().map(|engine| engine.increment_epoch()).is_some();
        while engines.iter().filter(|engine| tick(engine)).count() > 0 {
            std::thread::sleep(TICK);
        }
    })?;
    Ok(())
}
