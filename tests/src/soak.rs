//! Runs random schedules of faults: three replicas are at work under a load, and something goes
//! wrong every second.
//!
//! Beside the tenant that is watched, the replicas serve two others. One is hostile, and misbehaves
//! in another way in each round. The rules of the other count what they accept, so that an entry
//! that is decided twice shows.
//!
//! The seed decides which faults come in which order, so a schedule can be repeated, even if not to
//! the millisecond. A run has rounds. At the end of each the faults stop, everything must be done
//! within a bound, and the ledger must add up; then the tables are emptied, so that a run may last
//! for hours.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use fastrand::Rng;
use redis::cmd;
use rustix::process::{Signal, kill_process};
use sluicegate::batch::Digest;
use sluicegate_demo::ledger::Report;
use sluicegate_demo::servers::{Options, Postgres, Redis};

use crate::events::Event;
use crate::guests::{self, DEFAULT, HOSTILE, relabelled};
use crate::load::Load;
use crate::provoker::Provoker;
use crate::proxy::{Fault, Proxy};
use crate::scene::Scene;
use crate::service::{Metrics, Service};
use crate::stream::Stream;
use crate::wait::{block_on, until_within};

/// Bounds the time after the last fault. A silent PostgreSQL is given up after 30 s, and what a
/// replica has held meanwhile is claimed.
const BOUND: Duration = Duration::from_secs(120);
const REPLICAS: usize = 3;
/// One entry in this many may be given up that is not to blame. Faults come a hundred times as
/// often as in life, and each may cost an entry a delivery.
const ONE_GIVEN_UP_IN: u64 = 1_000;
/// Names the tenant that is watched. Its table is `events`.
const WATCHED: &str = "default";
/// Names the tenant whose rules count.
const COUNTING: &str = "counting";
/// Makes what those rules need, and a trigger that fails for purchases, as `raising` says.
const COUNTED: &str = "CREATE TABLE users (user_id TEXT PRIMARY KEY, plan TEXT NOT NULL);
    CREATE TABLE user_activity (user_id TEXT PRIMARY KEY, events BIGINT NOT NULL, last_seen TIMESTAMPTZ NOT NULL);
    CREATE TABLE counted (user_id TEXT, time TIMESTAMPTZ, at TIMESTAMPTZ DEFAULT clock_timestamp(), by INT DEFAULT pg_backend_pid());
    CREATE TABLE events_counting (time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
        user_id TEXT NOT NULL, properties JSONB, PRIMARY KEY (event_id, time));
    CREATE TABLE raising (code TEXT);
    CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE said TEXT; BEGIN
        SELECT code INTO said FROM raising LIMIT 1;
        IF FOUND AND NEW.event_type = 'purchase' THEN RAISE EXCEPTION 'said so' USING ERRCODE = said; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER raise BEFORE INSERT ON events_counting FOR EACH ROW EXECUTE FUNCTION raise();";
/// Drops the chunks of the hostile tenant, each in a transaction of its own: its events are scattered over the
/// centuries, and one transaction that locked all their chunks would exhaust PostgreSQL's table of locks.
const DROP_HOSTILE_CHUNKS: &str = "DO $$ DECLARE chunk regclass; BEGIN
    FOR chunk IN SELECT show_chunks('events_hostile') LOOP
        EXECUTE format('DROP TABLE %s', chunk);
        COMMIT;
    END LOOP; END $$";
