//! Calls a component, as a rule once a batch, each time in a fresh instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable, ResourceTableError};
use wasmtime::{CallHook, Engine, FrameInfo, Store, Trap, WasmBacktrace};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::host::HostState;
use super::meter::{Denied, Meter};
use super::output::{LastWords, Output, last_words};
use super::sampler::{self, Sampler};
use super::time_limit::{TimeLimit, processor_time};
use super::wasi::{self, Clock, Deadlines};
use super::{Connection, check, host};
use crate::capabilities::{Effects, Lost, Measured};
use crate::judge::{Batch, Fault};
use crate::sandbox::channel::{Call, Load, Returned, Verdicts};
use crate::sandbox::load::describe;
use crate::sandbox::print_log::Printed;
use crate::sandbox::{Limits, LoadError, World};
use crate::stack_samples::StackSamples;
use crate::text::printable;
use sluicegate_verdicts::{EntryId, UncheckedEvent, Verdict, Violation};

use bindings::exports::sluicegate::guest::{bytes_handler, handler};
use bindings::sluicegate::guest::types as wit;

pub(super) mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package sluicegate:host;
            world all {
                include sluicegate:guest/pipeline@0.1.0;
                export sluicegate:guest/bytes-handler@0.1.0;
            }
        ",
        world: "sluicegate:host/all",
        imports: { default: trappable },
        // Entries are lowered straight from the frame that they came in.
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

/// Bounds the frames of a trap's backtrace that are told.
const MAX_FRAMES: usize = 8;
/// Holds how the names begin of the functions that a panic goes through in Rust's own libraries.
const RUNTIME: [&str; 6] = ["abort", "std::", "core::", "alloc::", "__rust", "rust_"];
/// Bounds the characters of a function's name: an author may have made it as long as a component is.
const MAX_NAME_CHARS: usize = 120;

/// Holds a component that was checked, with its limits.
pub(super) struct Callable {
    instance: InstancePre<State>,
    handler: Handler,
    load: Load,
    settings: Arc<BTreeMap<String, String>>,
    time: TimeLimit,
    pub(super) world: World,
}

/// Holds where in an instance the one function is that the service calls.
enum Handler {
    Text(handler::GuestIndices),
    Bytes(bytes_handler::GuestIndices),
}

/// Holds what an instance carries with it.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    meter: Meter,
    settings: Arc<BTreeMap<String, String>>,
    pub(super) clock: Clock,
    deadlines: Deadlines,
    pub(super) host: HostState,
    pub(super) sampler: Sampler,
    #[cfg(feature = "failpoints")]
    pub(super) faults: super::faults::Faults,
}

