//! How components are compiled, and the clock that stops them.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails,
    WasmFeatures,
};

use super::cache::Cache;
use super::code::{CodeRoom, TakenRoom};
use super::compile::{Compilers, does_not_fit, max_code_bytes};
use super::guest::{Guest, State};
use super::limits::{MAX_MEMORIES, MAX_TABLES};
use super::load::{Form, describe, form};
use super::permit::acquire_blocking;
use super::{Limits, LoadError, host, wasi};
use crate::batch::Digest;
use crate::config::{self, Grants, Tenant, TenantName};

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
const CALLS_PER_PROCESSOR: usize = 4;
/// The same on a machine with one processor, and on one with very many.
const CALLS: RangeInclusive<u32> = 8..=64;

/// The part of a memory that is cleared by hand when an instance is thrown
/// away, as far as the guest had it; what lies above goes back to the kernel,
/// and each page of it costs the next instance a fault. The usual stack of a
/// guest is the first MiB; a batch of 1,000 events takes the default guest one more.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// What wasmtime keeps for an instance of a core module beside its functions in tables: its own default.
const INSTANCE_BYTES: usize = 1 << 20;
/// What it keeps for a function that is in a table, at most.
const FUNCTION_BYTES: usize = 48;

/// What the guests of all tenants share: engines, their clock, and turns. Cheap to clone.
#[derive(Clone)]
pub struct SandboxEngine(Arc<EngineInner>);

struct EngineInner {
    /// Nearly always one: code that counts fuel, or has another stack, needs another engine.
    engines: BTreeMap<Code, Engine>,
    calls: Semaphore,
    compilers: Compilers,
    compiled: Mutex<HashMap<(Code, Digest), Arc<CachedComponent>>>,
    code_room: Arc<CodeRoom>,
    cache: Option<Cache>,
}

/// What compiled code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Code {
    counts_fuel: bool,
    stack_bytes: usize,
}

/// Where a component is found while it is in force: tenants with the same rules share it.
type CachedComponent = Mutex<Weak<Compiled>>;

/// A component that can run, and the room that its native code takes.
pub(super) struct Compiled {
    pub(super) component: Component,
    form: Form,
    _room: TakenRoom,
}

impl Code {
    fn from_limits(limits: &Limits) -> Self {
        Self { counts_fuel: limits.fuel > 0, stack_bytes: limits.stack_bytes }
    }
}

impl SandboxEngine {
    /// For the guests of all tenants of the settings.
    pub fn new(config: &config::Config) -> wasmtime::Result<Self> {
        let limits: Vec<Limits> = config.tenants.iter().map(Limits::from).collect();
        let tenants = config.tenants.len();
        let cache = config.guest_cache.as_deref().map(|folder| Cache::new(folder, tenants));
        Self::start(&limits, CodeRoom::new(config.guest_code.0, tenants), cache)
    }

