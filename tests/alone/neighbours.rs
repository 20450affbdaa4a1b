//! Tests that tenants do not suffer when one of twenty in a process is hostile, each way in turn.
//!
//! The test is a program of its own, because it measures: cargo runs it when no other test runs.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sluicegate_tests::guests;
use sluicegate_tests::{Event, Provoker, Scene, Service, Stream, until, with_guest};
use tempfile::TempDir;

/// Counts the tenants besides the hostile one.
const NEIGHBOURS: usize = 19;
/// Counts rounds: of the 760 events of all neighbours, the 99th percentile is the eighth slowest.
const ROUNDS: u32 = 40;
/// Separates two rounds, in each of which every neighbour gets an event.
const PAUSE: Duration = Duration::from_millis(25);
/// Keeps at least this many entries waiting for the hostile tenant, so that it always has work.
const BACKLOG: u64 = 200;
/// Counts the events for each neighbour at once, to see how many the service gets done: 19,000.
const BURST: usize = 1_000;
/// The neighbours keep this part of their rate beside a hostile tenant. That tenant has one batch
/// at a time that it works on, or that others work on for it: one processor of two. A tenth of the
/// rest is for the grain of the measurement.
const SHARE: f64 = 0.45;
/// Bounds how much slower the slowest percent of the neighbours' events may become.
const FACTOR: f64 = 2.0;
/// Adds to that in milliseconds, for the grain of the measurement. A Linux that ticks 250 times a
/// second lets one process wait 4 ms for another, and an event passes through three.
const GRAIN_MS: f64 = 12.0;
/// Bounds the attempts. Something else may run on the machine for a while: half a minute of it was
/// seen to fail the same tests without any change. What a tenant does, it does each time.
const ATTEMPTS: usize = 5;
/// Bounds the attempts that do not count, because other virtual machines had the processors meanwhile.
const STOLEN_ATTEMPTS: usize = 20;
/// An attempt counts if no more than this part of the processors' time was taken away.
const STOLEN: f64 = 0.03;
/// Sets how often the hostile tenant's component is replaced, in the tests that do so.
const REPLACED_EVERY: Duration = Duration::from_millis(300);
/// Sets for how long the processors are kept busy.
const BUSY: Duration = Duration::from_secs(20);
/// Sets how much of its write-ahead log the database has written before.
const USED_LOG_MIB: usize = 512;

/// Holds what all measurements share.
struct House {
    scene: Scene,
    /// Lies in memory: a disk would write the file before the next commit, which is not measured.
    rules: TempDir,
    neighbours: Vec<Stream>,
}

/// Holds what the neighbours notice.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Is the 50th percentile of the time from XADD to the row, in ms; `p99` is the 99th.
    median: f64,
    p99: f64,
    /// Counts events per second, when there are more than can be done.
    rate: f64,
}

impl House {
    fn new() -> Self {
        let scene = Scene::new();
        let neighbours = (0..NEIGHBOURS).map(|i| scene.stream.sibling(&format!("n{i}"))).collect();
        // The tables have the form that is wanted; a column tells when a row was written.
        scene.database.execute(
            "CREATE TABLE notes (text TEXT);
             CREATE TABLE seen (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
                 user_id TEXT NOT NULL, properties JSONB, written TIMESTAMPTZ DEFAULT clock_timestamp(),
                 PRIMARY KEY (event_id, time));
             CREATE TABLE events_hostile (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL,
                 event_type TEXT NOT NULL CHECK (event_type <> 'forbidden'), user_id TEXT NOT NULL, properties JSONB,
                 PRIMARY KEY (event_id, time))",
        );
        let rules = TempDir::with_prefix_in("sluicegate-test-", "/dev/shm").unwrap();
        Self { scene, rules, neighbours }
    }

    /// Returns the path of the hostile tenant's component.
    fn guest(&self) -> PathBuf {
        self.rules.path().join("hostile.wasm")
    }

    /// Starts all tenants, one of which reads from `hostile`.
    fn start(&self, hostile: &Stream) -> Service {
        let guest = self.guest();
        let mut file = format!(
            "partial_batch_delay = \"0ms\"\n\
             [tenants.hostile]\nstream_name = \"{}\"\nguest = {:?}\nmax_event_age = \"36500d\"\n",
            hostile.name,
            guest.display().to_string()
        );
        file += &guests::grants("tenants.hostile.", &hostile.sibling("published").name);
        for (i, stream) in self.neighbours.iter().enumerate() {
            file += &format!("[tenants.n{i}]\nstream_name = \"{}\"\nevents_table = \"seen\"\n", stream.name);
        }
        fs::write(self.scene.folder().join("sluicegate.toml"), file).unwrap();
        // Only the program with failpoints lets a guest end its process.
        let launch = self.scene.service().unset("STREAM_NAME");
        let service = match hostile.name.contains("hostile_dying") {
            true => launch.with_failpoints("").start_unready(),
            false => launch.start_unready(),
        };
        until("all neighbours to run", || {
            let log = service.log();
            let is_running = |i: &usize| {
                log.lines()
                    .any(|line| line.contains("running redis=") && line.contains(&format!("tenant=n{i}}}")))
            };
            match (0..NEIGHBOURS).filter(is_running).count() {
                NEIGHBOURS => Ok(()),
                found => Err(format!("{found} run")),
            }
        });
        service
    }

