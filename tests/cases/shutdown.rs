//! Tests that SIGTERM and SIGINT end the service soon, and cleanly.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sluicegate_tests::{Event, Fields, Producer, Proxy, Scene, block_on, fields, guests, until};
use sqlx::Connection as _;

const PROMPTLY: Duration = Duration::from_secs(2);

fn stopped_under_load(signal: Signal) {
    let scene = Scene::new();
    // There is more than can be done by then, and more is coming, so every stage is busy.
    let events: Vec<Event> = (0..20_000).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let producer = Producer::start(&scene.stream, Event::new);
    let service = scene.service().set("BATCH_SIZE", 10).start();
    until("some entries acknowledged", || match scene.stream.group_info("entries-read") {
        Some(count) if count.parse().is_ok_and(|count: u64| count > 500) => Ok(()),
        found => Err(format!("{found:?} read")),
    });
    let ended = service.end(signal);
    producer.stop();

    assert_eq!(ended.code, Some(0), "the log:\n{}", ended.log);
    assert!(ended.log.contains("shutting down"), "the log:\n{}", ended.log);
    assert_eq!(scene.stream.pending().len(), 0, "what was read was finished");
    let acknowledged = scene.stream.acknowledged().len();
    assert!((500..20_000).contains(&acknowledged), "{acknowledged}: stopped in the middle");
    assert_eq!(scene.database.events(), events[..acknowledged]);
    assert_eq!(ended.metrics().tally().iter().sum::<u64>(), u64::try_from(acknowledged).unwrap());
    let csv = fs::read_to_string(scene.folder().join("backend/metrics.csv")).unwrap();
    let last = csv.lines().last().unwrap();
    assert_eq!(last.split(',').nth(1), Some(acknowledged.to_string().as_str()), "{csv}");
}

#[test]
fn sigterm_under_load_finishes_what_was_read() {
    stopped_under_load(Signal::TERM);
}

/// `journald` or a pipe's reader may go away at any time.
#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let scene = Scene::new();
    let mut service = scene.service().set("RUST_LOG", "debug").tool(&["run"]);
    let mut service = service.stderr(Stdio::piped()).spawn().unwrap();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    drop(service.stderr.take());
    let bad = fields([("data", "no JSON")]); // each has a line
    scene.stream.add_all(&vec![bad; 20]);
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    scene.stream.until_drained();
    kill_process(Pid::from_child(&service), Signal::TERM).unwrap();
    assert_eq!(service.wait().unwrap().code(), Some(0));

    let mut tool = scene
        .service()
        .set("POSTGRES_URL", "postgres://nobody@127.0.0.1:1/x")
        .tool(&["dead-letters", "list"]);
    let mut tool = tool.stderr(Stdio::piped()).spawn().unwrap();
    drop(tool.stderr.take());
    assert_eq!(tool.wait().unwrap().code(), Some(1));
}

#[test]
fn sigint_under_load_finishes_what_was_read() {
    stopped_under_load(Signal::INT);
}

/// The server has delivered the entries, which are not here yet: nobody else would get them.
#[test]
fn entries_on_their_way_at_the_signal_are_finished() {
    let scene = Scene::new();
    let proxy = Proxy::start(scene.stream.url());
    proxy.hold_reply_to(b"\r\n>\r\n"); // of the first XREADGROUP that asks for new entries
    let event = Event::new();
    scene.stream.add(&event.data());
    let service = scene.service().set("REDIS_URL", proxy.url(scene.stream.url())).set("BLOCK", "1m").start();
    until("the entry delivered", || match scene.stream.pending().len() {
        1 => Ok(()),
        found => Err(format!("{found} pending")),
    });
    service.signal(Signal::TERM);
    service.until_logged(&["shutting down"]);
    proxy.release();
    service.stop(); // a second signal changes nothing
    assert_eq!(scene.stream.pending().len(), 0);
    assert_eq!(scene.database.events(), [event]);
}

