//! Limits the time of a call by the processor time of this process, so that a busy machine costs a guest nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use wasmtime::Engine;

/// Bounds the wait between two looks at the clock while a call runs, which is the grain of the time limit.
const TICK: Duration = Duration::from_millis(10);
/// Says how long the wait is between two samples, on average.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// Ends the running call when its processor time is up: by the engine's epoch, at which the guest's code looks wherever
/// it loops, and by a flag for code that does not.
pub(super) struct TimeLimit {
    running: Arc<Running>,
    watch: Thread,
}

struct Running {
    engine: Engine,
    /// Holds the reading of the clock at which the running call has had its time. It is locked while the epoch moves,
    /// so that the epoch never moves for a call that has ended.
    end: Mutex<Option<Duration>>,
    is_over: AtomicBool,
}

impl TimeLimit {
    /// Starts the watch, which also asks for samples if somebody takes them.
    pub(super) fn new(engine: Engine, takes_samples: bool) -> std::io::Result<Self> {
        // The first look finds the kernel's clock, by a system call that the walls do not let through.
        processor_time();
        let running = Arc::new(Running { engine, end: Mutex::new(None), is_over: AtomicBool::new(false) });
        let (watched, started) = (Arc::clone(&running), Arc::new(Barrier::new(2)));
        let has_started = Arc::clone(&started);
        let watch = thread::Builder::new().name("time-limit".into()).spawn(move || {
            has_started.wait();
            match takes_samples {
                false => watched.watch(),
                true => watched.watch_and_sample(),
            }
        })?;
        // A thread that starts makes system calls that the walls do not let through.
        started.wait();
        Ok(Self { running, watch: watch.thread().clone() })
    }

    /// Begins a call whose store ends at the next epoch. Returns the clock's reading.
    pub(super) fn begin(&self, limit: Duration) -> Duration {
        let now = processor_time();
        self.running.is_over.store(false, Ordering::Relaxed);
        *self.running.end.lock() = Some(now.saturating_add(limit));
        self.watch.unpark();
        now
    }

    pub(super) fn end(&self) {
        *self.running.end.lock() = None;
    }

    /// Returns a function that tells at any time whether the running call has had its time.
    pub(super) fn is_over(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let running = Arc::clone(&self.running);
        move || running.is_over.load(Ordering::Relaxed)
    }
}

impl Running {
    fn watch(&self) {
        loop {
            match self.look() {
                Some(left) => thread::sleep(left.min(TICK)),
                None => thread::park(),
            }
        }
    }

    /// Does the same, and moves the epoch about each millisecond, at which the call takes a sample.
    ///
    /// This goes on between calls, at times that have nothing to do with theirs: no part of a call is seen more often
    /// than it should be, however short calls are.
    fn watch_and_sample(&self) {
        let mut random = fastrand::Rng::with_seed(0);
        loop {
            thread::sleep(SAMPLE_INTERVAL.mul_f64(0.5 + random.f64()));
            if self.look().is_some() {
                self.engine.increment_epoch();
            }
        }
    }

    /// Returns what is left of the running call's time, if there is such a call.
    fn look(&self) -> Option<Duration> {
        let mut end = self.end.lock();
        let left = (*end)?.saturating_sub(processor_time());
        if left.is_zero() {
            *end = None;
            self.is_over.store(true, Ordering::Relaxed);
            self.engine.increment_epoch();
        }
        end.map(|_| left)
    }
}

/// Returns the processor time that this process has had.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
