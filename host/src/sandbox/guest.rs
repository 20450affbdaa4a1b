//! A compiled component and its call, once a batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;
use wasmtime::component::{Linker, ResourceTable, ResourceTableError};
use wasmtime::{CallHook, Store, Trap};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::engine::{Compiled, SandboxEngine, TICK};
use super::host::{self, HostState};
use super::limits::{Meter, OutOfMemory, TooManyElements};
use super::load::{check_exports, check_imports, describe};
use super::output::{Output, PrintLog};
use super::{Limits, LoadError, wasi};
use crate::batch::{Digest, EntryId, TextEntry, UncheckedEvent, Verdict, Violation};
use crate::capabilities::{HostContext, Lost};
use crate::config::Grants;
use crate::judge::{Fault, Rules};
use crate::text::printable;
use crate::validate::OutputLimits;

use bindings::sluicegate::guest::types as wit;

pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "pipeline",
        imports: { default: trappable },
        // Entries are lowered straight from the bytes that Redis sent.
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

/// A version of the rules: a component that was compiled and checked. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    digest: Digest,
    component: Arc<bindings::PipelinePre<State>>,
    limits: Limits,
    settings: Arc<BTreeMap<String, String>>,
    log: Arc<PrintLog>,
    grants: Arc<Grants>,
    /// Whether it imports any of the world `pipeline`.
    imports_capabilities: bool,
    shared: SandboxEngine,
    /// For as long as it lives, other tenants find it compiled.
    _compiled: Arc<Compiled>,
}

/// What an instance carries with it.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    meter: Meter,
    now_ms: u64,
    settings: Arc<BTreeMap<String, String>>,
    pub(super) host: HostState,
}

impl State {
    /// Where its clocks stand, in milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    pub(super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Guest {
    /// Checks a component, and starts it once on trial.
    pub(super) fn new(
        compiled: Arc<Compiled>,
        digest: Digest,
        linker: &Linker<State>,
        limits: Limits,
        settings: Arc<BTreeMap<String, String>>,
        grants: Arc<Grants>,
        shared: SandboxEngine,
    ) -> Result<Self, LoadError> {
        let component = &compiled.component;
        let engine = component.engine();
        check_imports(engine, component)?;
        let imports_capabilities = host::check(engine, component, &grants)?;
        check_exports(engine, component)?;
        // What is wrong beyond the names: a function of an interface that is newer than ours.
        let component =
            linker.instantiate_pre(component).map_err(|error| LoadError::Imports(describe(&error)))?;
        let component =
            bindings::PipelinePre::new(component).map_err(|error| LoadError::World(describe(&error)))?;
        let component = Arc::new(component);
        let log = Arc::new(PrintLog::new(digest));
        let guest = Self {
            digest,
            component,
            limits,
            settings,
            log,
            grants,
            imports_capabilities,
            shared,
            _compiled: compiled,
        };
        guest.start_on_trial()?;
        Ok(guest)
    }

    /// Start-up code is the same for every batch. What fails in it must not be blamed on entries.
    fn start_on_trial(&self) -> Result<(), LoadError> {
        let _permit = self.shared.call_permit();
        let output = Output::new(self.limits.log_bytes);
        let started = self
            .store(EntryId::ZERO, &output, self.limits.time)
            .and_then(|mut store| self.component.instantiate(&mut store).map(drop));
        started.map_err(|error| LoadError::Start(self.fault(&error, &output, self.limits.time)))
    }