#[test]
fn a_long_wait_for_entries_is_cut_short() {
    let scene = Scene::new();
    let service = scene.service().set("BLOCK", "1m").start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.stream.until_drained();
    let ended = service.stop();
    assert!(ended.took < PROMPTLY, "{:?}", ended.took);
    assert_eq!(ended.metrics().tally(), [1, 0, 0, 0, 0]);
}

#[test]
fn the_pause_after_a_partial_batch_is_cut_short() {
    let scene = Scene::new();
    let service = scene.service().set("PARTIAL_BATCH_DELAY", "1m").start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.stream.until_drained();
    let ended = service.stop();
    assert!(ended.took < PROMPTLY, "{:?}", ended.took);
}

#[test]
fn waiting_for_the_servers_is_cut_short() {
    let scene = Scene::new();
    let service = scene
        .service()
        .set("REDIS_URL", "redis://127.0.0.1:1")
        .set("POSTGRES_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .start_unready();
    service.until_logged(&["waiting for redis"]);
    service.until_logged(&["waiting for postgres"]);
    let ended = service.stop();
    assert!(ended.took < PROMPTLY, "{:?}", ended.took);
}

/// Compiling may take minutes. The process that compiles ends too.
#[test]
fn compiling_the_rules_is_cut_short() {
    let scene = Scene::new();
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(400_000);
    let slow = guests::handmade_of(&format!("(func (local i32) {sum}) (func $provoked (param i32))"));
    let file = scene.folder().join("slow.wasm");
    fs::write(&file, slow).unwrap();
    let service =
        scene.service().set("GUEST", file.display()).set("MONITORING_INTERVAL", "100ms").start_unready();
    let compiler = service.until_compiler_works();
    kill_process(compiler, Signal::STOP).unwrap(); // as slow as can be
    service.until_logged(&["metrics", "state=\"starting\""]);
    let ended = service.stop();
    assert!(ended.took < PROMPTLY, "{:?}", ended.took);
    until("the compiler to end", || {
        match fs::read_to_string(format!("/proc/{}/stat", compiler.as_raw_nonzero())) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            Ok(_) | Err(_) => Ok(()),
        }
    });
}

/// A database that does not answer is the worst case: the batch cannot be finished.
#[test]
fn a_database_that_hangs_does_not_hold_up_the_end() {
    let scene = Scene::new();
    let service = scene.start();
    let mut lock = scene.database.connect();
    let transaction = block_on(async {
        let mut transaction = lock.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE events").execute(&mut *transaction).await.unwrap();
        transaction
    });
    let events: Vec<Event> = (0..50).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    until("the entries pending", || match scene.stream.pending().len() {
        50 => Ok(()),
        found => Err(format!("{found}")),
    });

    let ended = service.stop(); // within 5 s, code 0
    assert!(ended.log.contains("the rest stays pending for the next start"), "the log:\n{}", ended.log);
    assert_eq!(scene.stream.acknowledged().len(), 0, "nothing is acknowledged that is not stored");
    assert_eq!(ended.metrics().get("processed"), 0);

    block_on(transaction.rollback()).unwrap();
    let service = scene.start();
    assert_eq!(scene.until_stored(50).len(), 50);
    scene.stream.until_drained();
    service.stop();
}

/// A consumer that is gone for good would stay in the group; one with entries pending is needed.
#[test]
fn a_clean_stop_leaves_the_group() {
    let scene = Scene::new();
    let consumers = || -> Vec<redis::Value> {
        scene
            .stream
            .run(redis::cmd("XINFO").arg("CONSUMERS").arg(&scene.stream.name).arg(&scene.stream.group))
    };
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.stream.until_drained();
    assert_eq!(consumers().len(), 1);
    service.stop();
    assert_eq!(consumers().len(), 0);

    let service = scene.start();
    let mut other = scene.database.connect();
    block_on(async { sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut other).await.unwrap() });
    scene.stream.add(&Event::new().data());
    until("an entry in flight", || match scene.stream.pending().len() {
        1 => Ok(()),
        found => Err(format!("{found}")),
    });
    service.end(Signal::TERM);
    assert_eq!((consumers().len(), scene.stream.pending().len()), (1, 1));
}
