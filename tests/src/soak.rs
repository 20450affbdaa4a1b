//! Random schedules of faults: three replicas at work under a load, and something goes wrong every second.
//!
//! The seed decides which faults come in which order, so a schedule can be repeated, even if not to the millisecond.
//! A run has rounds. At the end of each the faults stop, everything must be done within a bound, and the ledger must
//! add up; then the tables are emptied, so that a run may last for hours.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use redis::cmd;
use rustix::process::Signal;
use sluicegate::batch::Digest;
use sluicegate::demo::ledger::Report;
use sluicegate::demo::servers::{Options, Postgres, Redis};

use crate::guests::{DEFAULT, relabelled};
use crate::load::Load;
use crate::proxy::{Fault, Proxy};
use crate::scene::Scene;
use crate::service::{Metrics, Service};
use crate::wait::until_within;

/// After the last fault. A silent PostgreSQL is given up after 30 s, and what a replica has held meanwhile is claimed.
const BOUND: Duration = Duration::from_secs(120);
const REPLICAS: usize = 3;
/// Faults come a hundred times as often as in life, and each may cost an entry a delivery. So an entry may be given up
/// that is not to blame; but one in so many at most.
const GIVEN_UP_MAX_IN: u64 = 1_000;
/// Between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// A run. `SOAK_SEED` in the environment repeats one.
pub struct Soak {
    random: Rng,
    seed: u64,
    /// Whether replica 0 is never killed, so that its memory can be watched.
    spare_first: bool,
    redis: Redis,
    postgres: Postgres,
    to_redis: Proxy,
    to_postgres: Proxy,
    scene: Scene,
    replicas: Vec<Service>,
    guest: PathBuf,
    versions: [Vec<u8>; 2],
    faults: u64,
    started: Instant,
    told: Instant,
    /// Resident memory of replica 0 at the end of each round.
    memory: Vec<u64>,
}

impl Soak {
    /// On private servers.
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
        let guest = scene.folder().join("guest.wasm");
        fs::write(&guest, DEFAULT).expect("a guest is written");
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
            guest,
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
        let launch =
            launch.set("CONSUMER_NAME", format!("replica-{number}")).set("GUEST", self.guest.display());
        let launch = launch.set("CLAIM_MIN_IDLE_MS", 3_000);
        launch.set("MONITORING_INTERVAL_MS", 1_000).set("BATCH_SIZE", 50).set("BLOCK_MS", 200).start_unready()
    }

    /// One round: faults for so long, then everything must be done, and add up.
    pub fn round(&mut self, duration: Duration) -> Report {
        let mut load = Load::start(&self.scene.stream, self.random.u64(..), 4);
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
        let report = self.settle(&load);
        assert!(
            report.adds_up(),
            "SOAK_SEED={}: {:#?}\n{}",
            self.seed,
            report.discrepancies,
            self.replicas.iter().map(Service::log_tail).collect::<String>()
        );
        assert!(
            report.given_up <= 1 + report.produced / GIVEN_UP_MAX_IN,
            "SOAK_SEED={}: {} entries of {} were given up",
            self.seed,
            report.given_up,
            report.produced
        );
        self.memory.push(self.replicas[0].memory_bytes());
        self.scene.database.execute("TRUNCATE events, dead_letters");
        let trimmed: u64 =
            self.scene.stream.run(cmd("XTRIM").arg(&self.scene.stream.name).arg("MAXLEN").arg(0));
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

    /// Resident memory of replica 0 at the end of each round.
    pub fn memory(&self) -> &[u64] {
        &self.memory
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Ends the replicas as an operator would.
    pub fn stop(mut self) {
        for replica in self.replicas.drain(..) {
            replica.stop().metrics().tally();
        }
    }

    fn settle(&mut self, load: &Load) -> Report {
        let stream = &self.scene.stream;
        let start = Instant::now();
        until_within(BOUND, &format!("everything done after the faults of SOAK_SEED={}", self.seed), || {
            match stream.is_drained() {
                true => Ok(()),
                false => Err(format!(
                    "pending {:?}, lag {:?}",
                    stream.group_info("pending"),
                    stream.group_info("lag")
                )),
            }
        });
        // A replica that was robbed of its entries may still be writing them, which adds nothing
        // now, but would after the tables were emptied.
        let lines = |replica: &Service| Metrics::all(&replica.log());
        let before: Vec<usize> = self.replicas.iter().map(|replica| lines(replica).len()).collect();
        until_within(BOUND, "nothing in flight in any replica", || {
            let idle = |(replica, before): (&Service, &usize)| {
                let all = lines(replica);
                all.len() > *before + 1 && all.last().is_some_and(|metrics| metrics.get("in_flight") == 0)
            };
            sleep(Duration::from_millis(200));
            if self.replicas.iter().zip(&before).all(idle) { Ok(()) } else { Err("something".to_owned()) }
        });
        eprintln!("[{:>5}s] settled in {:?}", self.started.elapsed().as_secs(), start.elapsed());
        let versions = [0, 1].map(|i| Digest::of(&self.versions[i]));
        load.audit(&self.scene, &versions, true)
    }

    /// A replica ends only when it is told to.
    fn check_replicas(&mut self) {
        for number in 0..self.replicas.len() {
            assert!(
                !self.replicas[number].has_ended(),
                "SOAK_SEED={}: replica {number} has ended by itself:\n{}",
                self.seed,
                self.replicas[number].log_tail()
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

    /// A replica that may be killed.
    fn victim(&mut self) -> usize {
        self.random.usize(usize::from(self.spare_first)..REPLICAS)
    }

    fn fault(&mut self) {
        self.faults += 1;
        match self.random.u32(..14) {
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
            _ => self.swap(),
        }
    }

    fn crash_replica(&mut self) {
        let victim = self.victim();
        self.replicas.remove(victim).crash();
        self.wait(0..500);
        let again = self.launch(victim);
        self.replicas.insert(victim, again);
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
        self.wait(100..4_500); // longer than CLAIM_MIN_IDLE_MS: it may be robbed meanwhile
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

    /// Versions that judge alike: an entry that was committed under one and is redelivered under the other ends as it did.
    fn swap(&mut self) {
        let version = &self.versions[usize::from(self.random.bool())];
        let new = self.guest.with_extension("new");
        fs::write(&new, version).expect("a guest is written");
        fs::rename(&new, &self.guest).expect("a guest is renamed");
    }
}
