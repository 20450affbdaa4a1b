//! Compiles components and makes guests of them, and holds what the guests of all tenants share.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Engine;

use super::cache::Cache;
use super::code::{self, CodeRoom, NativeCode, TakenRoom, code_config};
use super::compile::{Compilers, max_code_bytes};
use super::guest::Guest;
use super::load::{Form, describe, form};
use super::permit::acquire_blocking;
use super::process::{PROGRAM, Workers};
use super::{Limits, LoadError};
use crate::batch::Digest;
use crate::config::{Config, Grants, Tenant, TenantName, Walls};

/// Says how many calls of all tenants may run at the same time for each processor: one that hangs until its time limit
/// must not hold up the others.
const CALLS_PER_PROCESSOR: usize = 4;
/// Says which part of `GUEST_CODE` may keep components ready that are not in force.
const READY_SHARE: u64 = 4;
/// Bounds the number of calls at the same time, for machines with one processor and for those with very many.
const CALLS: RangeInclusive<u32> = 8..=64;

/// Holds what the guests of all tenants share: compilers, workers and turns. It is cheap to clone.
#[derive(Clone)]
pub struct SandboxEngine(Arc<EngineInner>);

struct EngineInner {
    calls: Semaphore,
    compilers: Compilers,
    compiled: Mutex<HashMap<(Code, Digest), Arc<CachedComponent>>>,
    code_room: Arc<CodeRoom>,
    /// Components that were loaded lately, the last one at the end: to go back to one compiles nothing.
    ready: Mutex<VecDeque<Arc<Compiled>>>,
    /// Bounds the bytes of native code that are kept ready.
    ready_bytes: u64,
    cache: Option<Cache>,
    workers: Workers,
}

/// Holds what compiled code depends on of a tenant's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Code {
    counts_fuel: bool,
    stack_bytes: usize,
}

/// Refers to a component while it is in force: tenants with the same rules share it.
type CachedComponent = Mutex<Weak<Compiled>>;

/// Holds a component that was compiled, and the room that its native code takes. All its workers map the same pages.
pub(super) struct Compiled {
    pub(super) code: NativeCode,
    form: Form,
    /// Says whether the code came from the cache.
    is_cached: bool,
    _room: TakenRoom,
}

impl Code {
    fn from_limits(limits: &Limits) -> Self {
        Self { counts_fuel: limits.fuel > 0, stack_bytes: limits.stack_bytes }
    }
}

impl SandboxEngine {
    /// Makes an engine for the guests of all tenants in the settings. Only the program `sluicegate` itself may use
    /// this: it is started again to compile, and for each worker.
    pub fn new(config: &Config) -> wasmtime::Result<Self> {
        Self::with_program(config, PROGRAM.into())
    }

    /// Makes an engine for a command. Where `GUEST_CACHE` is not set, what it compiles is kept for the next one in the user's
    /// own cache: a component of Python takes ten seconds or more.
    pub fn for_command(config: &Config) -> wasmtime::Result<Self> {
        Self::with_cache(config, PROGRAM.into(), Cache::configured(config).or_else(Cache::of_user))
    }

    /// Makes an engine with another program that has the commands `compile` and `worker`.
    pub fn with_program(config: &Config, program: PathBuf) -> wasmtime::Result<Self> {
        Self::with_cache(config, program, Cache::configured(config))
    }

    fn with_cache(config: &Config, program: PathBuf, cache: Option<Cache>) -> wasmtime::Result<Self> {
        let tenants = config.room_for_tenants();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let calls = u32::try_from(CALLS_PER_PROCESSOR * processors).unwrap_or(u32::MAX);
        let calls = usize::try_from(calls.clamp(*CALLS.start(), *CALLS.end())).unwrap_or(1);
        let accepts_missing_walls = config.guest_walls == Walls::Available;
        Ok(Self(Arc::new(EngineInner {
            calls: Semaphore::new(calls),
            compilers: Compilers::new(program.clone(), processors),
            compiled: Mutex::default(),
            code_room: Arc::new(CodeRoom::new(config.guest_code.0, tenants)),
            ready: Mutex::default(),
            ready_bytes: config.guest_code.0 / READY_SHARE,
            cache,
            workers: Workers::new(program, config.guest_idle.0, accepts_missing_walls)?,
        })))
    }