/// Lists errors of which only time tells whose fault they are.
const CODES: [&str; 6] = ["58030", "40001", "XX000", "0A000", "42501", "P0001"];
/// Names the faults, by their numbers.
const FAULTS: [&str; 20] = [
    "crash",
    "crash",
    "crash",
    "stop",
    "pause",
    "redis killed",
    "postgres killed",
    "redis paused",
    "postgres paused",
    "network",
    "network",
    "network",
    "network",
    "swap",
    "chunk locked",
    "set back",
    "raise",
    "raise",
    "workers killed",
    "workers killed",
];
/// Keeps this many entries of the hostile tenant waiting to be read.
const PROVOCATIONS: u64 = 20;
/// Bounds how long the hostile guest may take. It is short, so that a round ends soon.
const HOSTILE_TIME_LIMIT_MS: u64 = 50;
/// Bounds the workers of a replica: one for each tenant, and one more of a tenant whose rules are being swapped.
const MAX_WORKERS: usize = 4;
/// Sets the time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Holds a run. `SOAK_SEED` in the environment repeats one.
pub struct Soak {
    random: Rng,
    seed: u64,
    /// Says whether replica 0 is never killed, so that its memory can be watched.
    spare_first: bool,
    redis: Redis,
    postgres: Postgres,
    to_redis: Proxy,
    to_postgres: Proxy,
    scene: Scene,
    replicas: Vec<Service>,
    hostile: Stream,
    counting: Stream,
    guest: PathBuf,
    hostile_guest: PathBuf,
    versions: [Vec<u8>; 2],
    faults: u64,
    started: Instant,
    told: Instant,
    /// Holds the resident memory of replica 0 at the end of each round.
    memory: Vec<u64>,
}

impl Soak {
    /// Starts a run on private servers.
    pub fn start(spare_first: bool) -> Self {
        let given = std::env::var("SOAK_SEED").ok().filter(|seed| !seed.is_empty());
        let seed = given.map_or_else(
            || RandomState::new().hash_one(()) % 1_000_000,
            |seed| seed.parse().expect("SOAK_SEED is a number"),
        );
        eprintln!("SOAK_SEED={seed} repeats this schedule");
        let options = Options { settings: vec![("appendfsync".to_owned(), "always".to_owned())] };
        let redis = Redis::start(&options).expect("a private redis");
        let postgres = Postgres::start(&Options::default()).expect("a private postgres");
        let scene = Scene::on(&redis.url(), &postgres.url());
        scene.database.execute("CREATE TABLE notes (text TEXT)");
        scene.database.execute(COUNTED);
        let hostile = scene.stream.sibling("hostile");
        let counting = scene.stream.sibling("counting");
        let [guest, hostile_guest] =
            ["guest", "hostile"].map(|name| scene.folder().join(name).with_extension("wasm"));
        for file in [&guest, &hostile_guest] {
            fs::write(file, DEFAULT).expect("a guest is written");
        }
        fs::write(
            scene.folder().join("sluicegate.toml"),
            tenants(&scene.stream, &guest, &hostile, &hostile_guest) + &counting_tenant(&counting),
        )
        .expect("settings are written");
        let mut soak = Self {
            random: Rng::with_seed(seed),
            seed,
            spare_first,
            to_redis: Proxy::start(&redis.url()),
            to_postgres: Proxy::start(&postgres.url()),
            redis,
            postgres,
            scene,
            replicas: Vec::new(),
            hostile,
            counting,
            guest,
            hostile_guest,
            versions: [DEFAULT.to_vec(), relabelled(DEFAULT, 1)],
            faults: 0,
            started: Instant::now(),
            told: Instant::now(),
            memory: Vec::new(),
        };
        soak.replicas = (0..REPLICAS).map(|number| soak.launch(number)).collect();
        soak
    }

    fn launch(&self, number: usize) -> Service {
        let launch = self.scene.service();
        let launch = launch.set("REDIS_URL", self.to_redis.url(self.scene.stream.url()));
        let launch = launch.set("POSTGRES_URL", self.to_postgres.url(&self.scene.database.url()));
        let launch = launch.set("CONSUMER_NAME", format!("replica-{number}")).unset("STREAM_NAME");
        let launch = launch.set("CLAIM_MIN_IDLE", "3s");
        // The service would log much about a hostile tenant, and the log is read again and again.
        let launch =
            launch.set("RUST_LOG", "info,sluicegate::pipeline::rejections=off,sluicegate::sandbox=off");
        launch.set("MONITORING_INTERVAL", "1s").set("BATCH_SIZE", 50).set("BLOCK", "200ms").start_unready()
    }

