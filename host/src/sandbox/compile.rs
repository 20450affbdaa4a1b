//! Compiles what strangers hand over, in a process of its own, which the kernel holds to its limits.
//!
//! wasmtime does not promise how long a hostile component takes to compile, nor how much memory that takes. So the
//! service starts itself with the word `compile`. This child limits itself before it reads a byte, takes the component
//! from standard input, and writes native code to standard output, which is a file in memory. It has nothing of the
//! service's environment and no connection, and it is killed when its time is up or the service ends.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::Engine;

use super::code::{self, CodeRoom, NativeCode, TakenRoom, code_config};
use super::load::describe;
use super::permit::acquire_blocking;
use super::process::Killed;
use super::worker::walls;
use super::{Limits, LoadError};
use crate::config::TenantName;
use crate::text::printable;

pub const COMMAND: &str = "compile";
/// Bounds the bytes of native code for each byte of a component, besides [`MIN_CODE_BYTES`]. About 5 are usual.
const MAX_EXPANSION: u64 = 32;
/// Says how many bytes of native code any component may have, however small it is.
const MIN_CODE_BYTES: u64 = 1 << 20;
/// Bounds the bytes that are kept of what the child says is wrong.
const MAX_ERROR_BYTES: u64 = 4 << 10;
/// Lowers the child's priority, since batches come first: it gets a tenth of a processor beside a process that takes all it
/// can get. At the lowest priority that would be a seventieth, and new rules would wait for minutes on a busy machine.
const NICENESS: i32 = 10;
/// Bounds the child's time by the clock, as a multiple of its processor time: on a busy machine it waits for a
/// processor.
const WALL_TIMES: u32 = 10;
/// Says how long a child may take by the clock in any case: other processes may have the processors for a second or
/// two.
const MIN_WALL: Duration = Duration::from_secs(10);
/// Says how long to wait between two looks at how much time the child has taken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bounds how many compilers run at the same time, and gives each tenant its turn.
///
/// Most components compile in a moment, and some take minutes, perhaps on purpose. So there are two lines. A tenant
/// whose component does not get done in the first one begins anew in the second, and goes there at once the next time.
/// Nobody else waits for long.
pub(super) struct Compilers {
    program: PathBuf,
    short: Semaphore,
    long: Semaphore,
    /// Holds the tenants that go to the second line at once, since a component of theirs was not done in the first.
    slow: Mutex<HashSet<TenantName>>,
}

/// Bounds the processor time of a component in the first line.
const SHORT: Duration = Duration::from_secs(5);
/// A larger component is not tried in the first line: a language's runtime takes longer.
const MAX_SHORT_BYTES: u64 = 4 << 20;
/// A wait for a turn that was longer than this is logged.
const LONG_WAIT: Duration = Duration::from_secs(5);

impl Compilers {
    pub(super) fn new(program: PathBuf, processors: usize) -> Self {
        let (short, long) = (Semaphore::new(processors.saturating_sub(1).max(1)), Semaphore::new(1));
        Self { program, short, long, slow: Mutex::default() }
    }

    /// Compiles a component of about this size when it is this tenant's turn, and reads it only then: a hundred tenants
    /// that wait need not hold their components in memory.
    pub(super) fn compile(
        &self,
        tenant: &TenantName,
        about_bytes: u64,
        limits: &Limits,
        room: &Arc<CodeRoom>,
        read: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<(NativeCode, TakenRoom), LoadError> {
        if limits.compile_time > SHORT && (about_bytes > MAX_SHORT_BYTES || self.slow().contains(tenant)) {
            return self.compile_long(tenant, limits, room, read);
        }
        let permit = acquire(&self.short);
        let bytes = read()?;
        let first = Limits { compile_time: limits.compile_time.min(SHORT), ..*limits };
        match run(&self.program, &first, room, &bytes) {
            Err(LoadError::TooSlow { .. } | LoadError::Starved { .. }) if limits.compile_time > SHORT => {}
            outcome => return outcome,
        }
        drop(permit);
        self.slow().insert(tenant.clone());
        self.compile_long(tenant, limits, room, || Ok(bytes))
    }

    /// Does work that takes a moment and the memory of a component, when its turn comes in the first line.
    pub(super) fn in_line<T>(&self, work: impl FnOnce() -> T) -> T {
        let _permit = acquire(&self.short);
        work()
    }

    fn compile_long(
        &self,
        tenant: &TenantName,
        limits: &Limits,
        room: &Arc<CodeRoom>,
        read: impl FnOnce() -> Result<Vec<u8>, LoadError>,
    ) -> Result<(NativeCode, TakenRoom), LoadError> {
        let _permit = acquire(&self.long);
        let bytes = read()?;
        let begun = Instant::now();
        let outcome = run(&self.program, limits, room, &bytes);
        // A file that is refused at once does not count: the next one may take long again.
        if outcome.is_ok() && begun.elapsed() < SHORT {
            self.slow().remove(tenant);
        }
        outcome
    }

    fn slow(&self) -> MutexGuard<'_, HashSet<TenantName>> {
        self.slow.lock()
    }
}