    /// Returns the sandbox for the guest of this tenant.
    pub fn tenant_sandbox(&self, tenant: &Tenant) -> wasmtime::Result<Sandbox> {
        let limits = Limits::from(tenant);
        Ok(Sandbox {
            shared: self.clone(),
            tenant: tenant.name.clone(),
            // This engine runs nothing: it knows which code it would run.
            engine: Engine::new(&code_config(&limits))?,
            limits,
            settings: Arc::new(tenant.guest_settings.clone()),
            grants: Arc::new(tenant.grants.clone()),
        })
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.0.workers
    }

    /// Blocks until a guest may be called.
    pub(super) fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        acquire_blocking(&self.0.calls)
    }

    /// Keeps a component ready, and forgets those that were loaded longest ago where there is no room for all.
    fn keep_ready(&self, compiled: &Arc<Compiled>) {
        let mut ready = self.0.ready.lock();
        ready.retain(|other| !Arc::ptr_eq(other, compiled));
        ready.push_back(Arc::clone(compiled));
        let bytes = |ready: &VecDeque<Arc<Compiled>>| ready.iter().map(|ready| ready.code.bytes).sum::<u64>();
        while bytes(&ready) > self.0.ready_bytes && ready.pop_front().is_some() {}
    }

    /// Forgets what is kept ready, and returns whether that was anything: others need the room.
    fn forget_ready(&self) -> bool {
        !std::mem::take(&mut *self.0.ready.lock()).is_empty()
    }

    fn cached_component(&self, code: Code, digest: Digest) -> Arc<CachedComponent> {
        let mut compiled = self.0.compiled.lock();
        // What nobody uses any more, and is not being compiled, is forgotten.
        compiled.retain(|_, cached| {
            Arc::strong_count(cached) > 1
                || cached.try_lock().is_some_and(|component| component.strong_count() > 0)
        });
        Arc::clone(compiled.entry((code, digest)).or_default())
    }
}

/// Compiles a tenant's components, and holds what all of them share. It is cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    shared: SandboxEngine,
    /// Names the tenant whose turn it is when this compiles.
    tenant: TenantName,
    engine: Engine,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    grants: Arc<Grants>,
}

impl Sandbox {
    /// Returns what guests may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks the form of a stranger's component, compiles it in a process of its own, and checks its imports, its
    /// exports and its start in a worker.
    ///
    /// The component is read only if no other guest has it compiled, and not before its turn has come. This takes
    /// seconds for a language runtime, so it is not for a thread that has batches to serve.
    pub fn load(&self, source: Source<'_>) -> Result<Guest, LoadError> {
        let compile = || self.compiled(source.digest, || self.cached_or_compiled(source));
        let compiled = match compile() {
            Err(LoadError::NoRoom { .. }) if self.shared.forget_ready() => compile(),
            compiled => compiled,
        };
        let compiled = compiled?;
        let guest = self.load_compiled(source, &compiled)?;
        self.shared.keep_ready(&guest.compiled);
        Ok(guest)
    }

    fn load_compiled(&self, source: Source<'_>, compiled: &Arc<Compiled>) -> Result<Guest, LoadError> {
        match self.guest(Arc::clone(compiled), source.digest) {
            Err(LoadError::Compile(error)) if compiled.is_cached => {
                tracing::warn!(%error, "a compiled guest in the cache cannot be used; compiling anew");
                let cached = self.shared.cached_component(Code::from_limits(&self.limits), source.digest);
                let compiled = Arc::new(self.compile(source)?);
                *cached.lock() = Arc::downgrade(&compiled);
                self.guest(compiled, source.digest)
            }
            outcome => outcome,
        }
    }