    /// Runs one round: faults for `duration`, then everything must be done, and add up.
    pub fn round(&mut self, duration: Duration) -> Report {
        let way = HOSTILE[self.random.usize(..HOSTILE.len())];
        eprintln!("[{:>5}s] the hostile tenant: {way}", self.started.elapsed().as_secs());
        replace(&self.hostile_guest, &fs::read(guests::hostile(way)).expect("a component is read"));
        let provoker = Provoker::start(&self.hostile, PROVOCATIONS);
        let mut load = Load::start(&self.scene.stream, self.random.u64(..), 4);
        let counted = Counted::start(&self.counting);
        // The snapshot is like that of a backup, which keeps the versions of rows.
        let mut snapshot = self.scene.database.connect();
        let _ =
            block_on(sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").execute(&mut snapshot));
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.fault();
            self.wait(100..1_200);
            self.check_replicas();
            if self.told.elapsed() >= TELL_EVERY {
                self.tell(&load);
            }
        }
        load.stop();
        drop((provoker, snapshot));
        let counted = counted.stop();
        self.scene.database.execute("DELETE FROM raising");
        let report = self.settle(&load);
        assert!(
            report.adds_up(),
            "SOAK_SEED={}: {:#?}\n{}",
            self.seed,
            report.discrepancies,
            self.replicas.iter().map(Service::log_tail).collect::<String>()
        );
        assert!(
            report.given_up <= 1 + report.produced / ONE_GIVEN_UP_IN,
            "SOAK_SEED={}: {} entries of {} were given up",
            self.seed,
            report.given_up,
            report.produced
        );
        self.check_counts(counted);
        self.memory.push(self.replicas[0].memory_bytes());
        for replica in &self.replicas {
            let workers = replica.workers().len();
            assert!(workers <= MAX_WORKERS, "SOAK_SEED={}: a replica with {workers} workers", self.seed);
        }
        self.scene.database.execute(DROP_HOSTILE_CHUNKS);
        self.scene.database.execute(
            "TRUNCATE events, events_hostile, events_counting, user_activity, counted, notes, dead_letters",
        );
        let trim =
            |stream: &Stream| -> u64 { stream.run(cmd("XTRIM").arg(&stream.name).arg("MAXLEN").arg(0)) };
        let trimmed = trim(&self.scene.stream);
        trim(&self.hostile);
        trim(&self.counting);
        eprintln!(
            "[{:>5}s] round done: {} entries, {} without an answer, {} rows, {} letters, {} given up, {trimmed} trimmed; everything adds up",
            self.started.elapsed().as_secs(),
            report.produced,
            report.unanswered,
            report.rows,
            report.all_letters(),
            report.given_up,
        );
        report
    }

    pub fn memory(&self) -> &[u64] {
        &self.memory
    }

    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Ends the replicas as an operator would.
    pub fn stop(mut self) {
        for replica in self.replicas.drain(..) {
            let last = Metrics::all_of(WATCHED, &replica.stop().log).pop();
            last.expect("a metrics line").tally();
        }
    }

