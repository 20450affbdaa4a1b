//! Compilation of what strangers hand over: in a process of its own, which the kernel holds to its limits.
//!
//! wasmtime promises nothing about how long a hostile component takes to
//! compile, and how much memory. So the service starts itself with the word
//! `compile`: the child limits itself before it reads a byte, takes the
//! component from standard input and gives native code to standard output. It
//! has nothing of the service's environment, no connection, and is killed when
//! its time is up or the service ends.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Cache;
use super::engine::code_config;
use super::load::describe;
use super::{Limits, LoadError};
use crate::batch::Digest;
use crate::text::printable;

/// The service's own program, and the same one after it was replaced on disk.
const PROGRAM: &str = "/proc/self/exe";
/// The hidden command.
pub const COMMAND: &str = "compile";
/// Native code for a byte of a component, at most. About 5 are usual.
const EXPANSION_MAX: usize = 32;
/// Kept of what the child says is wrong.
const ERROR_MAX_BYTES: u64 = 4 << 10;
/// Batches come first.
const NICENESS: i32 = 19;
/// On a busy machine a child that takes no more than its time may wait for a processor so many times as long.
const WALL_TIMES: u32 = 10;
/// Between two looks at how long it has taken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Takes the code from the cache, or compiles in a child process.
pub(super) fn compile(
    engine: &Engine,
    limits: &Limits,
    cache: Option<&Cache>,
    bytes: &[u8],
) -> Result<Component, LoadError> {
    let digest = Digest::of(bytes);
    if let Some(code) = cache.and_then(|cache| cache.get(engine, digest, code_max_bytes(bytes))) {
        match deserialize(engine, &code) {
            Ok(component) => return Ok(component),
            Err(error) => {
                tracing::warn!(%error, "a compiled guest in the cache cannot be used; compiling anew")
            }
        }
    }
    let code = run(limits, bytes)?;
    let component = deserialize(engine, &code).map_err(|error| does_not_fit(&error))?;
    if let Some(cache) = cache {
        cache.put(engine, digest, &code);
    }
    Ok(component)
}

#[expect(unsafe_code, reason = "native code of our own making: see the comment")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` runs what it is given, and is given two things only.
    //
    // What a child sent through a pipe that nobody else could write to. The child
    // is this very program (`/proc/self/exe`), with the same compiler. Trusted is
    // that compiler: that whatever it reads, what it emits keeps to the sandbox,
    // and that reading does not take it over. Compiling in this process would
    // trust it just the same, and with more to lose.
    //
    // What an earlier run had from such a child and kept in the folder of
    // `Cache`, which looks each time that folder and file are this user's alone,
    // and that the bytes are those that were written. Trusted is this user.
    //
    // wasmtime checks besides that the code is of its own version and settings.
    unsafe { Component::deserialize(engine, code) }
}

/// More than any native code takes.
fn code_max_bytes(component: &[u8]) -> u64 {
    u64::try_from(component.len().saturating_mul(EXPANSION_MAX)).unwrap_or(u64::MAX).saturating_add(1 << 20)
}

/// The native code of a component, by the child.
fn run(limits: &Limits, bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let begun = Instant::now();
    let failed = |doing: &str, error: std::io::Error| {
        LoadError::Compile(format!("{doing} the process that compiles failed: {error}"))
    };
    let mut child = Command::new(PROGRAM)
        .arg0("sluicegate")
        .arg(COMMAND)
        .arg(limits.compile_memory_bytes.to_string())
        .arg(limits.compile_time.as_millis().to_string())
        .arg(limits.fuel.to_string())
        .arg(limits.stack_bytes.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed("starting", error))?;
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let child = Killed(child);
    let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
        return Err(failed("talking to", std::io::ErrorKind::BrokenPipe.into()));
    };
    let code = reading(stdout, code_max_bytes(bytes)).map_err(|error| failed("reading", error))?;
    let said = reading(stderr, ERROR_MAX_BYTES).map_err(|error| failed("reading", error))?;
    let component = bytes.to_vec();
    // A child that has ended does not read to the end: that shows in its status.
    let writing = move || drop({ stdin }.write_all(&component));
    thread::Builder::new().spawn(writing).map_err(|error| failed("writing to", error))?;

    let deadline = begun + limits.compile_time * WALL_TIMES;
    let mut is_in_time = || child.spent() < limits.compile_time && Instant::now() < deadline;
    let code = until(&code, &mut is_in_time).ok_or_else(|| too_slow(limits))?;
    let said = until(&said, &mut is_in_time).ok_or_else(|| too_slow(limits))?;
    let status = child.until_ended(deadline).map_err(|error| failed("waiting for", error))?;
    match status {
        Some(status) if status.success() => Ok(code),
        Some(status) => Err(refusal(status, &said, limits)),
        None => Err(too_slow(limits)),
    }
}