    /// Starts the engines and their clock, with room for guests of these limits.
    fn start(limits: &[Limits], code_room: CodeRoom, cache: Option<Cache>) -> wasmtime::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let calls = u32::try_from(CALLS_PER_PROCESSOR * processors).unwrap_or(u32::MAX);
        let calls = calls.clamp(*CALLS.start(), *CALLS.end());
        let mut rooms: BTreeMap<Code, Limits> = BTreeMap::new();
        for limits in limits {
            rooms
                .entry(Code::from_limits(limits))
                .and_modify(|room| *room = room.with_room_for(limits))
                .or_insert(*limits);
        }
        let engine = |(code, room): (Code, Limits)| {
            let mut config = code_config(&room);
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&room, calls)));
            Ok((code, Engine::new(&config).map_err(with_address_space)?))
        };
        let engines = rooms.into_iter().map(engine).collect::<wasmtime::Result<BTreeMap<Code, Engine>>>()?;
        start_clock(engines.values().map(Engine::weak).collect())?;
        let compilers = Compilers::new(processors);
        let (calls, compiled, code_room) =
            (Semaphore::new(usize::try_from(calls).unwrap_or(1)), Mutex::default(), Arc::new(code_room));
        Ok(Self(Arc::new(EngineInner { engines, calls, compilers, compiled, code_room, cache })))
    }

    /// The one for the guest of this tenant.
    pub fn tenant_sandbox(&self, tenant: &Tenant) -> wasmtime::Result<Sandbox> {
        let (limits, settings) = (Limits::from(tenant), tenant.guest_settings.clone());
        self.sandbox(tenant.name.clone(), limits, settings, tenant.grants.clone())
    }

    fn sandbox(
        &self,
        tenant: TenantName,
        limits: Limits,
        settings: BTreeMap<String, String>,
        grants: Grants,
    ) -> wasmtime::Result<Sandbox> {
        let engine = self.0.engines.get(&Code::from_limits(&limits));
        let engine = engine.ok_or_else(|| wasmtime::format_err!("no engine was started for these limits"))?;
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker)?;
        host::link(&mut linker, &grants)?;
        let (linker, settings, grants) = (Arc::new(linker), Arc::new(settings), Arc::new(grants));
        let (shared, engine) = (self.clone(), engine.clone());
        Ok(Sandbox { shared, tenant, engine, linker, limits, settings, grants })
    }

    /// Blocks until a guest may be called.
    pub(super) fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        acquire_blocking(&self.0.calls)
    }

    fn cached_component(&self, code: Code, digest: Digest) -> Arc<CachedComponent> {
        let mut compiled = self.0.compiled.lock();
        // What is nobody's any more, and is not being compiled.
        compiled.retain(|_, cached| {
            Arc::strong_count(cached) > 1
                || cached.try_lock().is_some_and(|component| component.strong_count() > 0)
        });
        Arc::clone(compiled.entry((code, digest)).or_default())
    }
}

/// Compiles a tenant's components, and holds what all of them share. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    shared: SandboxEngine,
    /// Whose turn it is when it compiles.
    tenant: TenantName,
    engine: Engine,
    linker: Arc<Linker<State>>,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    grants: Arc<Grants>,
}

impl Sandbox {
    /// With an engine of its own. Guests get no settings and no grants.
    pub fn new(limits: Limits) -> wasmtime::Result<Self> {
        let Tenant { name, grants, .. } = Tenant::default();
        let room = CodeRoom::new(config::Config::default().guest_code.0, 1);
        SandboxEngine::start(&[limits], room, None)?.sandbox(name, limits, BTreeMap::new(), grants)
    }

    /// What guests may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Compiles a stranger's component, in a process of its own, and checks it: its form, its imports, its
    /// exports, its start. Only for the program `sluicegate` itself: see [`compile`](super::compile).
    ///
    /// It is read only if nobody has compiled it, and not before it is its turn. Takes seconds for a language runtime: not
    /// for a thread that has batches to serve.
    pub fn load(&self, source: Source<'_>) -> Result<Guest, LoadError> {
        self.checked(source.digest, || self.compile(source))
    }

    /// The same in this process, for a component that came with the program. Takes about 0.2 s.
    pub fn load_trusted(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        self.checked(Digest::new(bytes), || {
            let form = form(bytes, &self.limits)?;
            let component = Component::from_binary(&self.engine, bytes);
            let component = component.map_err(|error| LoadError::Compile(describe(&error)))?;
            Ok(Compiled { component, form, _room: self.shared.0.code_room.take(0)? })
        })
    }

    fn checked(
        &self,
        digest: Digest,
        compile: impl FnOnce() -> Result<Compiled, LoadError>,
    ) -> Result<Guest, LoadError> {
        let compiled = self.compiled(digest, compile)?;
        // Compiled for another tenant, perhaps, whose limits are wider.
        compiled.form.check(&self.limits)?;
        let (settings, grants) = (Arc::clone(&self.settings), Arc::clone(&self.grants));
        Guest::new(compiled, digest, &self.linker, self.limits, settings, grants, self.shared.clone())
    }