    /// Checks that what the rules counted is counted once for each row, and for nothing else.
    fn check_counts(&self, sent: [u64; 2]) {
        let count = |sql: &str| self.scene.database.value::<i64>(sql).unsigned_abs();
        let rows = count("SELECT count(*) FROM events_counting");
        let counted = count("SELECT coalesce(sum(events), 0)::bigint FROM user_activity");
        let letters = count("SELECT count(*) FROM dead_letters WHERE tenant = 'counting'");
        let [sure, perhaps] = sent;
        let twice =
            "SELECT coalesce(string_agg(format('%s of %s: %s', user_id, time, whens), E'\n'), '') FROM (
            SELECT user_id, time, string_agg(format('%s by %s', at, by), ', ' ORDER BY at) AS whens
            FROM counted GROUP BY user_id, time HAVING count(*) > 1) AS twice";
        assert_eq!(
            rows,
            counted,
            "SOAK_SEED={}: rows and what was counted for them; counted twice:\n{}",
            self.seed,
            self.scene.database.value::<String>(twice)
        );
        assert!(
            (sure..=sure + perhaps).contains(&(rows + letters)),
            "SOAK_SEED={}: {rows} rows and {letters} letters of {sure} entries and {perhaps} without an answer",
            self.seed
        );
        eprintln!(
            "[{:>5}s] {rows} rows counted, {letters} letters of the counting tenant",
            self.started.elapsed().as_secs()
        );
    }

    fn settle(&mut self, load: &Load) -> Report {
        let start = Instant::now();
        for stream in [&self.scene.stream, &self.hostile, &self.counting] {
            until_within(
                BOUND,
                &format!("everything done after the faults of SOAK_SEED={}", self.seed),
                || match stream.is_drained() {
                    true => Ok(()),
                    false => Err(format!(
                        "{}: pending {:?}, lag {:?}",
                        stream.name,
                        stream.group_info("pending"),
                        stream.group_info("lag")
                    )),
                },
            );
        }
        // A replica whose entries were claimed may still be writing them, which adds nothing now,
        // but would after the tables were emptied.
        for tenant in [WATCHED, "hostile", COUNTING] {
            let lines = |replica: &Service| Metrics::all_of(tenant, &replica.log());
            let before: Vec<usize> = self.replicas.iter().map(|replica| lines(replica).len()).collect();
            until_within(BOUND, "nothing in flight in any replica", || {
                let busy = |(replica, before): (&Service, &usize)| {
                    let all = lines(replica);
                    let is_idle = all.len() > *before + 1
                        && all.last().is_some_and(|metrics| metrics.get("in_flight") == 0);
                    (!is_idle).then(|| format!("{} lines more: {:?}", all.len() - before, all.last()))
                };
                sleep(Duration::from_millis(200));
                match self.replicas.iter().zip(&before).filter_map(busy).collect::<Vec<_>>().as_slice() {
                    [] => Ok(()),
                    busy => Err(format!("{tenant}: {busy:#?}")),
                }
            });
        }
        eprintln!("[{:>5}s] settled in {:?}", self.started.elapsed().as_secs(), start.elapsed());
        let versions = [0, 1].map(|i| Digest::new(&self.versions[i]));
        load.audit(&self.scene, &versions, true)
    }

    /// Checks that no replica has ended by itself, nor the watched tenant in one.
    fn check_replicas(&mut self) {
        for (number, replica) in self.replicas.iter_mut().enumerate() {
            let failed = replica.log().lines().any(|line| {
                line.contains("this tenant has failed") && line.contains(&format!("{{tenant={WATCHED}}}"))
            });
            assert!(
                !failed && !replica.has_ended(),
                "SOAK_SEED={}: replica {number} has ended by itself:\n{}",
                self.seed,
                replica.log_tail()
            );
        }
    }

    fn tell(&mut self, load: &Load) {
        self.told = Instant::now();
        let memory: Vec<u64> = self.replicas.iter().map(|replica| replica.memory_bytes() >> 20).collect();
        eprintln!(
            "[{:>5}s] {} faults, {} entries in this round, resident {memory:?} MiB",
            self.started.elapsed().as_secs(),
            self.faults,
            load.sent(),
        );
    }

    fn wait(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.random.u64(millis)));
    }

    /// Picks a replica that may be killed.
    fn victim(&mut self) -> usize {
        self.random.usize(usize::from(self.spare_first)..REPLICAS)
    }

    fn fault(&mut self) {
        self.faults += 1;
        let fault = self.random.u32(..20);
        let since = self.started.elapsed().as_secs_f64();
        eprintln!("[{since:7.1}s] {}: {}", chrono::Utc::now().format("%T%.3f"), FAULTS[fault as usize]);
        match fault {
            0..=2 => self.crash_replica(),
            3 => self.stop_replica(),
            4 => self.pause_replica(),
            5 => {
                self.redis.kill().expect("redis is killed");
                self.wait(0..800);
                self.redis.start_again().expect("redis starts again");
            }
            6 => {
                self.postgres.kill().expect("postgres is killed");
                self.wait(0..800);
                self.postgres.start_again().expect("postgres starts again");
            }
            7 => {
                self.redis.pause().expect("redis is paused");
                self.wait(100..3_000);
                self.redis.resume().expect("redis is resumed");
            }
            8 => {
                self.postgres.pause().expect("postgres is paused");
                self.wait(100..3_000);
                self.postgres.resume().expect("postgres is resumed");
            }
            9..=12 => self.disturb_network(),
            13 => self.swap(),
            14 => self.lock_a_chunk(),
            15 => self.set_back(),
            16..=17 => self.raise(),
            _ => self.kill_workers(),
        }
    }

    fn crash_replica(&mut self) {
        let victim = self.victim();
        self.replicas.remove(victim).crash();
        self.wait(0..500);
        let again = self.launch(victim);
        self.replicas.insert(victim, again);
    }

    /// Kills the processes in which a replica's guests run, as the kernel does for want of memory.
    fn kill_workers(&mut self) {
        let chosen = self.random.usize(..REPLICAS);
        for worker in self.replicas[chosen].workers() {
            // It may have ended meanwhile.
            let _ = kill_process(worker, Signal::KILL);
        }
    }

    fn stop_replica(&mut self) {
        let victim = self.victim();
        self.replicas.remove(victim).end_with(Signal::TERM);
        let again = self.launch(victim);
        self.replicas.insert(victim, again);
    }

    fn pause_replica(&mut self) {
        let chosen = self.random.usize(..REPLICAS);
        self.replicas[chosen].signal(Signal::STOP);
        self.wait(100..4_500); // longer than CLAIM_MIN_IDLE: its entries may be claimed meanwhile
        self.replicas[chosen].signal(Signal::CONT);
    }

    fn disturb_network(&mut self) {
        let fault = match self.random.u32(..5) {
            0 | 1 => Fault::Cut,
            2 => Fault::Delay(Duration::from_millis(self.random.u64(10..300))),
            3 => Fault::HalfOpen,
            _ => Fault::ResetAfter(self.random.usize(10..30_000)),
        };
        let proxy = if self.random.bool() { &self.to_redis } else { &self.to_postgres };
        proxy.set(fault);
        sleep(Duration::from_millis(self.random.u64(50..2_000)));
        proxy.set(Fault::None);
    }

    /// Locks a chunk, as a compression or a reorder does. Without an answer, PostgreSQL is away.
    fn lock_a_chunk(&mut self) {
        let Ok(chunk) = self.scene.database.try_value::<String>(
            "SELECT coalesce(max(format('%I.%I', chunk_schema, chunk_name)), 'notes')
             FROM timescaledb_information.chunks WHERE hypertable_name IN ('events', 'events_counting')",
        ) else {
            return;
        };
        let mut connection = self.scene.database.connect();
        let lock = format!("BEGIN; LOCK TABLE {chunk}");
        let _ = block_on(sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut connection));
        self.wait(100..4_500); // longer than CLAIM_MIN_IDLE
    }

    /// Sets the group back, as an operator does who reads a manual in haste.
    fn set_back(&mut self) {
        let mut command = cmd("XGROUP");
        match self.random.bool() {
            true => command.arg("SETID").arg(&self.counting.name).arg(&self.counting.group).arg("0"),
            false => command.arg("DESTROY").arg(&self.counting.name).arg(&self.counting.group),
        };
        let _: redis::RedisResult<redis::Value> = self.counting.try_run(&command);
    }

    /// Makes a trigger fail for a while, for some rows.
    fn raise(&mut self) {
        let code = CODES[self.random.usize(..CODES.len())];
        self.scene.database.execute(&format!("INSERT INTO raising VALUES ('{code}')"));
        self.wait(100..2_000);
        self.scene.database.execute("DELETE FROM raising");
    }

    /// Swaps versions that judge alike, so that a redelivered entry ends under either as it did.
    fn swap(&mut self) {
        replace(&self.guest, &self.versions[usize::from(self.random.bool())]);
    }
}