    fn measure(&self, what: &str) -> Measured {
        let [median, p99] = self.latency(what);
        Measured { median, p99, rate: self.rate(what) }
    }

    /// Sends events to all neighbours at a steady pace, and waits until they have all arrived.
    fn latency(&self, what: &str) -> [f64; 2] {
        let (first, begun) = (Utc::now(), Instant::now());
        let mut connection = self.scene.stream.connect().unwrap();
        for round in 1..=ROUNDS {
            for stream in &self.neighbours {
                let event = Event { time: Utc::now(), ..Event::new() };
                let _: String = stream.xadd(&event.data()).query(&mut connection).unwrap();
            }
            std::thread::sleep((PAUSE * round).saturating_sub(begun.elapsed())); // the pace is what is simulated
        }
        let rows = self.until_written(first, usize::try_from(ROUNDS).unwrap() * NEIGHBOURS, what);
        [0.5, 0.99].map(|part| {
            let took = "extract(epoch FROM written - time)::float8 * 1000";
            let sql = format!("SELECT percentile_cont({part}) WITHIN GROUP (ORDER BY {took}) {rows}");
            self.scene.database.value(&sql)
        })
    }

    /// Sends all neighbours many events at once, and returns how many were stored per second.
    fn rate(&self, what: &str) -> f64 {
        let first = Utc::now();
        for stream in &self.neighbours {
            let events = (0..BURST).map(|_| Event { time: Utc::now(), ..Event::new() }.data());
            stream.add_all(&events.collect::<Vec<_>>());
        }
        let rows = self.until_written(first, BURST * NEIGHBOURS, what);
        let sql =
            format!("SELECT extract(epoch FROM max(written) - '{}')::float8 {rows}", first.to_rfc3339());
        (BURST * NEIGHBOURS) as f64 / self.scene.database.value::<f64>(&sql)
    }

    /// Waits until `count` events since `first` have arrived, and returns the SQL for their rows.
    fn until_written(&self, first: DateTime<Utc>, count: usize, what: &str) -> String {
        let rows = format!("FROM seen WHERE time >= '{}'", first.to_rfc3339());
        until(&format!("all events of the neighbours, {what}"), || {
            match self.scene.database.try_value::<i64>(&format!("SELECT count(*) {rows}"))? {
                found if usize::try_from(found) == Ok(count) => Ok(()),
                found => Err(format!("{found} of {count}")),
            }
        });
        rows
    }

    /// Tells whether what `provoke` starts disturbs the neighbours, on a service of its own.
    fn try_beside<T>(&self, way: &str, provoke: impl FnOnce(&Self, &Stream) -> T) -> Result<(), String> {
        let hostile = self.scene.stream.sibling(&format!("hostile_{way}_{}", uuid::Uuid::new_v4()));
        let service = self.start(&hostile);
        self.measure("to warm up");
        let alone = self.measure("alone");
        let provoking = provoke(self, &hostile);
        let beside = self.measure(way);
        drop(provoking);
        service.crash(); // it may have much to do yet
        let report = format!(
            "{way:20} median {:5.1} ms, {:5.1} alone; p99 {:5.1} ms, {:5.1} alone; {:6.0} events/s, {:6.0} alone",
            beside.median, alone.median, beside.p99, alone.p99, beside.rate, alone.rate
        );
        eprintln!("{report}");
        match beside.p99 <= FACTOR * alone.p99 + GRAIN_MS && beside.rate >= SHARE * alone.rate {
            true => Ok(()),
            false => Err(report),
        }
    }
}

/// Lets one test measure at a time.
static MEASURING: Mutex<()> = Mutex::new(());

/// Makes the database one that has been in use for a while, with old files of its write-ahead log.
/// A new one writes zeros first, 16 MiB at a time, and every commit waits for them.
fn use_the_database(house: &House) {
    static USED: Once = Once::new();
    USED.call_once(|| {
        house.scene.database.execute(&format!(
            "SELECT count(pg_logical_emit_message(false, 'used', repeat('x', {}))) FROM generate_series(1, {})",
            1 << 20,
            USED_LOG_MIB
        ));
        house.scene.database.execute("CHECKPOINT");
    });
}

/// Checks that a tenant with this component, and with what `provoke` starts, slows nobody down.
fn does_not_slow_the_others_down<T>(way: &str, component: &[u8], provoke: impl Fn(&House, &Stream) -> T) {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let house = House::new();
    fs::write(house.guest(), component).unwrap();
    use_the_database(&house);
    let (mut reports, mut counted) = (Vec::new(), 0);
    loop {
        let before = Ticks::now();
        let Err(report) = house.try_beside(way, &provoke) else { return };
        let stolen = before.stolen_since();
        if stolen <= STOLEN {
            counted += 1;
        }
        reports.push(format!("{report}; {:.0} % of the processors stolen", stolen * 100.0));
        assert!(
            counted < ATTEMPTS && reports.len() < ATTEMPTS + STOLEN_ATTEMPTS,
            "the neighbours wait too long:\n{}",
            reports.join("\n")
        );
    }
}