    /// Does the same for a component that came with the program, but compiles it in this process. This takes about 0.2
    /// s.
    pub fn load_trusted(&self, bytes: &[u8]) -> Result<Guest, LoadError> {
        let digest = Digest::new(bytes);
        let compiled = self.compiled(digest, || {
            let form = form(bytes, &self.limits)?;
            let code = self.engine.precompile_component(bytes);
            let code = code.map_err(|error| LoadError::Compile(describe(&error)))?;
            let file = || {
                let mut file = code::new_file()?;
                file.write_all(&code)?;
                NativeCode::seal(file)
            };
            let failed =
                |error: io::Error| LoadError::Compiler(format!("making a file in memory failed: {error}"));
            let code = file().map_err(failed)?;
            Ok(Compiled { code, form, is_cached: false, _room: self.shared.0.code_room.take(0)? })
        })?;
        self.guest(compiled, digest)
    }

    fn guest(&self, compiled: Arc<Compiled>, digest: Digest) -> Result<Guest, LoadError> {
        // The component may have been compiled for another tenant, whose limits are wider.
        compiled.form.check(&self.limits)?;
        let (tenant, grants, shared) = (self.tenant.clone(), Arc::clone(&self.grants), self.shared.clone());
        Guest::new(tenant, compiled, digest, self.limits, &self.settings, grants, shared)
    }

    /// Returns the component as another tenant has it, or compiles it now.
    fn compiled(
        &self,
        digest: Digest,
        compile: impl FnOnce() -> Result<Compiled, LoadError>,
    ) -> Result<Arc<Compiled>, LoadError> {
        let cached = self.shared.cached_component(Code::from_limits(&self.limits), digest);
        // The lock is held while the component is compiled: whoever wants the same one waits for it.
        let mut cached = cached.lock();
        if let Some(compiled) = cached.upgrade() {
            return Ok(compiled);
        }
        let compiled = Arc::new(compile()?);
        *cached = Arc::downgrade(&compiled);
        Ok(compiled)
    }

    /// Returns the component with its code from the cache, if it is there.
    fn cached(&self, cache: &Cache, source: Source<'_>) -> Result<Option<Compiled>, LoadError> {
        let bytes = cache.bytes(&self.engine, source.digest);
        if bytes == 0 || bytes > max_code_bytes(source.about_bytes) {
            return Ok(None);
        }
        let room = self.shared.0.code_room.take(bytes)?;
        let Some(code) = cache.get(&self.engine, source.digest, bytes) else { return Ok(None) };
        let form = form(&(source.read)()?, &self.limits)?;
        Ok(Some(Compiled { code, form, is_cached: true, _room: room }))
    }

    fn cached_or_compiled(&self, source: Source<'_>) -> Result<Compiled, LoadError> {
        let EngineInner { compilers, cache, .. } = &*self.shared.0;
        if let Some(cache) = cache
            && let Some(compiled) = compilers.in_line(|| self.cached(cache, source))?
        {
            return Ok(compiled);
        }
        self.compile(source)
    }

    /// Compiles a component in a child process.
    fn compile(&self, source: Source<'_>) -> Result<Compiled, LoadError> {
        let EngineInner { compilers, code_room, cache, .. } = &*self.shared.0;
        let (digest, limits) = (source.digest, &self.limits);
        let mut found = None;
        let read = || {
            let bytes = (source.read)()?;
            found = Some(form(&bytes, limits)?);
            Ok(bytes)
        };
        let (code, room) = compilers.compile(&self.tenant, source.about_bytes, limits, code_room, read)?;
        if let Some(cache) = cache {
            cache.put(&self.engine, digest, &code);
        }
        let form = found.ok_or_else(|| LoadError::Unreadable("it was not read".to_owned()))?;
        Ok(Compiled { code, form, is_cached: false, _room: room })
    }
}

/// Describes a component that is somewhere else until it is needed.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub digest: Digest,
    /// Says about how many bytes it has.
    pub about_bytes: u64,
    /// Returns the bytes that have this digest.
    pub read: &'a dyn Fn() -> Result<Vec<u8>, LoadError>,
}
