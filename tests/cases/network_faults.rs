//! Tests that what a broken, slow or silent network swallows is sent again, and work goes on.

use std::time::Duration;

use sluicegate_tests::{
    Event, Fault, Fields, Load, Metrics, Proxy, Scene, Service, block_on, fields, until, until_within,
};

/// Says which of the two servers is behind the proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Server {
    Redis,
    Postgres,
}

struct Network {
    scene: Scene,
    proxy: Proxy,
    service: Service,
    load: Load,
}

impl Network {
    /// Starts the service under load, through a network that works.
    fn start(server: Server) -> Self {
        let scene = Scene::new();
        let (variable, url) = match server {
            Server::Redis => ("REDIS_URL", scene.stream.url().to_owned()),
            Server::Postgres => ("POSTGRES_URL", scene.database.url()),
        };
        let proxy = Proxy::start(&url);
        let service = scene.service().set(variable, proxy.url(&url)).set("BATCH_SIZE", 20).start();
        let load = Load::start(&scene.stream, 7, 5);
        load.until_sent(200);
        Self { scene, proxy, service, load }
    }

    /// Sets the fault while `more` entries are sent. Then all must be done within the bound.
    fn survive(self, fault: Fault, more: u64, bound: Duration) {
        let Self { scene, proxy, service, mut load } = self;
        proxy.set(fault);
        load.until_sent(more);
        proxy.set(Fault::None);
        load.until_sent(50);
        load.stop();
        until_within(bound, &format!("the work done after {fault:?}"), || {
            if scene.stream.is_drained() {
                Ok(())
            } else {
                Err(format!("{} pending", scene.stream.pending().len()))
            }
        });
        load.settle(&scene);
        service.stop().metrics().tally();
    }
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn connections_that_are_cut() {
    for server in [Server::Redis, Server::Postgres] {
        Network::start(server).survive(Fault::Cut, 500, SOON);
    }
}

#[test]
fn a_slow_network() {
    for server in [Server::Redis, Server::Postgres] {
        Network::start(server).survive(Fault::Delay(Duration::from_millis(200)), 500, SOON);
    }
}

/// The reset comes in the middle of a reply, and in the middle of connecting as well.
#[test]
fn connections_that_are_reset() {
    for server in [Server::Redis, Server::Postgres] {
        for bytes in [40, 1_000, 20_000] {
            Network::start(server).survive(Fault::ResetAfter(bytes), 300, SOON);
        }
    }
}

/// Only a time-out tells that the connection is gone: 5 s beyond the block for Redis.
#[test]
fn a_redis_that_goes_silent() {
    let network = Network::start(Server::Redis);
    network.survive(Fault::HalfOpen, 300, Duration::from_secs(20));
}

/// The time-out is 30 s for PostgreSQL.
#[test]
fn a_postgres_that_goes_silent() {
    let network = Network::start(Server::Postgres);
    network.survive(Fault::HalfOpen, 300, Duration::from_secs(60));
}

/// Holds a service that waits in the server for a lock while it prepares the database.
struct Migrator {
    scene: Scene,
    proxy: Proxy,
    service: Service,
    lock: sqlx::PgConnection,
}

impl Migrator {
    fn start() -> Self {
        let scene = Scene::new();
        let mut lock = scene.database.connect();
        let take = "BEGIN; SELECT pg_advisory_xact_lock(hashtext('sluicegate.extension'))";
        block_on(async { sqlx::raw_sql(take).execute(&mut lock).await.unwrap() });
        let url = scene.database.url();
        let proxy = Proxy::start(&url);
        let service =
            scene.service().set("POSTGRES_URL", proxy.url(&url)).set("MONITORING_INTERVAL", "200ms");
        let service = service.start_unready();
        let migrator = Self { scene, proxy, service, lock };
        migrator.until_session("wait_event_type = 'Lock'");
        migrator
    }

