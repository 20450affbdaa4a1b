//! Random schedules of faults: three replicas at work under a load, and something goes wrong every second.
//!
//! Beside the tenant that is watched they serve a hostile one, which misbehaves in another way in each round.
//!
//! The seed decides which faults come in which order, so a schedule can be repeated, even if not to the millisecond.
//! A run has rounds. At the end of each the faults stop, everything must be done within a bound, and the ledger must
//! add up; then the tables are emptied, so that a run may last for hours.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastrand::Rng;
use redis::cmd;
use rustix::process::Signal;
use sluicegate::batch::Digest;
use sluicegate::demo::ledger::Report;
use sluicegate::demo::servers::{Options, Postgres, Redis};

use crate::guests::{self, DEFAULT, HOSTILE, relabelled};
use crate::load::Load;
use crate::provoker::Provoker;
use crate::proxy::{Fault, Proxy};
use crate::scene::Scene;
use crate::service::{Metrics, Service};
use crate::stream::Stream;
use crate::wait::until_within;

/// After the last fault. A silent PostgreSQL is given up after 30 s, and what a replica has held meanwhile is claimed.
const BOUND: Duration = Duration::from_secs(120);
const REPLICAS: usize = 3;
/// Faults come a hundred times as often as in life, and each may cost an entry a delivery. So an entry may be given up
/// that is not to blame; but one in so many at most.
const GIVEN_UP_MAX_IN: u64 = 1_000;
/// The tenant that is watched. Its table is `events`.
const WATCHED: &str = "default";
/// Entries of the hostile tenant that wait to be read.
const PROVOCATIONS: u64 = 20;
/// How long its guest may take. Short, so that the end of a round is not waited for long.
const HOSTILE_TIME_LIMIT_MS: u64 = 50;
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
    hostile: Stream,
    guest: PathBuf,
    hostile_guest: PathBuf,
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
        scene.database.execute("CREATE TABLE notes (text TEXT)");
        let hostile = scene.stream.sibling("hostile");
        let [guest, hostile_guest] =
            ["guest", "hostile"].map(|name| scene.folder().join(name).with_extension("wasm"));
        for file in [&guest, &hostile_guest] {
            fs::write(file, DEFAULT).expect("a guest is written");
        }
        fs::write(
            scene.folder().join("sluicegate.toml"),
            tenants(&scene.stream, &guest, &hostile, &hostile_guest),
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
        let launch = launch.set("CLAIM_MIN_IDLE_MS", 3_000);
        // A hostile tenant has much to be told of, and the log is read again and again.
        let launch =
            launch.set("RUST_LOG", "info,sluicegate::pipeline::rejections=off,sluicegate::sandbox=off");
        launch.set("MONITORING_INTERVAL_MS", 1_000).set("BATCH_SIZE", 50).set("BLOCK_MS", 200).start_unready()
    }

    /// One round: faults for so long, then everything must be done, and add up.
    pub fn round(&mut self, duration: Duration) -> Report {
        let way = HOSTILE[self.random.usize(..HOSTILE.len())];
        eprintln!("[{:>5}s] the hostile tenant: {way}", self.started.elapsed().as_secs());
        replace(&self.hostile_guest, &fs::read(guests::hostile(way)).expect("a component is read"));
        let provoker = Provoker::start(&self.hostile, PROVOCATIONS);
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
        drop(provoker);
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
        self.scene.database.execute("TRUNCATE events, events_hostile, notes, dead_letters");
        let trim =
            |stream: &Stream| -> u64 { stream.run(cmd("XTRIM").arg(&stream.name).arg("MAXLEN").arg(0)) };
        let trimmed = trim(&self.scene.stream);
        trim(&self.hostile);
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
            let last = Metrics::all_of(WATCHED, &replica.stop().log).pop();
            last.expect("a metrics line").tally();
        }
    }

    fn settle(&mut self, load: &Load) -> Report {
        let start = Instant::now();
        for stream in [&self.scene.stream, &self.hostile] {
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
        // A replica that was robbed of its entries may still be writing them, which adds nothing
        // now, but would after the tables were emptied.
        for tenant in [WATCHED, "hostile"] {
            let lines = |replica: &Service| Metrics::all_of(tenant, &replica.log());
            let before: Vec<usize> = self.replicas.iter().map(|replica| lines(replica).len()).collect();
            until_within(BOUND, "nothing in flight in any replica", || {
                let idle = |(replica, before): (&Service, &usize)| {
                    let all = lines(replica);
                    all.len() > *before + 1 && all.last().is_some_and(|metrics| metrics.get("in_flight") == 0)
                };
                sleep(Duration::from_millis(200));
                if self.replicas.iter().zip(&before).all(idle) { Ok(()) } else { Err("something".to_owned()) }
            });
        }
        eprintln!("[{:>5}s] settled in {:?}", self.started.elapsed().as_secs(), start.elapsed());
        let versions = [0, 1].map(|i| Digest::of(&self.versions[i]));
        load.audit(&self.scene, &versions, true)
    }

    /// A replica ends only when it is told to, and what is watched does not end in it either.
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
        replace(&self.guest, &self.versions[usize::from(self.random.bool())]);
    }
}

/// As an operator does it: no half of a component is ever seen.
fn replace(guest: &Path, component: &[u8]) {
    let new = guest.with_extension("new");
    fs::write(&new, component).expect("a guest is written");
    fs::rename(&new, guest).expect("a guest is renamed");
}

/// The settings: one tenant that is watched, and one that is hostile and has powers.
fn tenants(watched: &Stream, guest: &Path, hostile: &Stream, hostile_guest: &Path) -> String {
    let tenant = |name: &str, stream: &Stream, guest: &Path| {
        format!(
            "[tenants.{name}]\nstream_name = \"{}\"\nguest = {:?}\n",
            stream.name,
            guest.display().to_string()
        )
    };
    let limit = format!("guest_time_limit_ms = {HOSTILE_TIME_LIMIT_MS}\n");
    let powers = guests::powers("tenants.hostile.", &hostile.sibling("published").name);
    tenant(WATCHED, watched, guest) + &tenant("hostile", hostile, hostile_guest) + &limit + &powers
}
