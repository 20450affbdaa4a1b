//! Provides the world `pipeline`: what a guest may do besides judging, as far as it is granted.
//!
//! A grant is an interface in the linker: without it a component that imports
//! the interface is refused at load. Within an interface the names of streams
//! and statements are checked at each call.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use super::Connection;
use super::instance::State;
use super::instance::bindings::sluicegate::guest::{metrics, store, stream, types};
use crate::capabilities::{
    Effects, Lost, Publication, PublishError, Sample, Series, StatementError, StatementResult, Usage, Value,
};
use crate::sandbox::LoadError;
use crate::sandbox::channel::{Call, FromWorker, Granted, ToWorker};
use sluicegate_verdicts::EntryId;

/// Describes an interface of the world `pipeline`.
struct Interface {
    name: &'static str,
    is_granted: fn(&Granted) -> bool,
    /// Says what the operator writes to grant it.
    remedy: &'static str,
}

const STREAM: Interface = Interface {
    name: "sluicegate:guest/stream@0.1.0",
    is_granted: |grants| grants.stream || !grants.publish.is_empty(),
    remedy: "`stream = true`, or `publish = { NAME = LENGTH }`",
};
const STORE: Interface = Interface {
    name: "sluicegate:guest/store@0.1.0",
    is_granted: |grants| grants.statements,
    remedy: "`statements = [\"NAME\"]`, and a table `[statements.NAME]`",
};
const METRICS: Interface = Interface {
    name: "sluicegate:guest/metrics@0.1.0",
    is_granted: |grants| grants.metrics,
    remedy: "`metrics = true`",
};

/// Returns whether the import is one of these interfaces.
pub(super) fn is_interface(import: &str) -> bool {
    [STREAM, STORE, METRICS].iter().any(|interface| interface.name == import)
}

/// Returns what grants this interface, if it is one of these and is not granted.
pub(super) fn ungranted(import: &str, granted: &Granted) -> Option<&'static str> {
    let interface = [STREAM, STORE, METRICS].into_iter().find(|interface| interface.name == import)?;
    (!(interface.is_granted)(granted)).then_some(interface.remedy)
}

/// Returns whether the component imports any of them, or an error if it imports one that is not granted.
pub(super) fn check(engine: &Engine, component: &Component, grants: &Granted) -> Result<bool, LoadError> {
    let component = component.component_type();
    let imports = |interface: &Interface| component.imports(engine).any(|(name, _)| name == interface.name);
    let imported: Vec<Interface> = [STREAM, STORE, METRICS].into_iter().filter(imports).collect();
    let refused: Vec<String> = imported
        .iter()
        .filter(|interface| !(interface.is_granted)(grants))
        .map(|Interface { name, remedy, .. }| format!("{name} (under [grants]: {remedy})"))
        .collect();
    match refused.is_empty() {
        true => Ok(!imported.is_empty()),
        false => Err(LoadError::NotGranted(refused.join(", "))),
    }
}

/// Links the interfaces that are granted.
pub(super) fn link(linker: &mut Linker<State>, grants: &Granted) -> wasmtime::Result<()> {
    if (STREAM.is_granted)(grants) {
        stream::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut State| &mut state.host)?;
    }
    if (STORE.is_granted)(grants) {
        store::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut State| &mut state.host)?;
    }
    if (METRICS.is_granted)(grants) {
        metrics::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut State| &mut state.host)?;
    }
    Ok(())
}

/// Holds what one call has of the world `pipeline`.
#[derive(Default)]
pub(super) struct HostState {
    granted: Granted,
    lag: Option<u64>,
    /// Says how often each entry of the batch was delivered.
    deliveries: BTreeMap<EntryId, u64>,
    /// Counts what the batch has left for its commit so far, in this call and in those before it.
    used: Usage,
    pub(super) effects: Effects,
    /// Leads to the service. It is `None` on trial, and for a guest that imports none of these interfaces.
    connection: Option<Arc<Mutex<Connection>>>,
}

impl HostState {
    pub(super) fn new(granted: &Granted, call: &Call<'_>, connection: Arc<Mutex<Connection>>) -> Self {
        let deliveries = match granted.stream {
            true => call.batch.deliveries(),
            false => BTreeMap::new(),
        };
        Self {
            granted: granted.clone(),
            lag: call.lag.filter(|_| granted.stream),
            deliveries,
            used: call.earlier,
            effects: Effects::default(),
            connection: Some(connection),
        }
    }

    /// Asks the service, which holds the transaction.
    fn ask<T>(
        &mut self,
        question: &FromWorker,
        answer: impl FnOnce(ToWorker<'_>) -> Option<StatementResult<T>>,
    ) -> wasmtime::Result<Result<T, store::Error>> {
        let Some(connection) = &self.connection else {
            return Ok(Err(store::Error::NotGranted("no batch, no transaction".to_owned())));
        };
        let mut connection = connection.lock();
        let answered = connection.ask(question)?;
        // An answer to another question counts as a transaction that is lost.
        let answered = answer(answered).unwrap_or(Err(Lost));
        Ok(answered?.map_err(store::Error::from))
    }
}

impl types::Host for HostState {}

impl stream::Host for HostState {
    fn lag(&mut self) -> wasmtime::Result<Option<u64>> {
        Ok(self.lag)
    }