/// Holds what the kernel has counted of the processors' time: all of it, and what a hypervisor gave to other machines.
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let numbers = stat.lines().next().unwrap().split_whitespace().skip(1);
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user and nice too.
        let numbers: Vec<u64> = numbers.take(8).map(|number| number.parse().unwrap()).collect();
        Self { all: numbers.iter().sum(), stolen: numbers[7] }
    }

    /// Returns the part of the time since then that was stolen.
    fn stolen_since(&self) -> f64 {
        let now = Self::now();
        (now.stolen - self.stolen) as f64 / (now.all - self.all).max(1) as f64
    }
}

/// Fills the hostile tenant's stream with entries that provoke it.
fn with_a_full_stream(_: &House, hostile: &Stream) -> Provoker {
    Provoker::start(hostile, BACKLOG)
}

macro_rules! hostile {
    ($($way:ident)*) => { $(
        #[test]
        fn $way() {
            let component = fs::read(guests::hostile(stringify!($way))).unwrap();
            does_not_slow_the_others_down(stringify!($way), &component, with_a_full_stream);
        }
    )* };
}
sluicegate_tests::hostile_guests!(hostile);

macro_rules! handmade {
    ($($way:ident)*) => { $(
        #[test]
        fn $way() {
            let component = guests::handmade(stringify!($way));
            does_not_slow_the_others_down(stringify!($way), &component, with_a_full_stream);
        }
    )* };
}
sluicegate_tests::handmade_guests!(handmade);

/// Replaces a file again and again, until this value is dropped.
struct Replacing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Replacing {
    fn start(file: PathBuf, component: Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let new = file.with_extension("new");
            for label in (0..=u8::MAX).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                fs::write(&new, guests::relabelled(&component, label)).unwrap();
                fs::rename(&new, &file).unwrap();
                std::thread::sleep(REPLACED_EVERY); // what is simulated
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whenever the tenant's rules are asked, their process ends.
#[test]
fn dying_workers() {
    does_not_slow_the_others_down("dying_workers", &guests::faulty("aborts", false), with_a_full_stream);
}

/// There is always another version whose process ends when it starts.
#[test]
fn dying_at_load() {
    let dying = guests::faulty("aborts", true);
    does_not_slow_the_others_down("dying_at_load", guests::DEFAULT, |house, _| {
        Replacing::start(house.guest(), dying.clone())
    });
}

/// Keeps processors busy until it is dropped: two processes for each.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Self {
        let spinning = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let processors = std::thread::available_parallelism().unwrap().get();
        Self((0..2 * processors).map(|_| spinning()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The time limit is processor time: a guest that takes a good part of it is not to blame for others.
#[test]
fn a_busy_machine_costs_no_entry() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let scene = Scene::new();
    // About twenty milliseconds of work for an entry, and a limit of a hundred, which is little by the clock of a busy
    // machine.
    let working = guests::handmade_of(
        "(func $provoked (param i32) (local $i i32)
            (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 15000000)))))",
    );
    let service = with_guest(&scene, &working).set("GUEST_TIME_LIMIT", "100ms").set("BATCH_SIZE", 1).start();
    let busy = Busy::new();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < BUSY {
        let entries: Vec<_> = (0..10).map(|_| guests::provoking(&Event::new(), None)).collect();
        scene.stream.add_all(&entries);
        sent += 10;
        scene.stream.until_drained();
    }
    drop(busy);
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, sent, 0]);
}

/// There is always another version with images of 160 MiB, whether or not there is room for them.
#[test]
fn endless_images() {
    let sparse = guests::padded(&guests::sparse(guests::DEFAULT, 10), 8 << 20);
    does_not_slow_the_others_down("endless_images", guests::DEFAULT, |house, _| {
        Replacing::start(house.guest(), sparse.clone())
    });
}

/// There is always another version of 48 MiB to hash, to read and to compile.
#[test]
fn endless_copies() {
    let large = guests::padded(guests::DEFAULT, 48 << 20);
    does_not_slow_the_others_down("endless_copies", guests::DEFAULT, |house, _| {
        Replacing::start(house.guest(), large.clone())
    });
}

/// There is always another version to compile, and each is work for seconds.
#[test]
fn endless_compilation() {
    let function = "(func (param i32) (result i32) local.get 0 ".to_owned()
        + &"i32.const 3 i32.mul local.get 0 i32.xor ".repeat(100)
        + ")";
    let slow = guests::handmade_of(&(function.repeat(10_000) + "(func $provoked (param i32))"));
    does_not_slow_the_others_down("endless_compilation", guests::DEFAULT, |house, _| {
        Replacing::start(house.guest(), slow.clone())
    });
}