impl State {
    pub(super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    pub(super) fn deadlines(&mut self) -> (&mut Deadlines, &mut ResourceTable) {
        (&mut self.deadlines, &mut self.table)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Callable {
    /// Checks what a component imports and exports, and makes it ready to be called.
    pub(super) fn new(engine: &Engine, component: &Component, load: Load) -> Result<Self, LoadError> {
        check::imports(engine, component)?;
        let imports_capabilities = host::check(engine, component, &load.granted)?;
        let takes_bytes = check::exports(engine, component)?;
        let failed = |error: wasmtime::Error| LoadError::Worker(describe(&error));
        let mut linker = Linker::new(engine);
        wasi::link(&mut linker).map_err(failed)?;
        host::link(&mut linker, &load.granted).map_err(failed)?;
        #[cfg(feature = "failpoints")]
        super::faults::link(&mut linker).map_err(failed)?;
        // This finds what is wrong beyond the names, such as a function of an interface that is newer than ours.
        let instance =
            linker.instantiate_pre(component).map_err(|error| LoadError::Imports(describe(&error)))?;
        let handler = match takes_bytes {
            false => handler::GuestIndices::new(&instance).map(Handler::Text),
            true => bytes_handler::GuestIndices::new(&instance).map(Handler::Bytes),
        };
        let handler = handler.map_err(|error| LoadError::World(describe(&error)))?;
        let time = TimeLimit::new(engine.clone(), load.takes_samples)
            .map_err(|error| LoadError::Worker(error.to_string()))?;
        let settings = Arc::new(load.settings.clone());
        let world = World::new(takes_bytes, imports_capabilities);
        Ok(Self { instance, handler, load, settings, time, world })
    }

    fn limits(&self) -> &Limits {
        &self.load.limits
    }

    /// Starts the guest on trial. Start-up code is the same for every batch, so what fails in it must not be blamed on
    /// entries.
    pub(super) fn start_on_trial(&self) -> Result<(), LoadError> {
        let (output, time) = (Output::new(self.limits().log_bytes), self.limits().time);
        let started = self.within(time, EntryId::ZERO, &output, HostState::default(), |store| {
            self.instance.instantiate(store).map(drop)
        });
        started.outcome.map_err(|(error, denied)| {
            LoadError::Start(self.fault(&error, denied, Some(&output.take()), time))
        })
    }

    /// Calls the guest with what it is granted, and keeps what it left for the commit only if it gave verdicts.
    pub(super) fn call(&self, call: &Call<'_>, connection: Arc<Mutex<Connection>>) -> Returned {
        let begun = processor_time();
        let output = Output::new(self.limits().log_bytes);
        let host = match self.world.imports_capabilities() {
            true => HostState::new(&self.load.granted, call, connection),
            false => HostState::default(),
        };
        let first = call.batch.first_id().unwrap_or(EntryId::ZERO);
        let (mut start, mut start_fuel) = (Duration::ZERO, 0);
        let ran = self.within(call.time, first, &output, host, |store| {
            self.process(store, &call.batch, |store| {
                (start, start_fuel) = (processor_time().saturating_sub(begun), self.fuel_of(store));
            })
        });
        let Ran { outcome: verdicts, host, samples, fuel, memory_bytes } = ran;
        let printed = output.take();
        let verdicts = verdicts.map(|verdicts| verdicts.into_iter().map(Verdict::from).collect()).map_err(
            |(error, denied)| {
                // The batch is tried again in halves: what is told is what happens to an entry alone.
                let told = (call.batch.len() == 1).then_some(&printed);
                self.fault(&error, denied, told, call.time)
            },
        );
        let effects = if verdicts.is_ok() { host.effects } else { Effects::default() };
        let verdicts = verdicts.map(Verdicts);
        let time = processor_time().saturating_sub(begun);
        let samples = samples.into_iter().collect();
        let measured = Box::new(Measured { calls: 1, time, start, fuel, start_fuel, memory_bytes, samples });
        Returned { verdicts, effects, printed, measured }
    }

    /// Calls `process` in a new instance, and tells when that has started.
    fn process(
        &self,
        store: &mut Store<State>,
        batch: &Batch<'_>,
        started: impl FnOnce(&Store<State>),
    ) -> wasmtime::Result<Vec<wit::Verdict>> {
        match (&self.handler, batch) {
            (Handler::Text(handler), Batch::Text(batch)) => {
                let entries: Vec<wit::Entry<'_>> = batch
                    .iter()
                    .map(|entry| wit::Entry { id: entry.id.into(), fields: &entry.fields })
                    .collect();
                let instance = self.instance.instantiate(&mut *store)?;
                started(store);
                handler.load(&mut *store, &instance)?.call_process(store, &entries)
            }
            (Handler::Bytes(handler), Batch::Bytes(batch)) => {
                let entries: Vec<wit::BytesEntry<'_>> = batch
                    .iter()
                    .map(|entry| wit::BytesEntry { id: entry.id.into(), fields: &entry.fields })
                    .collect();
                let instance = self.instance.instantiate(&mut *store)?;
                started(store);
                handler.load(&mut *store, &instance)?.call_process(store, &entries)
            }
            _ => Err(wasmtime::Error::msg("the entries have another form than the guest takes")),
        }
    }

    /// Returns the fuel that was taken so far, or 0 if none is counted.
    fn fuel_of(&self, store: &Store<State>) -> u64 {
        match self.limits().fuel {
            0 => 0,
            limit => store.get_fuel().map_or(0, |left| limit.saturating_sub(left)),
        }
    }

    /// Runs guest code in a store of its own, with everything that an instance may use, and no more.
    fn within<T>(
        &self,
        time: Duration,
        first: EntryId,
        output: &Output,
        host: HostState,
        run: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> Ran<T> {
        let limits = self.limits();
        let mut table = ResourceTable::new();
        // A pollable takes two entries: itself, and what it polls.
        table.set_max_capacity(2 * limits.handles);
        let clock = Clock::new(first.milliseconds);
        let state = State {
            wasi: wasi::context(first, &clock, output),
            table,
            meter: Meter::new(*limits),
            settings: Arc::clone(&self.settings),
            clock,
            deadlines: Deadlines::new(),
            host,
            sampler: Sampler::default(),
            #[cfg(feature = "failpoints")]
            faults: super::faults::Faults,
        };
        let mut store = Store::new(self.instance.component().engine(), state);
        store.limiter(|state| &mut state.meter);
        store.set_max_component_handles(limits.handles);
        // This bounds what one call to the host, and the verdicts, may take on this side.
        store.set_hostcall_fuel(limits.bounds.output_bytes);
        // The time limit moves the epoch by one. Code looks at it where it loops and where a function begins. Code that
        // calls the host again and again in a straight line does neither, so the time is looked at in each such call
        // too.
        store.set_epoch_deadline(1);
        let is_over = self.time.is_over();
        store.call_hook(move |_, hook| match hook {
            CallHook::CallingHost | CallHook::ReturningFromHost if is_over() => Err(Trap::Interrupt.into()),
            _ => Ok(()),
        });
        if self.load.takes_samples {
            sampler::sample(&mut store, self.time.is_over());
        }
        let fuel = if limits.fuel > 0 { store.set_fuel(limits.fuel) } else { Ok(()) };
        self.time.begin(time);
        let ran = fuel.and_then(|()| run(&mut store));
        self.time.end();
        let fuel = self.fuel_of(&store);
        let State { meter, host, sampler, .. } = store.into_data();
        Ran {
            outcome: ran.map_err(|error| (error, meter.denied)),
            host,
            samples: self.load.takes_samples.then_some(sampler.samples),
            fuel,
            memory_bytes: meter.memory_bytes(),
        }
    }

    /// Returns why a call gave no verdicts, with where the guest was and what it `printed` last, unless nobody is told that:
    /// to name its functions takes as long as a short call.
    fn fault(
        &self,
        error: &wasmtime::Error,
        denied: Option<Denied>,
        printed: Option<&Printed>,
        time: Duration,
    ) -> Fault {
        if error.is::<Lost>() {
            return Fault::Lost(Lost);
        }
        let limits = self.limits();
        let place = if printed.is_some() { place(error) } else { String::new() };
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => return Fault::TimedOut { limit_ms: time.as_millis(), place },
            Some(Trap::OutOfFuel) => return Fault::OutOfFuel { limit: limits.fuel },
            Some(Trap::StackOverflow) => return Fault::OutOfStack { limit_bytes: limits.stack_bytes },
            _ => {}
        }
        // The guest could have gone on without what it was denied, and did not.
        match denied {
            Some(Denied::Memory) => return Fault::OutOfMemory { limit_bytes: limits.memory_bytes, place },
            Some(Denied::Elements) => return Fault::TooManyElements { limit: limits.table_elements },
            None => {}
        }
        let mut cause = printable(&error.root_cause().to_string()).into_owned();
        // Errors that are known by their words have no type of their own. The tests notice if wasmtime uses other
        // words.
        if cause.contains("fuel allocated for hostcalls has been exhausted") {
            return Fault::TooMuchOutput { limit_bytes: limits.bounds.output_bytes };
        }
        let is_table_full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
        if is_table_full || cause.contains("store handle limit exceeded") {
            return Fault::OutOfHandles { limit: limits.handles };
        }
        if cause.contains("resource limit exceeded: instance count") {
            cause.push_str(" (GUEST_INSTANCES)");
        }
        let Some(LastWords { last, before }) = printed.map(last_words).filter(|words| !words.last.is_empty())
        else {
            return Fault::Trapped(format!("{cause}{place}"));
        };
        // What its author has written comes first: a dead letter and a terminal have room for the beginning.
        let before = if before.is_empty() { before } else { format!("; before that it printed: {before}") };
        Fault::Trapped(format!("it said: {last}; {cause}{place}{before}"))
    }
}

/// What came of running guest code.
struct Ran<T> {
    /// An error comes with what the instance was denied last, if anything.
    outcome: Result<T, (wasmtime::Error, Option<Denied>)>,
    host: HostState,
    /// Where it was, if anybody wants to know.
    samples: Option<StackSamples>,
    fuel: u64,
    memory_bytes: usize,
}

/// Returns the functions in which guest code was, the innermost first, or an empty text if they are not known.
fn place(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let names: Vec<String> = backtrace.frames().iter().map(function_name).collect();
    // The functions through which Rust panics are the same each time, so they are left out.
    let first = names.iter().position(|name| !RUNTIME.iter().any(|part| name.starts_with(part))).unwrap_or(0);
    let names: Vec<&str> = names.iter().skip(first).take(MAX_FRAMES).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(", in {}", names.join(" < ")) }
}

/// Returns the name of a function as its author knows it, or its number if the component has no names.
pub(super) fn function_name(frame: &FrameInfo) -> String {
    match frame.func_name() {
        Some(name) => {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            printable(&name.chars().take(MAX_NAME_CHARS).collect::<String>()).into_owned()
        }
        None => format!("function {}", frame.func_index()),
    }
}

impl From<EntryId> for wit::EntryId {
    fn from(id: EntryId) -> Self {
        Self { milliseconds: id.milliseconds, sequence: id.sequence }
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