    fn delivery_count(&mut self, id: types::EntryId) -> wasmtime::Result<Option<u64>> {
        let id = EntryId { milliseconds: id.milliseconds, sequence: id.sequence };
        Ok(self.deliveries.get(&id).copied())
    }

    fn publish(
        &mut self,
        stream: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<Result<(), stream::PublishError>> {
        let publication = Publication { stream, fields };
        let is_granted = |stream: &str| self.granted.publish.contains(stream);
        Ok(match self.used.publish(&publication, is_granted) {
            Ok(()) => {
                self.effects.publications.push(publication);
                Ok(())
            }
            Err(PublishError::NotGranted) => Err(stream::PublishError::NotGranted(publication.stream)),
            Err(PublishError::TooMuch(limit)) => Err(stream::PublishError::TooMuch(limit)),
        })
    }
}

impl store::Host for HostState {
    fn query(
        &mut self,
        statement: String,
        parameters: Vec<store::Value>,
    ) -> wasmtime::Result<Result<Vec<Vec<store::Value>>, store::Error>> {
        let parameters = parameters.into_iter().map(Value::from).collect();
        let rows = self.ask(&FromWorker::Query(statement, parameters), |answer| match answer {
            ToWorker::Queried(rows) => Some(rows),
            _ => None,
        })?;
        let value = |row: Vec<Value>| row.into_iter().map(store::Value::from).collect();
        Ok(rows.map(|rows| rows.into_iter().map(value).collect()))
    }

    fn execute(
        &mut self,
        statement: String,
        parameters: Vec<store::Value>,
    ) -> wasmtime::Result<Result<u64, store::Error>> {
        let parameters = parameters.into_iter().map(Value::from).collect();
        self.ask(&FromWorker::Execute(statement, parameters), |answer| match answer {
            ToWorker::Executed(changed) => Some(changed),
            _ => None,
        })
    }
}

impl metrics::Host for HostState {
    fn add(&mut self, name: String, labels: Vec<(String, String)>, count: u64) -> wasmtime::Result<()> {
        self.sample(name, labels, Sample::Add(count));
        Ok(())
    }

    fn observe(&mut self, name: String, labels: Vec<(String, String)>, value: f64) -> wasmtime::Result<()> {
        self.sample(name, labels, Sample::Observe(value));
        Ok(())
    }
}

impl HostState {
    /// Takes a sample. One that is not granted, or beyond the limits, is dropped and counted.
    fn sample(&mut self, name: String, mut labels: Vec<(String, String)>, sample: Sample) {
        labels.sort();
        let series = Series { name, labels };
        match self.granted.metrics && self.used.sample(&series, sample) {
            true => self.effects.samples.push((series, sample)),
            false => self.effects.dropped_samples += 1,
        }
    }
}

impl From<store::Value> for Value {
    fn from(value: store::Value) -> Self {
        match value {
            store::Value::Null => Self::Null,
            store::Value::Boolean(value) => Self::Boolean(value),
            store::Value::Integer(value) => Self::Integer(value),
            store::Value::Number(value) => Self::Number(value),
            store::Value::Text(value) => Self::Text(value),
            store::Value::Uuid(value) => Self::Uuid(value),
            store::Value::Timestamp(value) => Self::Timestamp(value),
            store::Value::Json(value) => Self::Json(value),
            store::Value::Bytes(value) => Self::Bytes(value),
        }
    }
}

impl From<Value> for store::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Boolean(value) => Self::Boolean(value),
            Value::Integer(value) => Self::Integer(value),
            Value::Number(value) => Self::Number(value),
            Value::Text(value) => Self::Text(value),
            Value::Uuid(value) => Self::Uuid(value),
            Value::Timestamp(value) => Self::Timestamp(value),
            Value::Json(value) => Self::Json(value),
            Value::Bytes(value) => Self::Bytes(value),
        }
    }
}

impl From<StatementError> for store::Error {
    fn from(refusal: StatementError) -> Self {
        match refusal {
            StatementError::NotGranted(name) => Self::NotGranted(name),
            StatementError::WrongParameters(wanted) => Self::WrongParameters(wanted),
            StatementError::Refused(code, message) => Self::Refused(store::Refusal { code, message }),
            StatementError::TimedOut(limit_ms) => Self::TimedOut(limit_ms),
            StatementError::TooMuch(limit) => Self::TooMuch(limit),
            StatementError::TooManyStatements(limit) => Self::TooManyStatements(limit),
            StatementError::UnknownType(column) => Self::UnknownType(column),
        }
    }
}