    /// The component as another tenant has it, or compiled now.
    fn compiled(
        &self,
        digest: Digest,
        compile: impl FnOnce() -> Result<Compiled, LoadError>,
    ) -> Result<Arc<Compiled>, LoadError> {
        let cached = self.shared.cached_component(Code::from_limits(&self.limits), digest);
        // Held while it is compiled: who wants the same waits for it.
        let mut cached = cached.lock();
        if let Some(compiled) = cached.upgrade() {
            return Ok(compiled);
        }
        let compiled = Arc::new(compile()?);
        *cached = Arc::downgrade(&compiled);
        Ok(compiled)
    }

    /// The code of an earlier run, if there is any.
    fn cached(&self, cache: &Cache, source: Source<'_>) -> Result<Option<Compiled>, LoadError> {
        let bytes = cache.bytes(&self.engine, source.digest);
        if bytes == 0 || bytes > max_code_bytes(source.about_bytes) {
            return Ok(None);
        }
        let room = self.shared.0.code_room.take(bytes)?;
        let Some(code) = cache.get(&self.engine, source.digest, bytes) else { return Ok(None) };
        match code.load(&self.engine) {
            Ok(component) => {
                let form = form(&(source.read)()?, &self.limits)?;
                Ok(Some(Compiled { component, form, _room: room }))
            }
            Err(error) => {
                tracing::warn!(%error, "a compiled guest in the cache cannot be used; compiling anew");
                Ok(None)
            }
        }
    }

    /// Takes the code from the cache, or compiles in a child process.
    fn compile(&self, source: Source<'_>) -> Result<Compiled, LoadError> {
        let EngineInner { compilers, code_room, cache, .. } = &*self.shared.0;
        let (digest, limits) = (source.digest, &self.limits);
        if let Some(cache) = cache
            && let Some(compiled) = compilers.in_line(|| self.cached(cache, source))?
        {
            return Ok(compiled);
        }
        let mut found = None;
        let read = || {
            let bytes = (source.read)()?;
            found = Some(form(&bytes, limits)?);
            Ok(bytes)
        };
        let (code, room) = compilers.compile(&self.tenant, source.about_bytes, limits, code_room, read)?;
        let component = code.load(&self.engine).map_err(|error| does_not_fit(&error))?;
        if let Some(cache) = cache {
            cache.put(&self.engine, digest, &code);
        }
        let form = found.ok_or_else(|| LoadError::Unreadable("it was not read".to_owned()))?;
        Ok(Compiled { component, form, _room: room })
    }
}

/// A component that is somewhere else until it is needed.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub digest: Digest,
    /// Its size, or about.
    pub about_bytes: u64,
    /// Returns the bytes that have this digest.
    pub read: &'a dyn Fn() -> Result<Vec<u8>, LoadError>,
}

/// An address space that is too small says so in bytes only.
fn with_address_space(error: wasmtime::Error) -> wasmtime::Error {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    match limit {
        None => error,
        Some(limit) => error.context(format!(
            "this process may have {limit} bytes of address space (`ulimit -v`); wanted no such limit: {MAX_MEMORIES} memories \
             are reserved for each guest that may run at the same time, with 4 GiB of addresses each, and as good as no \
             memory behind them. GUEST_MEMORY limits the memory"
        )),
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
    let functions_bytes = limits.table_elements.saturating_mul(FUNCTION_BYTES);
    let instance_bytes = INSTANCE_BYTES.saturating_add(functions_bytes);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        // Nothing here is asynchronous. Each stack would cost two of the mappings of which Linux gives a process 65,530.
        .total_stacks(0)
        .total_core_instances(calls * limits.instances)
        .total_memories(calls * MAX_MEMORIES)
        .total_tables(calls * MAX_TABLES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(MAX_TABLES)
        .max_core_instances_per_component(limits.instances)
        .table_elements(limits.table_elements)
        .max_memory_size(limits.memory_bytes)
        .max_core_instance_size(instance_bytes)
        .max_component_instance_size(instance_bytes)
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
        assert!(SandboxEngine::start(&limits, CodeRoom::new(0, 1), None).is_ok());
    }
}
