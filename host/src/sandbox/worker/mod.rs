//! Runs the worker, the process in which one tenant's guest runs. Whatever guest code does, it does it here.
//!
//! The service starts itself with the word `worker`. The process has its channel as standard input, the compiled code
//! as standard output, and a pipe for its last words as standard error. It has no environment and no other descriptor,
//! and the [`walls`] stand before guest code runs. It answers one frame with one frame until its channel is closed.
//!
//! - [`check`]: checks what a component imports and exports
//! - [`instance`]: makes each call in a fresh instance
//! - [`time_limit`], [`meter`]: bound what the call may use
//! - [`sampler`]: notes where its time goes, if anybody wants to know
//! - [`wasi`], [`host`]: provide what the guest sees and may ask for
//! - [`output`]: keeps what it prints

pub(super) mod check;
#[cfg(feature = "failpoints")]
mod faults;
mod host;
mod instance;
mod meter;
mod output;
mod sampler;
mod time_limit;
pub(super) mod walls;
mod wasi;

use std::io::{self, Read, Stdin, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::component::Component;
use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::channel::{Buffer, FromWorker, Load, Loaded, ToWorker};
use super::code::{self, code_config};
use super::compile::does_not_fit;
use super::limits::{MAX_MEMORIES, MAX_TABLES};
use super::{Limits, LoadError};
use crate::capabilities::Lost;
use crate::stack_samples::MAX_FRAMES;
use instance::Callable;

pub const COMMAND: &str = "worker";

/// Lowers the worker's priority: reading, writing and acknowledging go on whatever guests do.
const NICENESS: i32 = 4;
/// Bounds what a worker may take beside the memory of its guest and what the guest hands over: for wasmtime's own
/// structures, the guest's tables, and what is copied on its way.
const OWN_BYTES: u64 = 64 << 20;
/// Bounds the bytes that a frame may have beside what is counted.
const FRAME_BYTES: usize = 16 << 20;

/// Says how many bytes of a memory are cleared by hand when an instance is thrown away, as far as the guest had them.
/// What lies above goes back to the kernel, and each page of it costs the next instance a fault. The usual stack of a
/// guest is the first MiB; a batch of 1,000 events takes the default guest one more.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;
/// Bounds the bytes that wasmtime keeps for an instance of a core module beside its functions in tables. This is
/// wasmtime's own default.
const INSTANCE_BYTES: usize = 1 << 20;
/// Bounds the bytes that wasmtime keeps for a function that is in a table.
const FUNCTION_BYTES: usize = 48;

/// Returns how many bytes a frame to a worker may have.
pub(super) fn max_frame_to(limits: &Limits) -> usize {
    limits.memory_bytes.saturating_mul(2).saturating_add(FRAME_BYTES)
}

/// Returns how many bytes a frame from a worker may have.
pub(super) fn max_frame_from(limits: &Limits) -> usize {
    limits.bounds.output_bytes.saturating_add(limits.log_bytes * 2).saturating_add(FRAME_BYTES)
}

/// Holds the channel to the service, and the frames on it.
struct Connection {
    channel: Channel,
    sent: Buffer,
    received: Buffer,
    max_frame: usize,
}

struct Channel(Stdin);

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0.as_fd(), buffer)?)
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0.as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    fn new() -> Self {
        Self {
            channel: Channel(io::stdin()),
            sent: Buffer::default(),
            received: Buffer::default(),
            max_frame: FRAME_BYTES,
        }
    }

    fn send(&mut self, message: &FromWorker) -> Result<(), Lost> {
        self.sent.send(message, &mut self.channel, || true).map_err(|_| Lost)
    }

    /// Sends a question, and waits for its answer.
    fn ask(&mut self, question: &FromWorker) -> Result<ToWorker<'_>, Lost> {
        self.send(question)?;
        self.received.receive(&mut self.channel, self.max_frame, || true).map_err(|_| Lost)
    }
}

/// Runs the worker for its whole life, until its channel is closed.
pub fn run() -> Result<(), String> {
    let mut missing = walls::before_reading(NICENESS, u64::MAX);
    // wasmtime-wasi polls futures that are ready at once. Without a runtime around it, it would start one with threads.
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let _entered = runtime.enter();
    let connection = Arc::new(Mutex::new(Connection::new()));
    let mut received = Buffer::default();
    let first = received.receive(&mut Channel(io::stdin()), FRAME_BYTES, || true);
    let ToWorker::Load(load) = first.map_err(|error| error.to_string())? else {
        return Err("found another message, wanted the one to load a guest".to_owned());
    };
    let is_trial = load.is_trial;
    let limits = load.limits;
    connection.lock().max_frame = max_frame_to(&limits);
    let loaded = callable(load).and_then(|callable| {
        let more_bytes = limits.memory_bytes.saturating_mul(3).saturating_add(limits.bounds.output_bytes * 3);
        let more_bytes = u64::try_from(more_bytes).unwrap_or(u64::MAX).saturating_add(OWN_BYTES);
        walls::before_guest(more_bytes, &mut missing);
        if is_trial {
            callable.start_on_trial()?;
        }
        Ok(callable)
    });
    let told = match &loaded {
        Ok(callable) => Ok(Loaded { world: callable.world, missing_walls: missing.0 }),
        Err(error) => Err(error.clone()),
    };
    let is_gone = connection.lock().send(&FromWorker::Loaded(told)).is_err();
    let Ok(callable) = loaded else { return Ok(()) };
    if is_gone {
        return Ok(());
    }
    loop {
        let request = received.receive(&mut Channel(io::stdin()), max_frame_to(&limits), || true);
        // Otherwise the service has closed the channel, or cannot be understood.
        let Ok(ToWorker::Call(call)) = request else { return Ok(()) };
        let returned = callable.call(&call, Arc::clone(&connection));
        if connection.lock().send(&FromWorker::Returned(returned)).is_err() {
            return Ok(());
        }
    }
}

fn callable(load: Load) -> Result<Callable, LoadError> {
    let mut config = code_config(&load.limits);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&load.limits)));
    if load.takes_samples {
        config.wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    }
    let engine = Engine::new(&config)
        .map_err(|error| LoadError::Worker(super::load::describe(&with_address_space(error))))?;
    let component: Component = code::load(&engine, &io::stdout()).map_err(|error| does_not_fit(&error))?;
    Callable::new(&engine, &component, load)
}

/// Returns the settings of a pool that has room for one call at a time.
fn pool(limits: &Limits) -> PoolingAllocationConfig {
    let functions_bytes = limits.table_elements.saturating_mul(FUNCTION_BYTES);
    let instance_bytes = INSTANCE_BYTES.saturating_add(functions_bytes);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(1)
        // Nothing here is asynchronous.
        .total_stacks(0)
        .total_core_instances(limits.instances)
        .total_memories(MAX_MEMORIES)
        .total_tables(MAX_TABLES)
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

/// Adds to the error how large the address space may be, if it has a limit: if that is too small, wasmtime says so in
/// bytes only.
fn with_address_space(error: wasmtime::Error) -> wasmtime::Error {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    match limit {
        None => error,
        Some(limit) => error.context(format!(
            "a worker may have {limit} bytes of address space (`ulimit -v`); wanted no such limit: {MAX_MEMORIES} memories \
             are reserved for a guest, with 4 GiB of addresses each, and as good as no memory behind them. GUEST_MEMORY \
             limits the memory"
        )),
    }
}