    /// Everything that an instance may use, and no more.
    fn store(&self, first: EntryId, output: &Output, time: Duration) -> wasmtime::Result<Store<State>> {
        let mut table = ResourceTable::new();
        // A pollable takes two entries: itself, and what it polls.
        table.set_max_capacity(2 * self.limits.handles);
        let state = State {
            wasi: wasi::context(first, output),
            table,
            meter: Meter::new(self.limits),
            now_ms: first.milliseconds,
            settings: Arc::clone(&self.settings),
            host: HostState::default(),
        };
        let mut store = Store::new(self.component.engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_max_component_handles(self.limits.handles);
        // What one call to the host, and the verdicts, may take on this side.
        store.set_hostcall_fuel(self.limits.bounds.output_bytes);
        if self.limits.fuel > 0 {
            store.set_fuel(self.limits.fuel)?;
        }
        // The running tick counts too: one more than the limit has.
        let ticks = time.as_millis().div_ceil(TICK.as_millis()) + 1;
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));
        // Code looks at the epoch where it loops and where a function begins. One that calls the host again and
        // again in a straight line does neither.
        let deadline = Instant::now() + time + TICK;
        store.call_hook(move |_, hook| match hook {
            CallHook::CallingHost | CallHook::ReturningFromHost if Instant::now() > deadline => {
                Err(Trap::Interrupt.into())
            }
            _ => Ok(()),
        });
        Ok(store)
    }

    /// Calls it with what it is granted.
    fn call(
        &self,
        first: EntryId,
        batch: &[TextEntry<'_>],
        output: &Output,
        time: Duration,
        host: HostState,
    ) -> (wasmtime::Result<Vec<wit::Verdict>>, HostState) {
        let mut store = match self.store(first, output, time) {
            Ok(store) => store,
            Err(error) => return (Err(error), host),
        };
        store.data_mut().host = host;
        let entries: Vec<wit::Entry<'_>> = batch
            .iter()
            .map(|TextEntry { id, fields, .. }| wit::Entry {
                id: wit::EntryId { milliseconds: id.milliseconds, sequence: id.sequence },
                fields,
            })
            .collect();
        let verdicts = self
            .component
            .instantiate(&mut store)
            .and_then(|instance| instance.sluicegate_guest_handler().call_process(&mut store, &entries));
        (verdicts, store.into_data().host)
    }

    /// Calls it, and keeps what it did only if there is a verdict for each entry.
    fn call_undoing(
        &self,
        first: EntryId,
        batch: &[TextEntry<'_>],
        output: &Output,
        time: Duration,
        context: &mut HostContext,
    ) -> Result<wasmtime::Result<Vec<wit::Verdict>>, Lost> {
        if !self.imports_capabilities {
            return Ok(self.call(first, batch, output, time, HostState::default()).0);
        }
        let mut transaction = context.transaction.take();
        let begun = transaction.as_mut().map_or(Ok(()), |transaction| transaction.begin_call());
        let context_of_call = HostContext { transaction, lag: context.lag, ..HostContext::default() };
        if let Err(lost) = begun {
            context.transaction = context_of_call.transaction;
            return Err(lost);
        }
        let host = HostState::new(&self.grants, batch, context_of_call, context.used.and(&context.effects));
        let (verdicts, host) = self.call(first, batch, output, time, host);
        context.transaction = host.context.transaction;
        match (&verdicts, &mut context.transaction) {
            (Ok(verdicts), _) if verdicts.len() == batch.len() => {
                context.effects.extend(host.context.effects)
            }
            (Err(error), _) if error.is::<Lost>() => return Err(Lost),
            (_, Some(transaction)) => transaction.undo_call()?,
            (_, None) => {}
        }
        Ok(verdicts)
    }

    fn fault(&self, error: &wasmtime::Error, output: &Output, time: Duration) -> Fault {
        if error.is::<OutOfMemory>() {
            return Fault::OutOfMemory { limit_bytes: self.limits.memory_bytes };
        }
        if error.is::<TooManyElements>() {
            return Fault::TooManyElements { limit: self.limits.table_elements };
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Fault::TimedOut { limit_ms: time.as_millis() },
            Some(Trap::OutOfFuel) => return Fault::OutOfFuel { limit: self.limits.fuel },
            Some(Trap::StackOverflow) => return Fault::OutOfStack { limit_bytes: self.limits.stack_bytes },
            _ => {}
        }
        let mut cause = printable(&error.root_cause().to_string()).into_owned();
        // These have no type of their own; the tests know if wasmtime says it in other words.
        if cause.contains("fuel allocated for hostcalls has been exhausted") {
            return Fault::TooMuchOutput { limit_bytes: self.limits.bounds.output_bytes };
        }
        let is_table_full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
        if is_table_full || cause.contains("store handle limit exceeded") {
            return Fault::OutOfHandles { limit: self.limits.handles };
        }
        if cause.contains("resource limit exceeded: instance count") {
            cause.push_str(" (GUEST_INSTANCES)");
        }
        // A Rust guest says on standard error where and why it panicked.
        let said = output.error_text();
        let said = if said.is_empty() { said } else { format!("; it printed: {said}") };
        Fault::Trapped(format!("{cause}{said}"))
    }
}

impl Rules for Guest {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn time_limit(&self) -> Duration {
        self.limits.time
    }

    fn bounds(&self) -> OutputLimits {
        self.limits.bounds
    }

    fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.call_permit()
    }

    fn wants_transaction(&self) -> bool {
        self.imports_capabilities
    }

    /// In a fresh instance.
    fn process(
        &self,
        batch: &[TextEntry<'_>],
        time: Duration,
        context: &mut HostContext,
    ) -> Result<Vec<Verdict>, Fault> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let output = Output::new(self.limits.log_bytes);
        let verdicts = self.call_undoing(first.id, batch, &output, time, context);
        self.log.log(&output);
        let verdicts = verdicts?.map_err(|error| self.fault(&error, &output, time))?;
        match verdicts.len() == batch.len() {
            true => Ok(verdicts.into_iter().map(Verdict::from).collect()),
            false => Err(Fault::WrongCount { found: verdicts.len(), wanted: batch.len() }),
        }
    }
}

impl From<wit::Verdict> for Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Accept(event) => Self::Accept(event.into()),
            wit::Verdict::Expand(events) => {
                Self::Expand(events.into_iter().map(UncheckedEvent::from).collect())
            }
            wit::Verdict::Reject(violations) => {
                Self::Reject(violations.into_iter().map(Violation::from).collect())
            }
            wit::Verdict::Discard(reason) => Self::Discard(reason),
        }
    }
}

impl From<wit::Event> for UncheckedEvent {
    fn from(event: wit::Event) -> Self {
        Self {
            event_id: event.event_id,
            time: event.time,
            event_type: event.event_type,
            user_id: event.user_id,
            properties: event.properties,
        }
    }
}

impl From<wit::Violation> for Violation {
    fn from(violation: wit::Violation) -> Self {
        Self { path: violation.path, code: violation.code, message: violation.message }
    }
}
