//! The world `pipeline`: what a guest may do besides judging, as far as it is granted.
//!
//! A grant is an interface in the linker: without it a component that imports
//! the interface is refused at load. Within an interface the names of streams
//! and statements are checked at each call.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};

use super::LoadError;
use super::guest::State;
use super::guest::bindings::sluicegate::guest::{metrics, store, stream, types};
use crate::batch::{EntryId, TextEntry};
use crate::capabilities::{
    HostContext, MAX_LABEL_BYTES, MAX_LABELS, MAX_PUBLICATIONS, MAX_PUBLICATIONS_BYTES, MAX_SAMPLES,
    Publication, Sample, Series, StatementError, StatementResult, Transaction, Usage, Value,
};
use crate::config::Grants;

/// An interface of the world `pipeline`.
struct Interface {
    name: &'static str,
    is_granted: fn(&Grants) -> bool,
    /// What the operator writes.
    remedy: &'static str,
}

const STREAM: Interface = Interface {
    name: "sluicegate:guest/stream@0.1.0",
    is_granted: |grants| grants.stream || !grants.publish.is_empty(),
    remedy: "`stream = true`, or `publish = { NAME = LENGTH }`",
};
const STORE: Interface = Interface {
    name: "sluicegate:guest/store@0.1.0",
    is_granted: |grants| !grants.statements.is_empty(),
    remedy: "`statements = [\"NAME\"]`, and a table `[statements.NAME]`",
};
const METRICS: Interface = Interface {
    name: "sluicegate:guest/metrics@0.1.0",
    is_granted: |grants| grants.metrics,
    remedy: "`metrics = true`",
};

/// Whether it is one of them.
pub(super) fn is_interface(import: &str) -> bool {
    [STREAM, STORE, METRICS].iter().any(|interface| interface.name == import)
}

/// Whether the component imports any of them; an error if one is not granted.
pub(super) fn check(engine: &Engine, component: &Component, grants: &Grants) -> Result<bool, LoadError> {
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

/// Links what is granted.
pub(super) fn link(linker: &mut Linker<State>, grants: &Grants) -> wasmtime::Result<()> {
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

/// What one call has of it.
#[derive(Default)]
pub(super) struct HostState {
    pub(super) context: HostContext,
    grants: Arc<Grants>,
    /// How often each entry of the batch was delivered.
    deliveries: BTreeMap<EntryId, u64>,
    /// What the batch has left for its commit so far, in this call and in those before it.
    left: Usage,
}

impl HostState {
    /// For a call after which the batch does what these earlier calls have left, too.
    pub(super) fn new(
        grants: &Arc<Grants>,
        batch: &[TextEntry<'_>],
        context: HostContext,
        earlier: Usage,
    ) -> Self {
        let deliveries = match grants.stream {
            true => batch.iter().map(|entry| (entry.id, entry.deliveries)).collect(),
            false => BTreeMap::new(),
        };
        Self { context, grants: Arc::clone(grants), deliveries, left: earlier }
    }
}

impl types::Host for HostState {}

impl stream::Host for HostState {
    fn lag(&mut self) -> wasmtime::Result<Option<u64>> {
        Ok(self.context.lag.filter(|_| self.grants.stream))
    }

    fn delivery_count(&mut self, id: types::EntryId) -> wasmtime::Result<Option<u64>> {
        let id = EntryId { milliseconds: id.milliseconds, sequence: id.sequence };
        Ok(self.deliveries.get(&id).copied().filter(|_| self.grants.stream))
    }

    fn publish(
        &mut self,
        stream: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<Result<(), stream::PublishError>> {
        if !self.grants.publish.contains_key(&stream) {
            return Ok(Err(stream::PublishError::NotGranted(stream)));
        }
        let too_much =
            |limit: usize| Ok(Err(stream::PublishError::TooMuch(u64::try_from(limit).unwrap_or(u64::MAX))));
        let publication = Publication { stream, fields };
        let bytes = self.left.published_bytes.saturating_add(publication.bytes());
        if bytes > MAX_PUBLICATIONS_BYTES {
            return too_much(MAX_PUBLICATIONS_BYTES);
        }
        // XADD takes no entry without fields.
        if publication.fields.is_empty() {
            return too_much(0);
        }
        if self.left.publications >= MAX_PUBLICATIONS {
            return too_much(MAX_PUBLICATIONS);
        }
        self.left.publications += 1;
        self.left.published_bytes = bytes;
        self.context.effects.publications.push(publication);
        Ok(Ok(()))
    }
}

impl HostState {
    fn run<T>(
        &mut self,
        run: impl FnOnce(&mut dyn Transaction) -> StatementResult<T>,
    ) -> wasmtime::Result<Result<T, store::Error>> {
        // None on trial, and while start-up code runs.
        let Some(transaction) = self.context.transaction.as_deref_mut() else {
            return Ok(Err(store::Error::NotGranted("no batch, no transaction".to_owned())));
        };
        Ok(run(transaction)?.map_err(store::Error::from))
    }
}

impl store::Host for HostState {
    fn query(
        &mut self,
        statement: String,
        parameters: Vec<store::Value>,
    ) -> wasmtime::Result<Result<Vec<Vec<store::Value>>, store::Error>> {
        let parameters = parameters.into_iter().map(Value::from).collect();
        let rows = self.run(|transaction| transaction.query(&statement, parameters))?;
        let value = |row: Vec<Value>| row.into_iter().map(store::Value::from).collect();
        Ok(rows.map(|rows| rows.into_iter().map(value).collect()))
    }

    fn execute(
        &mut self,
        statement: String,
        parameters: Vec<store::Value>,
    ) -> wasmtime::Result<Result<u64, store::Error>> {
        let parameters = parameters.into_iter().map(Value::from).collect();
        self.run(|transaction| transaction.execute(&statement, parameters))
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

/// Of a metric or a label, as all systems of metrics take it: nothing that could forge another in a line.
fn is_name(text: &str) -> bool {
    text.len() <= MAX_LABEL_BYTES
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl HostState {
    /// What is beyond the limits is dropped and counted.
    fn sample(&mut self, name: String, mut labels: Vec<(String, String)>, sample: Sample) {
        let is_fine = is_name(&name)
            && labels.len() <= MAX_LABELS
            && labels.iter().all(|(name, value)| is_name(name) && value.len() <= MAX_LABEL_BYTES)
            && !matches!(sample, Sample::Observe(value) if !value.is_finite());
        if !is_fine || self.left.samples >= MAX_SAMPLES {
            self.context.effects.dropped_samples += 1;
            return;
        }
        self.left.samples += 1;
        labels.sort();
        self.context.effects.samples.push((Series { name, labels }, sample));
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
