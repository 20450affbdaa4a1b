//! Starts, calls and ends worker processes on the service's side, and reads what they said last.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::process::Signal;

use super::LoadError;
use super::channel::{self, Buffer, Call, FromWorker, Load, Loaded, Returned, ToWorker, nonsense};
use super::code::NativeCode;
use super::worker::{self, max_frame_from};
use crate::capabilities::{Lost, Transaction};
use crate::config::TenantName;
use crate::judge::Fault;
use crate::text::printable;

/// Names the service's own program, which is the same one after it was replaced on disk.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// The channel is waited for in slices of this length. Each counts for no more, so that a service that was stopped for
/// an hour does not take that for an hour of the worker's silence.
const SLICE: Duration = Duration::from_millis(100);
/// Asks the kernel for so many bytes between the service and a worker in each direction, of which it gives 416 KiB unless
/// `net.core.wmem_max` is larger. A batch of a thousand usual entries takes 300 kB: what fits is sent at once, and what does
/// not waits for the other end to get a processor, each time.
const CHANNEL_BYTES: usize = 1 << 20;
/// Says how much processor time a worker may have beyond the guest's limit before it is killed: its own clock is the
/// sharper one.
const GRACE: Duration = Duration::from_millis(500);
/// Bounds the time of a call by the clock, as a multiple of its processor time. The limit is at least [`MIN_WALL`].
const WALL_TIMES: u32 = 20;
const MIN_WALL: Duration = Duration::from_secs(10);
/// Says how long a worker may take to load a component, without its start on trial.
const LOAD_TIME: Duration = Duration::from_secs(60);
/// Bounds the bytes that are kept of what a worker says when it dies.
const MAX_WORDS_BYTES: u64 = 4 << 10;
/// Says how long a worker may take to end after it has closed its channel.
const END_TIME: Duration = Duration::from_secs(1);
/// Bounds the questions of one call. The bound is far above the statements that a batch may run, since those that are
/// refused count too.
const MAX_QUESTIONS: u32 = 200_000;
/// Bounds the bytes of a worker's text that is shown.
const MAX_TEXT_BYTES: usize = 16 << 10;
/// Says how long to wait between two looks at the workers that nobody calls.
const SWEEP: Duration = Duration::from_millis(500);
/// Says how much processor time a worker may have while nobody calls it: more than the end of a call and the kernel's
/// ticks take.
const IDLE_TIME: Duration = Duration::from_millis(100);

/// Returns how long a call with this time limit may take by the clock.
pub(super) fn wall_limit(time: Duration) -> Duration {
    (time * WALL_TIMES).max(MIN_WALL)
}

/// Starts workers, and ends those that are idle.
///
/// Both happen on a thread that lives as long as this value: the kernel kills a worker with the thread that started it.
pub(super) struct Workers {
    starting: SyncSender<(Command, SyncSender<io::Result<Child>>)>,
    program: PathBuf,
    /// Says whether a kernel that lacks some of the walls will do.
    accepts_missing_walls: bool,
    told_missing: Mutex<HashSet<String>>,
    places: Arc<Mutex<Vec<Weak<WorkerPlace>>>>,
}

/// Holds one guest's worker, while it has one.
pub(super) type WorkerPlace = Mutex<Option<Worker>>;

