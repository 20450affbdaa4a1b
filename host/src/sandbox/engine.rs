//! How components are compiled, and the clock that stops them.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
    WasmFeatures,
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

/// The WebAssembly proposals that components may use; all others are off.
///
/// wasmtime is built without garbage collection, threads and asynchronous components. It still accepts some code of these
/// proposals if it is not told otherwise, and meets a part of itself that is not there when the code runs:
/// RUSTSEC-2026-0570, which ended the process.
const PROPOSALS: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::COMPONENT_MODEL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .difference(WasmFeatures::GC_TYPES);

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
        .wasm_features(WasmFeatures::all().difference(PROPOSALS), false)
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
        // Nothing here is asynchronous. Each stack would cost two of the mappings of which Linux gives a process 65,530.
        .total_stacks(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A component around a core module of these parts.
    fn component(parts: &str) -> Vec<u8> {
        wat::parse_str(format!("(component (core module {parts}))"))
            .unwrap_or_else(|error| panic!("{parts}: {error}"))
    }

    /// Why it is refused, if it is not for what it exports.
    fn refusal(sandbox: &Sandbox, component: &[u8]) -> Option<String> {
        match sandbox.load_trusted(component) {
            Err(LoadError::World(_)) | Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Each would need a part of wasmtime that is not built in, and could end the process where it runs.
    #[test]
    fn code_of_a_proposal_that_is_not_built_in_is_refused_by_name() {
        let sandbox = Sandbox::new(Limits::default()).expect("a sandbox");
        let core = [
            // Types that others may refine, in whatever a module has types in.
            "(type (sub (func)))",
            "(type (sub final (func))) (type $s (sub (func))) (type (sub $s (func)))",
            "(rec (type $a (sub (func))) (type (sub $a (func))))",
            "(type $t (sub (func))) (import \"a\" \"b\" (func (type $t)))",
            "(type $t (sub (func))) (table 1 funcref) (func (call_indirect (type $t) (i32.const 0)))",
            "(type $t (sub (func))) (table 1 funcref) (func (return_call_indirect (type $t) (i32.const 0)))",
            // References to types.
            "(type $t (func)) (func (param (ref null $t)))",
            "(type $t (func)) (func (local (ref null $t)))",
            "(type $t (func)) (table 1 (ref null $t))",
            "(type $t (func)) (global (ref null $t) (ref.null $t))",
            "(func (param (ref func)))",
            "(table 1 (ref func) (ref.func 0)) (func)",
            "(type $t (func)) (func (param funcref) (drop (ref.cast (ref $t) (local.get 0))))",
            "(type $t (func)) (func (param funcref) (drop (ref.test (ref $t) (local.get 0))))",
            "(func (param funcref) (drop (ref.test (ref func) (local.get 0))))",
            "(func (param funcref) (drop (ref.cast (ref null nofunc) (local.get 0))))",
            "(func (param funcref) (drop (block (result funcref) (br_on_cast 0 funcref (ref func) (local.get 0)))))",
            "(func (param funcref) (drop (block (result funcref) (br_on_cast_fail 0 funcref (ref func) (local.get 0)))))",
            "(type $t (func)) (func $f) (elem declare func $f) (func (call_ref $t (ref.func $f)))",
            "(type $t (func)) (func $f) (elem declare func $f) (func (return_call_ref $t (ref.func $f)))",
            "(func (param funcref) (drop (ref.as_non_null (local.get 0))))",
            "(func (param funcref) (block (br_on_null 0 (local.get 0)) drop))",
            "(func (result funcref) (block (result (ref func)) (br_on_non_null 0 (ref.null func)) unreachable))",
            "(func (drop (ref.null nofunc)))",
            "(elem (ref null func) (ref.null func)) (func (param nullfuncref))",
            // A heap.
            "(type (struct (field i32)))",
            "(type (array i8))",
            "(type (array (mut funcref)))",
            "(type $s (struct)) (func (drop (struct.new $s)))",
            "(func (drop (ref.i31 (i32.const 1))))",
            "(func (param i31ref) (drop (i31.get_u (local.get 0))))",
            "(func (param anyref))",
            "(func (param eqref eqref) (drop (ref.eq (local.get 0) (local.get 1))))",
            "(func (param externref))",
            "(func (param externref) (drop (any.convert_extern (local.get 0))))",
            "(func (drop (ref.null extern)))",
            "(func (drop (ref.null none)))",
            "(func (param exnref))",
            "(table 1 externref)",
            "(table 1 anyref)",
            "(global externref (ref.null extern))",
            // Exceptions, today's and those of before.
            "(tag)",
            "(tag $t (param i32)) (func (throw $t (i32.const 1)))",
            "(func (param exnref) (throw_ref (local.get 0)))",
            "(func (block (try_table (catch_all 0))))",
            "(func try catch_all end)",
            // Threads.
            "(memory 1 1 shared)",
            "(memory 1) (func (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))",
            "(memory 1) (func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))",
            "(memory 1) (func (drop (memory.atomic.wait64 (i32.const 0) (i64.const 0) (i64.const -1))))",
            "(memory 1) (func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))",
            "(func (atomic.fence))",
            "(table shared 1 (ref null (shared func)))",
            // Stacks, and others that are not settled.
            "(type $f (func)) (type (cont $f))",
            "(type $f (func)) (type $c (cont $f)) (func $g) (elem declare func $g) (func (drop (cont.new $c (ref.func $g))))",
            "(func (param i64 i64 i64 i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))",
            "(memory 1 (pagesize 1))",
        ];
        let whole = [
            "(component (core func (canon task.cancel)))",
            "(component (core func (canon backpressure.inc)))",
            "(component (core func (canon subtask.drop)))",
            "(component (type (stream u8)))",
            "(component (type (future u8)))",
            "(component (type (func async)))",
            "(component (type error-context))",
            "(component (core func (canon thread.yield)))",
            "(component (core func (canon waitable-set.new)))",
            "(component (core func (canon context.get i32 0)))",
            "(component (type (list u8 4)))",
            "(component (type (map u8 u8)))",
        ];
        let whole = whole.map(|text| wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}")));
        let components = core.iter().map(|parts| component(parts)).chain(whole);
        let is_taken = |bytes: &Vec<u8>| {
            let refusal = refusal(&sandbox, bytes);
            refusal.is_none_or(|why| !why.contains("it does not compile"))
        };
        let taken: Vec<String> =
            components.filter(is_taken).map(|bytes| bytes.escape_ascii().to_string()).collect();
        assert!(taken.is_empty(), "{taken:#?}");
    }

    /// What compilers make.
    #[test]
    fn code_of_the_usual_proposals_is_taken() {
        let sandbox = Sandbox::new(Limits::default()).expect("a sandbox");
        for parts in [
            "(func (result i32 i32) (i32.const 1) (i32.const 2))",
            "(memory 1) (memory 1) (func (memory.copy 0 1 (i32.const 0) (i32.const 0) (i32.const 9)))",
            "(memory i64 1) (func (drop (i32.load (i64.const 0))))",
            "(func $f (return_call $f))",
            "(func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
            "(table 2 funcref) (func (table.set (i32.const 0) (ref.null func)))",
            "(func (drop (i32.extend8_s (i32.trunc_sat_f64_s (f64.const 1)))))",
            "(import \"a\" \"b\" (global i32)) (global i32 (i32.add (global.get 0) (i32.const 1)))",
        ] {
            assert_eq!(refusal(&sandbox, &component(parts)), None, "{parts}");
        }
    }

    /// As many as tenants can have settings of their own: each engine takes its part of what Linux gives a process.
    #[test]
    fn a_hundred_engines_start() {
        let limits: Vec<Limits> =
            (0..100).map(|i| Limits { stack_bytes: (256 + i) << 10, ..Limits::default() }).collect();
        assert!(Sandboxes::start(&limits, None).is_ok());
    }
}