    fn until_session(&self, condition: &str) {
        let sessions = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'sluicegate' AND {condition}"
        );
        until(condition, || match self.scene.database.value::<i64>(&sessions) {
            1 => Ok(()),
            found => Err(format!("{found} sessions")),
        });
    }

    fn release(&mut self) {
        block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut self.lock).await.unwrap() });
    }

    /// Gives the lock while the network is silent: the service does not hear of it, and holds it.
    fn fall_silent(&mut self) {
        self.proxy.set(Fault::HalfOpen);
        self.release();
        until("the reply swallowed", || match self.proxy.lost() {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        });
    }

    fn serves_within(self, bound: Duration) -> String {
        until_within(bound, "a service that runs", || match self.service.log().contains("running redis=") {
            true => Ok(()),
            false => Err(self.service.log_tail()),
        });
        let event = Event::new();
        self.scene.stream.add(&event.data());
        assert_eq!(self.scene.until_stored(1), [event]);
        self.service.stop().log
    }
}

/// The server gives such a session up after 10 s, and the service sees that 3 s later.
#[test]
fn a_network_that_falls_silent_during_the_start() {
    let mut migrator = Migrator::start();
    migrator.fall_silent();
    migrator.proxy.set(Fault::None);
    let log = migrator.serves_within(Duration::from_secs(30));
    assert!(log.contains("lost without a word"), "{log}");
}

/// The network stays silent for so long that the service says so.
#[test]
fn a_network_that_stays_silent_during_the_start() {
    let mut migrator = Migrator::start();
    migrator.fall_silent();
    migrator.service.until_logged(&["waiting for postgres", "no answer to connecting"]);
    migrator.proxy.set(Fault::None);
    migrator.serves_within(Duration::from_secs(30));
}

/// The start takes longer than a lost connection would be kept: a migration may take hours.
#[test]
fn a_start_that_takes_long_is_not_given_up() {
    let mut migrator = Migrator::start();
    std::thread::sleep(Duration::from_secs(15)); // the time that is the subject
    let last = Metrics::last(&migrator.service.log());
    assert_eq!(last.as_ref().map(Metrics::state), Some("starting"), "{last:?}");
    migrator.until_session("wait_event_type = 'Lock'");
    migrator.release();
    let log = migrator.serves_within(Duration::from_secs(30));
    assert!(!log.contains("waiting for postgres"), "{log}");
    let mut states: Vec<String> =
        Metrics::all(&log).iter().map(|metrics| metrics.state().to_owned()).collect();
    states.dedup();
    assert_eq!(states, ["starting", "running"]);
}

/// Replies of Redis do not arrive, many times. Nothing dies of the entries, so none is given up.
#[test]
fn replies_that_never_arrive_are_not_blamed_on_the_entries() {
    let scene = Scene::new();
    let proxy = Proxy::start(scene.stream.url());
    let service =
        scene.service().set("REDIS_URL", proxy.url(scene.stream.url())).set("MAX_DELIVERIES", 4).start();
    let event = Event { user_id: "x".repeat(10_000), ..Event::new() };
    proxy.set(Fault::ResetAfter(6_000));
    scene.stream.add(&event.data());
    service.until_logged(&["reading failed; trying again"]);
    std::thread::sleep(Duration::from_secs(4)); // several tries, which is the subject
    let deliveries = scene.stream.deliveries();
    assert!(deliveries.values().all(|count| *count == 1), "{deliveries:?}");
    proxy.set(Fault::None);
    scene.stream.until_drained();
    assert_eq!(scene.database.letters(), []);
    assert_eq!(scene.database.events(), [event]);
    service.stop();
}