fn acquire(permits: &Semaphore) -> Option<SemaphorePermit<'_>> {
    let begun = Instant::now();
    let permit = acquire_blocking(permits);
    if begun.elapsed() > LONG_WAIT {
        let waited_s = begun.elapsed().as_secs();
        tracing::info!(waited_s, "compiling the guest now, after other tenants' guests");
    }
    permit
}

/// Returns how many bytes of native code a component of this size may have at most, whatever room there is.
pub(super) fn max_code_bytes(component_bytes: u64) -> u64 {
    component_bytes.saturating_mul(MAX_EXPANSION).saturating_add(MIN_CODE_BYTES)
}

/// Returns the native code of a component, which a child compiles, and the room that it takes.
fn run(
    program: &Path,
    limits: &Limits,
    room: &Arc<CodeRoom>,
    bytes: &[u8],
) -> Result<(NativeCode, TakenRoom), LoadError> {
    thread::scope(|scope| {
        let begun = Instant::now();
        let failed = |doing: &str, error: std::io::Error| {
            LoadError::Compiler(format!("{doing} the process that compiles failed: {error}"))
        };
        let file = code::new_file().map_err(|error| failed("making a file in memory for", error))?;
        let output = file.try_clone().map_err(|error| failed("making a file in memory for", error))?;
        let expansion = max_code_bytes(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        // Room is reserved before anything is written: what several compile at the same time is within the limit, too.
        let mut room = room.reserve(expansion);
        let most = room.bytes();
        let mut child = Command::new(program)
            .arg0("sluicegate")
            .arg(COMMAND)
            .arg(limits.compile_memory_bytes.to_string())
            .arg(limits.compile_time.as_millis().to_string())
            .arg(limits.fuel.to_string())
            .arg(limits.stack_bytes.to_string())
            .arg(most.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed("starting", error))?;
        let streams = (child.stdin.take(), child.stderr.take());
        let child = Killed(child);
        let (Some(stdin), Some(stderr)) = streams else {
            return Err(failed("talking to", std::io::ErrorKind::BrokenPipe.into()));
        };
        let said = reading(stderr, MAX_ERROR_BYTES).map_err(|error| failed("reading from", error))?;
        // A child that has ended does not read to the end. Its status shows that, so an error here may be dropped.
        let writing = move || drop({ stdin }.write_all(bytes));
        thread::Builder::new().spawn_scoped(scope, writing).map_err(|error| failed("writing to", error))?;

        let deadline = begun + (limits.compile_time * WALL_TIMES).max(MIN_WALL);
        let mut is_in_time =
            || child.used().unwrap_or_default() < limits.compile_time && Instant::now() < deadline;
        let Some(said) = until(&said, &mut is_in_time) else { return Err(too_slow(limits, &child, begun)) };
        match child.until_ended(deadline).map_err(|error| failed("waiting for", error))? {
            (Some(status), _) if status.success() => {
                let code = NativeCode::seal(file);
                let code = code.map_err(|error| failed("sealing the file in memory of", error))?;
                room.shrink(code.bytes);
                Ok((code, room))
            }
            (Some(status), _) if is_of_size(status) => Err(match most < expansion {
                true => room.too_small(),
                false => LoadError::CodeTooLarge { limit_bytes: most, factor: MAX_EXPANSION },
            }),
            (Some(status), _) => Err(refusal(status, &said, limits)),
            (None, child) => Err(too_slow(limits, &child, begun)),
        }
    })
}

/// Returns whether the kernel ended the child because its output is longer than it may be.
fn is_of_size(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::XFSZ.as_raw())
}