/// Sends entries for the tenant that counts, each once, even if no answer comes.
struct Counted {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<[u64; 2]>,
}

impl Counted {
    fn start(stream: &Stream) -> Self {
        let (stop, stream) = (Arc::new(AtomicBool::new(false)), stream.another());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut sure, mut perhaps, mut connection) = (0, 0, None);
            let mut types = ["page_view", "purchase", "login"].into_iter().cycle();
            while !stopped.load(Ordering::Relaxed) {
                let event = Event {
                    user_id: format!("user-{}", sure % 7),
                    ..Event::of_type(types.next().unwrap_or_default())
                };
                if connection.is_none() {
                    connection = stream.connect().ok();
                }
                if let Some(open) = &mut connection {
                    match stream.xadd(&event.data()).query::<String>(open) {
                        Ok(_) => sure += 1,
                        Err(_) => {
                            perhaps += 1;
                            connection = None;
                        }
                    }
                }
                sleep(Duration::from_millis(10)); // the pace
            }
            [sure, perhaps]
        });
        Self { stop, thread }
    }

    /// Returns how many entries were taken, and how many have perhaps been.
    fn stop(self) -> [u64; 2] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not panic")
    }
}

/// Returns the settings of the tenant whose rules count.
fn counting_tenant(stream: &Stream) -> String {
    format!(
        r#"
[tenants.{COUNTING}]
stream_name = "{}"
guest = {:?}
row_retry = "1s"

[tenants.{COUNTING}.grants]
stream = true
publish = {{ purchases = 100_000 }}
metrics = true
statements = ["user_plan", "touch_user"]

[statements.user_plan]
sql = "SELECT plan FROM users WHERE user_id = $1"
parameters = ["text"]

[statements.touch_user]
sql = """WITH journal AS (INSERT INTO counted VALUES ($1, $2))
         INSERT INTO user_activity (user_id, events, last_seen) VALUES ($1, 1, $2)
         ON CONFLICT (user_id) DO UPDATE SET events = user_activity.events + 1"""
parameters = ["text", "timestamp"]
"#,
        stream.name,
        guests::built("guest_enrich.wasm").display().to_string()
    )
}

/// Replaces the component as an operator does: no half of it is ever seen.
fn replace(guest: &Path, component: &[u8]) {
    let new = guest.with_extension("new");
    fs::write(&new, component).expect("a guest is written");
    fs::rename(&new, guest).expect("a guest is renamed");
}

/// Returns the settings of one tenant that is watched, and one that is hostile and has grants.
fn tenants(watched: &Stream, guest: &Path, hostile: &Stream, hostile_guest: &Path) -> String {
    let tenant = |name: &str, stream: &Stream, guest: &Path| {
        format!(
            "[tenants.{name}]\nstream_name = \"{}\"\nguest = {:?}\n",
            stream.name,
            guest.display().to_string()
        )
    };
    // A small batch whose entries all time out takes less than CLAIM_MIN_IDLE.
    let limit = format!("guest_time_limit = \"{HOSTILE_TIME_LIMIT_MS}ms\"\nbatch_size = 10\n");
    let grants = guests::grants("tenants.hostile.", &hostile.sibling("published").name);
    tenant(WATCHED, watched, guest) + &tenant("hostile", hostile, hostile_guest) + &limit + &grants
}
