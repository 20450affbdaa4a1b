//! A compiled component and its call, once a batch.

use std::sync::{Arc, Weak};

use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store, Trap};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::engine::TICK;
use super::limits::{Meter, OutOfMemory};
use super::turns::Turns;
use super::wasi::{self, Output};
use super::{COMPONENT_MAX_BYTES, Limits, LoadError};
use crate::batch::{Claim, Digest, EntryId, Readable, Verdict, Violation};
use crate::judge::{Fault, Rules};

use bindings::sluicegate::guest::types as wit;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "validator",
        // Entries are lowered straight from the bytes that Redis sent.
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

/// A version of the rules: a component that was compiled and checked. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    digest: Digest,
    component: Arc<bindings::ValidatorPre<State>>,
    turns: Arc<Turns>,
    limits: Limits,
}

/// A guest that may be nobody's any more, without its limits.
#[derive(Default)]
pub(super) struct WeakGuest {
    digest: Option<Digest>,
    component: Weak<bindings::ValidatorPre<State>>,
    turns: Weak<Turns>,
}

impl WeakGuest {
    pub(super) fn is_in_force(&self) -> bool {
        self.component.strong_count() > 0
    }

    pub(super) fn upgrade(&self, limits: Limits) -> Option<Guest> {
        let (component, turns) = (self.component.upgrade()?, self.turns.upgrade()?);
        Some(Guest { digest: self.digest?, component, turns, limits })
    }
}

/// What an instance carries with it.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    meter: Meter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Guest {
    pub(super) fn load(
        engine: &Engine,
        linker: &Linker<State>,
        turns: &Arc<Turns>,
        limits: Limits,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        check_form(bytes)?;
        let component =
            Component::from_binary(engine, bytes).map_err(|error| LoadError::Compile(describe(&error)))?;
        let component =
            linker.instantiate_pre(&component).map_err(|error| LoadError::Imports(describe(&error)))?;
        let component =
            bindings::ValidatorPre::new(component).map_err(|error| LoadError::World(describe(&error)))?;
        Ok(Self {
            digest: Digest::of(bytes),
            component: Arc::new(component),
            turns: Arc::clone(turns),
            limits,
        })
    }

    pub(super) fn downgrade(&self) -> WeakGuest {
        let Self { digest, component, turns, .. } = self;
        WeakGuest {
            digest: Some(*digest),
            component: Arc::downgrade(component),
            turns: Arc::downgrade(turns),
        }
    }

    fn call(
        &self,
        first: EntryId,
        batch: &[Readable<'_>],
        output: &Output,
    ) -> wasmtime::Result<Vec<wit::Verdict>> {
        let state = State {
            wasi: wasi::context(first, output),
            table: ResourceTable::new(),
            meter: Meter::new(&self.limits),
        };
        let mut store = Store::new(self.component.engine(), state);
        store.limiter(|state| &mut state.meter);
        // What the verdicts may take on this side, in bytes.
        store.set_hostcall_fuel(self.limits.memory_bytes);
        // The running tick counts too: one more than the limit has.
        let ticks = self.limits.time.as_millis().div_ceil(TICK.as_millis()) + 1;
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));

        let entries: Vec<wit::Entry<'_>> = batch
            .iter()
            .map(|Readable { id, fields }| wit::Entry {
                id: wit::EntryId { milliseconds: id.milliseconds, sequence: id.sequence },
                fields,
            })
            .collect();
        let instance = self.component.instantiate(&mut store)?;
        instance.sluicegate_guest_handler().call_process(&mut store, &entries)
    }

    fn fault(&self, error: &wasmtime::Error, printed: &str) -> Fault {
        if error.is::<OutOfMemory>() {
            return Fault::OutOfMemory { limit_bytes: self.limits.memory_bytes };
        }
        if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
            let limit_ms = u64::try_from(self.limits.time.as_millis()).unwrap_or(u64::MAX);
            return Fault::TimedOut { limit_ms };
        }
        // A Rust guest says on standard error where and why it panicked.
        let said = if printed.is_empty() { String::new() } else { format!("; it printed: {printed}") };
        Fault::Trapped(format!("{}{said}", error.root_cause()))
    }
}

impl Rules for Guest {
    fn digest(&self) -> Digest {
        self.digest
    }

    /// In a fresh instance. Blocks for up to the time limit, after its turn has come.
    fn process(&self, batch: &[Readable<'_>]) -> Result<Vec<Verdict>, Fault> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let output = Output::default();
        let turn = self.turns.take();
        let verdicts = self.call(first.id, batch, &output);
        drop(turn);
        let printed = output.text();
        if !printed.is_empty() {
            tracing::debug!(guest = %self.digest, printed, "guest output");
        }
        let verdicts = verdicts.map_err(|error| self.fault(&error, &printed))?;
        match verdicts.len() == batch.len() {
            true => Ok(verdicts.into_iter().map(Verdict::from).collect()),
            false => Err(Fault::WrongCount { found: verdicts.len(), wanted: batch.len() }),
        }
    }
}

/// Tells by the first bytes what a file is, with an error for each common mistake.
fn check_form(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > COMPONENT_MAX_BYTES {
        return Err(LoadError::TooLarge { found: bytes.len() });
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', _, 0, 1, 0, ..] => Ok(()),
        _ => {
            let found = bytes.get(..bytes.len().min(8)).unwrap_or_default();
            Err(LoadError::NotWasm { found: format!("`{}`", found.escape_ascii()) })
        }
    }
}

/// The whole chain of an error in one line.
fn describe(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

impl From<wit::Verdict> for Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Accept(event) => Self::Accept(event.into()),
            wit::Verdict::Expand(events) => Self::Expand(events.into_iter().map(Claim::from).collect()),
            wit::Verdict::Reject(violations) => {
                Self::Reject(violations.into_iter().map(Violation::from).collect())
            }
            wit::Verdict::Discard(reason) => Self::Discard(reason),
        }
    }
}

impl From<wit::Event> for Claim {
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