/// Returns why a component that was compiled cannot be loaded. It may take more than an instance has room for, or than
/// this machine has at the moment.
pub(super) fn does_not_fit(error: &wasmtime::Error) -> LoadError {
    /// Holds words of wasmtime's errors, each with the setting that they are about. These errors have no type of their
    /// own; the tests notice if wasmtime uses other words.
    const LIMITS: [(&str, &str); 4] = [
        ("core module instances", "GUEST_INSTANCES"),
        ("minimum byte size", "GUEST_MEMORY"),
        ("minimum element size", "GUEST_TABLE_ELEMENTS"),
        ("instance allocation for this", "GUEST_TABLE_ELEMENTS, by which the functions in tables count"),
    ];
    let text = describe(error);
    if error.is::<rustix::io::Errno>() || error.is::<io::Error>() {
        return LoadError::Worker(text);
    }
    match LIMITS.iter().find(|(words, _)| text.contains(words)) {
        Some((_, setting)) => LoadError::DoesNotFit(format!("{text} ({setting})")),
        None => LoadError::Compile(text),
    }
}

/// Returns the error for a child whose time is up, by its own doing or because the machine let it wait.
fn too_slow(limits: &Limits, child: &Killed, begun: Instant) -> LoadError {
    let (limit_ms, used_ms) = (limits.compile_time.as_millis(), child.used().unwrap_or_default().as_millis());
    match used_ms >= limit_ms {
        true => LoadError::TooSlow { limit_ms },
        false => LoadError::Starved { used_ms, waited_ms: begun.elapsed().as_millis(), limit_ms },
    }
}

/// Returns the error for a child that failed: what it said, or what killed it.
fn refusal(status: ExitStatus, said: &[u8], limits: &Limits) -> LoadError {
    let said: String = String::from_utf8_lossy(said).trim().chars().take(1_000).collect();
    match status.signal().map(Signal::from_named_raw) {
        None => LoadError::Compile(printable(&said.replace('\n', " ")).into_owned()),
        Some(Some(Signal::XCPU)) => LoadError::TooSlow { limit_ms: limits.compile_time.as_millis() },
        // The service itself kills the child only after it has given up.
        Some(Some(Signal::KILL)) => LoadError::CompilerKilled,
        // An allocation that fails ends like this.
        Some(Some(Signal::ABORT)) => LoadError::CompilerMemory { limit_bytes: limits.compile_memory_bytes },
        Some(_) => LoadError::Compiler(format!("the process that compiles crashed: {status}")),
    }
}

/// Reads on a thread, so that whoever waits for it can give up.
fn reading(
    stream: impl Read + Send + 'static,
    most: u64,
) -> std::io::Result<Receiver<std::io::Result<Vec<u8>>>> {
    let (to_us, result) = sync_channel(1);
    thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let read = stream.take(most).read_to_end(&mut bytes).map(|_| bytes);
        let _ = to_us.send(read); // nobody waits any more
    })?;
    Ok(result)
}

/// Waits for the result, and returns `None` if it does not come in time.
fn until(
    result: &Receiver<std::io::Result<Vec<u8>>>,
    is_in_time: &mut impl FnMut() -> bool,
) -> Option<Vec<u8>> {
    while is_in_time() {
        match result.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            // What could not be read counts as nothing: the child's status tells more.
            read => return Some(read.map(Result::unwrap_or_default).unwrap_or_default()),
        }
    }
    None
}

/// Does the child's work: reads a component from standard input, and writes its native code to standard output.
///
/// It limits the process first. The arguments are those that the service gives.
pub fn compile_as_child(
    memory_bytes: u64,
    time_ms: u64,
    fuel: u64,
    stack_bytes: usize,
    code_bytes: u64,
) -> Result<(), String> {
    // A kernel that lacks a wall lacks it for the workers too, and they report it.
    let mut missing = walls::before_reading(NICENESS, code_bytes);
    walls::limit(Resource::As, memory_bytes)
        .map_err(|error| format!("no limit for the process that compiles: {error}"))?;
    // The service's clock is the sharper one; this limit holds when the service is gone.
    let seconds = time_ms.div_ceil(1_000);
    // At the first number the kernel sends a signal that tells the reason, at the second it kills.
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 5) })
        .map_err(|error| format!("no limit for the process that compiles: {error}"))?;

    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let limits = Limits { fuel, stack_bytes, ..Limits::default() };
    let engine = Engine::new(&code_config(&limits)).map_err(|error| describe(&error))?;
    walls::lock_down(&mut missing);
    let code = engine.precompile_component(&bytes).map_err(|error| describe(&error))?;
    std::io::stdout().lock().write_all(&code).map_err(|error| error.to_string())
}