/// A statement that waits in the server for a lock ends when the service gives it up. Otherwise
/// each attempt would leave one behind, until the server takes no more connections.
#[test]
fn a_batch_that_is_given_up_leaves_nothing_behind_in_the_server() {
    let scene = Scene::new();
    let service = scene.start();
    let mut lock = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut lock).await.unwrap() });
    let load = Load::start(&scene.stream, 3, 1);
    service.until_logged(&["writing to postgres failed; trying again"]);
    load.until_sent(500); // time for another attempt
    let waiting: i64 = scene.database.value(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'sluicegate'",
    );
    // One more deletes what was decided long ago, one looks for deployments, and one listens for them.
    assert!(waiting <= 6, "{waiting} connections of 3 writers");
    block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap() });
    load.settle(&scene);
    service.stop();
}

/// The server has done a part of the transaction, and hears nothing any more. It does not keep the
/// locks, which would keep the batch from being written again.
#[test]
fn a_transaction_whose_network_falls_silent_is_written_again() {
    let scene = Scene::new();
    let url = scene.database.url();
    let proxy = Proxy::start(&url);
    let service = scene.service().set("POSTGRES_URL", proxy.url(&url)).start();
    let mut lock = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut lock).await.unwrap() });
    let event = Event::new();
    scene.stream.add_all(&[fields([("data", "no JSON")]), event.data()]);
    let session = |state: &str| {
        let sessions = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'sluicegate' AND {state}"
        );
        until(state, || match scene.database.value::<i64>(&sessions) {
            1 => Ok(()),
            found => Err(format!("{found} sessions")),
        });
    };
    session("wait_event_type = 'Lock'"); // the letter is written, the row is to follow
    proxy.set(Fault::HalfOpen);
    block_on(async { sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap() });
    session("state = 'idle in transaction'");
    until("the reply swallowed", || if proxy.lost() > 0 { Ok(()) } else { Err("not yet".to_owned()) });
    proxy.set(Fault::None);
    until_within(Duration::from_secs(50), "the batch written", || match scene.stream.is_drained() {
        true => Ok(()),
        false => Err(service.log_tail()),
    });
    assert_eq!(scene.database.events(), [event]);
    assert_eq!(service.stop().metrics().tally(), [1, 0, 1, 0, 0]);
}

/// A replica's database goes silent, and another stores its entries. Then it would write them too.
#[test]
fn what_a_fenced_replica_writes_late_adds_nothing() {
    let scene = Scene::new();
    let url = scene.database.url();
    let proxy = Proxy::start(&url);
    let fenced = scene
        .service()
        .set("CONSUMER_NAME", "fenced")
        .set("POSTGRES_URL", proxy.url(&url))
        .set("MONITORING_INTERVAL", "200ms")
        .start();
    proxy.set(Fault::HalfOpen);
    let events: Vec<Event> = (0..50).map(|_| Event::new()).collect();
    let mut entries: Vec<Fields> = events.iter().map(Event::data).collect();
    entries.push(fields([("data", "no JSON")]));
    scene.stream.add_all(&entries);
    until("the entries held by the fenced one", || match scene.stream.pending().len() {
        51 => Ok(()),
        found => Err(format!("{found}")),
    });
    let claimer = scene.service().set("CONSUMER_NAME", "claimer").set("CLAIM_MIN_IDLE", "300ms").start();
    assert_eq!(scene.until_stored(50), events);
    scene.stream.until_drained();
    let in_flight = |service: &Service| Metrics::last(&service.log()).map(|metrics| metrics.get("in_flight"));
    assert_eq!(in_flight(&fenced), Some(51), "acknowledged by the other, and still to be written here");
    proxy.set(Fault::None);
    fenced.until_logged(&["taken over by another", "beginning again"]);
    until("the fenced one to have nothing", || match in_flight(&fenced) {
        Some(0) => Ok(()),
        found => Err(format!("{found:?}")),
    });
    assert_eq!(fenced.stop().metrics().tally(), [0, 0, 0, 0, 0]);
    assert_eq!(claimer.stop().metrics().tally(), [50, 0, 1, 0, 0]);
    assert_eq!(scene.database.events(), events);
    assert_eq!(scene.database.letters().len(), 1);
}