impl Workers {
    pub(super) fn new(
        program: PathBuf,
        idle_limit: Duration,
        accepts_missing_walls: bool,
    ) -> io::Result<Self> {
        let (starting, to_start) = sync_channel::<(Command, SyncSender<io::Result<Child>>)>(1);
        let places: Arc<Mutex<Vec<Weak<WorkerPlace>>>> = Arc::default();
        let swept = Arc::clone(&places);
        thread::Builder::new().name("workers".into()).spawn(move || {
            let mut last_sweep = Instant::now();
            loop {
                match to_start.recv_timeout(SWEEP) {
                    // If nobody waits for the child any more, it is dropped, and the worker finds its channel closed.
                    Ok((mut command, started)) => {
                        let child = command.spawn();
                        if child.is_err() {
                            // There may be too many processes, or too little memory.
                            end_idle(&swept, Duration::ZERO);
                        }
                        let _ = started.send(child);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if last_sweep.elapsed() >= SWEEP {
                    last_sweep = Instant::now();
                    end_idle(&swept, idle_limit);
                }
            }
        })?;
        let told_missing = Mutex::default();
        Ok(Self { starting, program, accepts_missing_walls, told_missing, places })
    }

    /// Returns a place for the worker of a guest. The worker in it is ended when it has been idle for too long.
    pub(super) fn place(&self) -> Arc<WorkerPlace> {
        let place = Arc::new(WorkerPlace::default());
        self.places.lock().push(Arc::downgrade(&place));
        place
    }

    /// Starts a worker for a component, and waits until it can be called. Also returns what it says of the component.
    pub(super) fn start(
        &self,
        tenant: &TenantName,
        code: &NativeCode,
        load: &Load,
    ) -> Result<(Worker, Loaded), LoadError> {
        let failed = |error: io::Error| LoadError::Worker(format!("starting its process failed: {error}"));
        let mut worker = self.spawn(tenant, code, load).map_err(failed)?;
        let time = LOAD_TIME + wall_limit(load.limits.time);
        match worker.load(load, time) {
            Ok(loaded) => {
                let loaded = loaded?;
                self.check_walls(&loaded)?;
                Ok((worker, loaded))
            }
            Err(error) => Err(LoadError::Crashed(worker.last_words(&error).0)),
        }
    }

    fn spawn(&self, tenant: &TenantName, code: &NativeCode, load: &Load) -> io::Result<Worker> {
        let (ours, theirs) = channel_pair()?;
        ours.set_read_timeout(Some(SLICE))?;
        ours.set_write_timeout(Some(SLICE))?;
        let mut command = Command::new(&self.program);
        command
            .arg0("sluicegate")
            .args([worker::COMMAND, tenant.as_str()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(code.duplicate()?))
            .stderr(Stdio::piped());
        let (started, child) = sync_channel(1);
        let gone = || io::Error::other("the thread that starts workers has ended");
        self.starting.send((command, started)).map_err(|_| gone())?;
        let mut child = child.recv().map_err(|_| gone())??;
        let said = child.stderr.take();
        Ok(Worker {
            tenant: tenant.clone(),
            channel: ours,
            sent: Buffer::default(),
            received: Buffer::default(),
            max_frame_from: max_frame_from(&load.limits),
            said,
            child: Killed(child),
            has_overstayed: false,
            idle_since: Instant::now(),
            used_when_idle: None,
        })
    }

    fn check_walls(&self, loaded: &Loaded) -> Result<(), LoadError> {
        if loaded.missing_walls.is_empty() {
            return Ok(());
        }
        let missing = printable(&loaded.missing_walls.join("; ")).into_owned();
        if !self.accepts_missing_walls {
            return Err(LoadError::Walls(missing));
        }
        if self.told_missing.lock().insert(missing.clone()) {
            tracing::warn!(
                missing,
                "this kernel lacks walls around the guests' processes; accepted, as GUEST_WALLS=available says"
            );
        }
        Ok(())
    }
}

/// Makes the two ends of a channel, each of which takes a batch of a thousand usual entries although nobody reads.
fn channel_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    for end in [&ours, &theirs] {
        set_socket_send_buffer_size(end, CHANNEL_BYTES)?;
    }
    Ok((ours, theirs))
}

/// Ends the workers that nobody has called for so long, or that compute although nobody calls them, and forgets the
/// places that are gone.
fn end_idle(places: &Mutex<Vec<Weak<WorkerPlace>>>, limit: Duration) {
    let mut idle = Vec::new();
    places.lock().retain(|place| {
        let Some(place) = place.upgrade() else { return false };
        // A place that is locked is in use.
        if let Some(mut place) = place.try_lock()
            && let Some(worker) = place.as_mut()
            && (worker.idle_since.elapsed() >= limit || worker.computes_uncalled())
        {
            idle.extend(place.take());
        }
        true
    });
    // The workers end outside the lock, since an end takes a moment.
    drop(idle);
}

/// Holds a worker that runs. It is killed when dropped.
pub(super) struct Worker {
    tenant: TenantName,
    channel: UnixStream,
    sent: Buffer,
    received: Buffer,
    max_frame_from: usize,
    /// This is the worker's standard error.
    said: Option<ChildStderr>,
    child: Killed,
    /// Says whether it had too much processor time in the last call.
    has_overstayed: bool,
    idle_since: Instant,
    /// Says how much processor time it had had when it was first found idle.
    used_when_idle: Option<Duration>,
}

impl Worker {
    fn load(&mut self, load: &Load, time: Duration) -> Result<Result<Loaded, LoadError>, channel::Error> {
        let mut patience = Patience::new(time, time);
        let Self { channel, sent, received, child, max_frame_from, .. } = self;
        sent.send(&ToWorker::Load(load.clone()), channel, || patience.go_on(child))?;
        match received.receive(channel, *max_frame_from, || patience.go_on(child))? {
            FromWorker::Loaded(Err(error)) if !is_readable(&error.to_string()) => {
                Err(nonsense("a refusal that cannot be shown", "a short text"))
            }
            FromWorker::Loaded(Ok(loaded)) if !loaded.missing_walls.iter().all(|wall| is_readable(wall)) => {
                Err(nonsense("walls that cannot be shown", "short texts"))
            }
            FromWorker::Loaded(loaded) => Ok(loaded),
            _ => Err(nonsense("another message", "whether the component was loaded")),
        }
    }

    /// Calls the guest. What it asks of the batch's transaction is answered meanwhile.
    pub(super) fn call(
        &mut self,
        call: Call<'_>,
        transaction: Option<&Transaction>,
    ) -> Result<Returned, channel::Error> {
        let mut patience = Patience::new(wall_limit(call.time), call.time + GRACE);
        let returned = self.call_within(&mut patience, call, transaction);
        self.has_overstayed = patience.has_overstayed;
        self.sent.shrink();
        self.received.shrink();
        (self.idle_since, self.used_when_idle) = (Instant::now(), None);
        returned
    }

    /// Returns whether a worker that nobody calls uses processor time all the same: then it was taken over.
    fn computes_uncalled(&mut self) -> bool {
        let Some(used) = self.child.used() else { return false };
        let used_before = *self.used_when_idle.get_or_insert(used);
        let computes = used.saturating_sub(used_before) > IDLE_TIME;
        if computes {
            tracing::warn!(tenant = %self.tenant, "the process of a guest computes although nobody calls it; ended");
        }
        computes
    }

    fn call_within(
        &mut self,
        patience: &mut Patience,
        call: Call<'_>,
        transaction: Option<&Transaction>,
    ) -> Result<Returned, channel::Error> {
        let Self { channel, sent, received, child, max_frame_from, .. } = self;
        sent.send(&ToWorker::Call(call), channel, || patience.go_on(child))?;
        let mut is_lost = false;
        for _ in 0..MAX_QUESTIONS {
            let message = received.receive(channel, *max_frame_from, || patience.go_on(child))?;
            let answer = match message {
                FromWorker::Returned(Returned { verdicts: Err(Fault::Lost(_)), .. }) if !is_lost => {
                    return Err(nonsense("a transaction that is lost", "one that was said to be"));
                }
                FromWorker::Returned(returned) => return Ok(returned),
                FromWorker::Query(statement, parameters) => {
                    let rows = transaction.ok_or(Lost).and_then(|to| to.query(statement, parameters));
                    is_lost |= rows.is_err();
                    ToWorker::Queried(rows)
                }
                FromWorker::Execute(statement, parameters) => {
                    let changed = transaction.ok_or(Lost).and_then(|to| to.execute(statement, parameters));
                    is_lost |= changed.is_err();
                    ToWorker::Executed(changed)
                }
                FromWorker::Loaded(_) => return Err(nonsense("another message", "verdicts or a question")),
            };
            // The time that the database took is not the worker's.
            patience.restart();
            sent.send(&answer, channel, || patience.go_on(child))?;
        }
        Err(nonsense("another question", &format!("at most {MAX_QUESTIONS}")))
    }

    /// Returns whether the worker had so much processor time in the last call that it is killed.
    pub(super) fn has_overstayed(&self) -> bool {
        self.has_overstayed
    }

    /// Ends the worker, and returns how it ended: the signal or status, or what was wrong on its channel, and what it
    /// said last. The second value says whether somebody else killed it.
    pub(super) fn last_words(self, error: &channel::Error) -> (String, bool) {
        let Self { channel, said, child, .. } = self;
        drop(channel);
        let mut is_killed = false;
        let how = match error {
            // The worker has ended, or is about to.
            channel::Error::Closed => match child.until_ended(Instant::now() + END_TIME) {
                Ok((Some(status), _)) => {
                    is_killed = status.signal() == Some(Signal::KILL.as_raw());
                    how_it_ended(status)
                }
                Ok((None, _)) => "it closed its channel and did not end".to_owned(),
                Err(error) => error.to_string(),
            },
            error => {
                drop(child);
                error.to_string()
            }
        };
        let mut words = Vec::new();
        if let Some(said) = said
            && rustix::io::ioctl_fionbio(&said, true).is_ok()
        {
            // This reads up to the end, or as far as anything is there yet.
            let _ = said.take(MAX_WORDS_BYTES).read_to_end(&mut words);
        }
        let words = String::from_utf8_lossy(&words).trim().replace('\n', " ");
        match words.is_empty() {
            true => (how, is_killed),
            false => (format!("{how}; it said: {}", printable(&words)), is_killed),
        }
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match status.signal().map(Signal::from_named_raw) {
        Some(Some(Signal::SYS)) => "SIGSYS, for a system call that a guest's process may not make".to_owned(),
        Some(Some(Signal::KILL)) => "SIGKILL, by the kernel for want of memory or by somebody".to_owned(),
        _ => status.to_string(),
    }
}

/// Counts what is left of the time for an answer, by the clock and of a processor.
struct Patience {
    left: Duration,
    looked: Instant,
    /// Says how much time has run out since the last look at the worker's processor time: a look costs more than a
    /// short call.
    since: Duration,
    processor_limit: Duration,
    /// Holds the worker's processor time at the first look.
    used_before: Option<Duration>,
    has_overstayed: bool,
}

impl Patience {
    fn new(left: Duration, processor_limit: Duration) -> Self {
        let (looked, since) = (Instant::now(), Duration::ZERO);
        Self { left, looked, since, processor_limit, used_before: None, has_overstayed: false }
    }

    /// Leaves out the time since the last look.
    fn restart(&mut self) {
        self.looked = Instant::now();
    }

    fn go_on(&mut self, worker: &Killed) -> bool {
        let step = self.looked.elapsed().min(SLICE);
        self.restart();
        (self.left, self.since) = (self.left.saturating_sub(step), self.since.saturating_add(step));
        if self.since >= SLICE
            && let Some(used) = worker.used()
        {
            self.since = Duration::ZERO;
            let used = used.saturating_sub(*self.used_before.get_or_insert(used));
            self.has_overstayed = used >= self.processor_limit;
        }
        !self.left.is_zero() && !self.has_overstayed
    }
}

/// Returns whether a text of a worker's can be shown as it is.
fn is_readable(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && matches!(printable(text), Cow::Borrowed(_))
}

/// Returns the processor time of all children of this process that have ended, in the kernel's ticks.
pub fn children_time() -> Option<Duration> {
    stat_time("self", 16)
}

/// Returns the sum of two times of a process, the first of which is this field of proc(5).
fn stat_time(process: &str, field: usize) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the name, in brackets.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = after_name.split(' ').skip(field.saturating_sub(3)).take(2);
    let ticks = ticks.filter_map(|field| field.parse::<u64>().ok());
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks.sum::<u64>().saturating_mul(1_000) / per_second))
}

/// Holds a child that is killed and waited for when dropped.
pub(super) struct Killed(pub(super) Child);

impl Killed {
    /// Returns the processor time that it took so far, or `None` where Linux does not say. Then the limit by the clock
    /// holds, and for a compiler also the kernel's, in whole seconds.
    pub(super) fn used(&self) -> Option<Duration> {
        stat_time(&self.0.id().to_string(), 14)
    }

    /// Waits until the child has ended, and returns no status if it has not by the deadline.
    pub(super) fn until_ended(mut self, deadline: Instant) -> std::io::Result<(Option<ExitStatus>, Self)> {
        loop {
            match self.0.try_wait()? {
                Some(status) => return Ok((Some(status), self)),
                // It has closed its standard error or its channel: it ends at once, unless something is wrong.
                None if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                None => return Ok((None, self)),
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_channel_takes_a_usual_batch_although_nobody_reads() {
        let frame = vec![0; 300_000];
        let (ours, theirs) = channel_pair().expect("a channel");
        for mut end in [&ours, &theirs] {
            end.set_nonblocking(true).expect("no waiting");
            assert_eq!(end.write(&frame).expect("room"), frame.len());
        }
    }
}