/// Compiled, but more than an instance has room for.
fn does_not_fit(error: &wasmtime::Error) -> LoadError {
    /// It has no type of its own; the tests know if wasmtime says it in other words.
    const LIMITS: [(&str, &str); 3] = [
        ("core module instances", "GUEST_INSTANCES"),
        ("minimum byte size", "GUEST_MEMORY_BYTES"),
        ("minimum element size", "GUEST_TABLE_ELEMENTS"),
    ];
    let text = describe(error);
    match LIMITS.iter().find(|(words, _)| text.contains(words)) {
        Some((_, setting)) => LoadError::DoesNotFit(format!("{text} ({setting})")),
        None => LoadError::Compile(text),
    }
}

fn too_slow(limits: &Limits) -> LoadError {
    LoadError::TooSlow { limit_ms: limits.compile_time.as_millis() }
}

/// What the child said, or what killed it.
fn refusal(status: ExitStatus, said: &[u8], limits: &Limits) -> LoadError {
    let said: String = String::from_utf8_lossy(said).trim().chars().take(1_000).collect();
    match status.signal().map(Signal::from_named_raw) {
        None => LoadError::Compile(printable(&said.replace('\n', " ")).into_owned()),
        Some(Some(Signal::XCPU | Signal::KILL)) => too_slow(limits),
        // How an allocation that fails ends.
        Some(Some(Signal::ABORT)) => LoadError::CompilerMemory { limit_bytes: limits.compile_memory_bytes },
        Some(_) => LoadError::Compile(format!("the compiler crashed, by {status}")),
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

/// `None` if it is not in time.
fn until(
    result: &Receiver<std::io::Result<Vec<u8>>>,
    is_in_time: &mut impl FnMut() -> bool,
) -> Option<Vec<u8>> {
    while is_in_time() {
        match result.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            // Nothing, if it could not be read: the child's status tells more.
            read => return Some(read.map(Result::unwrap_or_default).unwrap_or_default()),
        }
    }
    None
}

/// Killed and waited for when dropped.
struct Killed(Child);

impl Killed {
    /// The processor time that it took so far. None, where Linux does not say: then the kernel's limit holds, in whole seconds.
    fn spent(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // Fields 14 and 15 of proc(5), in ticks; the second is the name, in brackets.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_millis(ticks.sum::<u64>().saturating_mul(1_000) / per_second)
    }

    /// `None` if it has not ended by then.
    fn until_ended(mut self, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
        loop {
            match self.0.try_wait()? {
                Some(status) => return Ok(Some(status)),
                // Its output is closed: it ends at once, unless something is wrong.
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                None => return Ok(None),
            }
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's side: a component on standard input, native code on standard output.
///
/// Limits the process first. The arguments are those that the service gives.
pub fn compile_as_child(
    memory_bytes: u64,
    time_ms: u64,
    fuel: u64,
    stack_bytes: usize,
) -> Result<(), String> {
    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("no limit for the process that compiles: {error}"))
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    limit(Resource::As, memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // The service's clock is the sharper one; this holds when the service is gone.
    limit(Resource::Cpu, time_ms.div_ceil(1_000))?;
    let _ = nice(NICENESS);

    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let limits = Limits { fuel, stack_bytes, ..Limits::default() };
    let code = Engine::new(&code_config(&limits))
        .and_then(|engine| engine.precompile_component(&bytes))
        .map_err(|error| describe(&error))?;
    std::io::stdout().lock().write_all(&code).map_err(|error| error.to_string())
}
