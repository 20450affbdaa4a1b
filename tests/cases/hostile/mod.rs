//! Tests that a hostile guest costs only its entry, which becomes a letter that names the limit.
//!
//! There is one test for each program of `tests/guests/hostile/examples`, of the same name.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};
use sluicegate::batch::Digest;
use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{
    Ended, Event, Fields, Launch, Scene, Stream, files_of, hostile, letters_of, message, reasons,
};

mod granted;
use granted::*;

macro_rules! each_has_a_test {
    ($($name:ident)*) => { $(#[expect(unused_imports, reason = "it must be there, no more")] use self::$name as _;)* };
}
sluicegate_tests::hostile_guests!(each_has_a_test);

#[test]
fn every_program_is_in_the_list() {
    let mut listed = guests::HOSTILE.to_vec();
    listed.push("command"); // refused at load
    listed.sort_unstable();
    assert_eq!(files_of("hostile/examples", ".rs"), listed);
}

fn provocation() -> Fields {
    provoking(&Event::new(), None)
}

/// Checks that the provoking entry becomes a dead letter of this reason, with these words.
fn becomes_a_letter(scene: &Scene, launch: Launch, reason: &str, words: &str) -> Ended {
    let (letters, ended) = letters_of(scene, launch, &[provocation()]);
    assert_eq!(reasons(&letters), [reason], "{letters:?}");
    assert!(message(&letters[0]).contains(words), "{}", message(&letters[0]));
    ended
}

/// Does the same for the guest of this name, and checks that only this kind of breach is counted.
fn is_stopped(name: &str, reason: &str, words: &str) {
    let scene = Scene::new();
    let ended = becomes_a_letter(&scene, hostile(&scene, name), reason, words);
    // Breaches are counted by their kind, and only kinds that there were are logged.
    assert!(ended.metrics().get(reason) > 0, "{:?}", ended.metrics());
    let last = ended.log.lines().rfind(|line| line.contains(" metrics state=")).unwrap();
    let kinds = [
        "trapped",
        "crashed",
        "timed_out",
        "out_of_memory",
        "out_of_fuel",
        "out_of_stack",
        "out_of_handles",
        "too_many_elements",
        "too_much_output",
        "bad_verdict",
    ];
    let counted: Vec<&str> = kinds.into_iter().filter(|kind| last.contains(&format!(" {kind}="))).collect();
    assert_eq!(counted, [reason], "{last}");
}

#[test]
fn endless_loop() {
    let scene = Scene::new();
    // The limit is long enough for the good entries on a busy machine.
    let launch = hostile(&scene, "endless_loop").set("GUEST_TIME_LIMIT", "1s");
    becomes_a_letter(
        &scene,
        launch,
        "timed_out",
        "the guest took longer than 1000 ms (GUEST_TIME_LIMIT), in ",
    );
    let scene = Scene::new();
    let launch = hostile(&scene, "endless_loop").set("GUEST_FUEL", 20_000_000);
    becomes_a_letter(&scene, launch, "out_of_fuel", "more than 20000000 fuel (GUEST_FUEL)");
}

#[test]
fn deep_recursion() {
    is_stopped("deep_recursion", "out_of_stack", "more than 524288 bytes of stack (GUEST_STACK)");
}

#[test]
fn memory_by_steps() {
    is_stopped(
        "memory_by_steps",
        "out_of_memory",
        "the guest wanted more than 134217728 bytes of memory (GUEST_MEMORY)",
    );
}

#[test]
fn memory_at_once() {
    is_stopped(
        "memory_at_once",
        "out_of_memory",
        "the guest wanted more than 134217728 bytes of memory (GUEST_MEMORY)",
    );
}

#[test]
fn handle_flood() {
    is_stopped("handle_flood", "out_of_handles", "more than 10000 handles (GUEST_HANDLES)");
    let scene = Scene::new();
    let service = hostile(&scene, "handle_flood").set("GUEST_HANDLES", 100).start();
    scene.stream.add_all(&[90, 101].map(|count| provoking(&Event::new(), Some(count))));
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, 0, 0, 0, 1]);
}

#[test]
fn random_flood() {
    is_stopped("random_flood", "trapped", "65536");
}

/// Checks that no call to the host waits, and returns the rows.
fn ends_at_once(name: &str) -> Vec<Event> {
    let scene = Scene::new();
    let service = hostile(&scene, name).set("GUEST_TIME_LIMIT", "5s").start();
    scene.stream.add_all(&[provocation(), provocation(), provocation()]);
    let rows = scene.until_stored(3); // an hour each
    let log = service.stop().log;
    assert!(!log.contains("timed_out"), "{log}");
    rows
}

#[test]
fn sleep() {
    ends_at_once("sleep");
}

#[test]
fn poll() {
    for row in ends_at_once("poll") {
        assert_eq!(row.properties, Some(json!({ "ready": 1_000 })));
    }
}

#[test]
fn endless_poll() {
    is_stopped("endless_poll", "trapped", "empty poll list");
}

#[test]
fn panic() {
    is_stopped("panic", "trapped", "provoked");
    let scene = Scene::new();
    let service = hostile(&scene, "panic").set("BATCH_SIZE", 1).start();
    scene.stream.add_all(&[provocation(), Event::new().data(), provocation()]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().get("trapped"), 2, "each once");
    let letters = scene.database.letters();
    let message = message(&letters[0]);
    assert!(
        message.contains(", in sluicegate:guest/handler@0.1.0#process"),
        "the functions in which it was: {message}"
    );
}

#[test]
fn exit() {
    is_stopped("exit", "trapped", "exit");
}

#[test]
fn too_few_verdicts() {
    is_stopped("too_few_verdicts", "bad_verdict", "found 0, wanted 1");
}

#[test]
fn too_many_verdicts() {
    is_stopped("too_many_verdicts", "bad_verdict", "found 2, wanted 1");
}

/// Nobody can tell that verdicts are swapped, but each entry has one end, and no row is made up.
#[test]
fn swapped_verdicts() {
    let scene = Scene::new();
    let (provoking_event, good) = (Event::new(), Event::new());
    let bad = sluicegate_tests::fields([("data", "no JSON")]);
    let ids = scene.stream.add_all(&[provoking(&provoking_event, None), good.data(), bad]);
    let service = hostile(&scene, "swapped_verdicts").start();
    assert_eq!(scene.until_stored(2), [provoking_event, good]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 0, 1, 0, 0]);
    let letters = scene.database.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].entry_id, &letters[0].stream), (&ids[0], &scene.stream.name));
}

#[test]
fn huge_list() {
    is_stopped("huge_list", "too_much_output", "more than 67108864 bytes (GUEST_OUTPUT)");
}

#[test]
fn huge_expansion() {
    is_stopped("huge_expansion", "bad_verdict", "expanded the entry to 100000 events, wanted 1 to 1000");
}

/// What the guest returns is little in its own memory, and 4 GiB for a host that copied it all.
#[test]
fn huge_rejection() {
    let scene = Scene::new();
    let ids = scene.stream.add_all(&[Event::new().data(), provocation(), Event::new().data()]);
    let service = hostile(&scene, "huge_rejection").start();
    scene.until_stored(2);
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["too_much_output"], "{letters:?}");
    assert_eq!(letters[0].entry_id, ids[1]);
    assert!(message(&letters[0]).contains("67108864 bytes (GUEST_OUTPUT)"), "{}", message(&letters[0]));
    let most = service.memory_peak_bytes();
    assert!(most < 512 << 20, "{most} bytes resident at the peak");
    service.stop();
}

/// Each reason is within the limits of a call, and nothing is kept of what is cut.
#[test]
fn huge_reasons() {
    let scene = Scene::new();
    scene.stream.add_all(&(0..20).map(|_| provocation()).collect::<Vec<Fields>>());
    let service = hostile(&scene, "huge_reasons").start();
    scene.stream.until_drained();
    let most = service.memory_peak_bytes();
    assert!(most < 512 << 20, "{most} bytes resident at the peak");
    assert_eq!(service.stop().metrics().tally(), [0, 0, 0, 20, 0]);
}

#[test]
fn huge_string() {
    is_stopped("huge_string", "bad_verdict", "found 17825792 bytes, wanted at most 16777216 (GUEST_STRING)");
}

#[test]
fn deep_json() {
    is_stopped("deep_json", "bad_verdict", "GUEST_JSON_DEPTH");
}

/// An entry may become a thousand rows, but a batch only GUEST_ROWS: the largest entries pay.
#[test]
fn many_rows() {
    let scene = Scene::new();
    scene.stream.add_all(&[provocation(), Event::new().data(), provocation(), provocation()]);
    let service = hostile(&scene, "many_rows").set("GUEST_ROWS", 2_500).start();
    scene.until_stored(2_001);
    scene.stream.until_drained();
    let letters = scene.database.letters();
    assert_eq!(reasons(&letters), ["too_much_output"]);
    assert!(message(&letters[0]).contains("more than 2500 rows (GUEST_ROWS)"), "{}", message(&letters[0]));
    service.stop();
}

#[test]
fn scattered_times() {
    let scene = Scene::new();
    let launch = hostile(&scene, "scattered_times").set("MAX_EVENT_AGE", "700d");
    let (letters, ended) =
        letters_of(&scene, launch, &[110, 5_000].map(|weeks| provoking(&Event::new(), Some(weeks))));
    assert_eq!(reasons(&letters), ["bad_verdict", "bad_verdict"]);
    assert!(
        message(&letters[0]).contains("at most 700 days ago (MAX_EVENT_AGE)"),
        "{}",
        message(&letters[0])
    );
    assert_eq!(ended.metrics().get("bad_verdict"), 2);
}

/// Rows of 64 weeks, which an entry may have, are written in a transaction of their own.
#[test]
fn scattered_rows() {
    let scene = Scene::new();
    let entries: Vec<Fields> = [Some(65), None, None].map(|weeks| provoking(&Event::new(), weeks)).to_vec();
    scene.stream.add_all(&entries);
    let service = hostile(&scene, "scattered_rows").set("MAX_EVENT_AGE", "36500d").start();
    scene.until_stored(2 * 64);
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!((metrics.tally(), metrics.get("batches")), ([2, 0, 0, 0, 1], 2));
    let letters = scene.database.letters();
    assert!(
        message(&letters[0]).contains("events of 65 weeks, wanted at most 64"),
        "{}",
        message(&letters[0])
    );
}

/// Each refused row costs a failed statement or two, on connections that go on.
#[test]
fn refused_rows() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    scene.database.execute("ALTER TABLE events ADD CHECK (event_type <> 'forbidden')");
    let service = hostile(&scene, "refused_rows").start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    let backends = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'sluicegate'";
    let before: Vec<i32> = scene.database.value(backends);
    scene.stream.add_all(&(0..50).map(|_| provocation()).collect::<Vec<Fields>>());
    scene.stream.until_drained();
    let after: Vec<i32> = scene.database.value(backends);
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");
    assert_eq!(service.stop().metrics().tally(), [1, 0, 0, 0, 50]);
    assert!(reasons(&scene.database.letters()).iter().all(|reason| *reason == "refused"));
}

#[test]
fn invalid_ids() {
    is_stopped("invalid_ids", "bad_verdict", "wanted a UUID");
}

#[test]
fn same_id() {
    let scene = Scene::new();
    scene.stream.add_all(&[provocation(), provocation(), Event::new().data(), provocation()]);
    let service = hostile(&scene, "same_id").start();
    scene.until_stored(2);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [2, 2, 0, 0, 0]);
}

/// The guest keeps an event of its own from being stored, and none of its neighbour's.
#[test]
fn stolen_ids() {
    let house = House::new("stolen_ids");
    let (victim, thief) = (Event::new(), Event::new());
    house.hostile.add_all(&[provoking(&thief, None), victim.flat()]);
    let service = house.start();
    house.hostile.until_drained();
    house.neighbour.add(&victim.data());
    house.neighbour.until_drained();
    service.stop();
    let stored = |table: &str| -> Vec<String> {
        house.scene.database.value(&format!("SELECT array_agg(event_id || ' ' || user_id) FROM {table}"))
    };
    let [mine, stolen] = [&victim, &thief].map(|event| format!("{} {}", victim.event_id, event.user_id));
    let hostile = stored("events_hostile");
    assert!(hostile == [mine.as_str()] || hostile == [stolen], "one of the two is a duplicate: {hostile:?}");
    assert_eq!(stored("events_neighbour"), [mine]);
}

/// Holds two tenants, both with the hostile guest.
struct House {
    scene: Scene,
    hostile: Stream,
    neighbour: Stream,
}

impl House {
    fn new(name: &str) -> Self {
        let scene = Scene::new();
        let [hostile, neighbour] = ["hostile", "neighbour"].map(|tenant| scene.stream.sibling(tenant));
        let guest = guests::hostile(name).display().to_string();
        let tenant = |name: &str, stream: &Stream| {
            format!("[tenants.{name}]\nstream_name = \"{}\"\nguest = {guest:?}\n", stream.name)
        };
        let file = tenant("hostile", &hostile) + &tenant("neighbour", &neighbour);
        fs::write(scene.folder().join("sluicegate.toml"), file).unwrap();
        Self { scene, hostile, neighbour }
    }

    fn start(&self) -> sluicegate_tests::Service {
        self.scene.service().unset("STREAM_NAME").set("BATCH_SIZE", 2).start_unready()
    }
}

/// Sends provoking entries to a guest that prints, and returns the log. All of them must be stored.
fn printed(launch: Launch, scene: &Scene, entries: &[Fields]) -> String {
    scene.stream.add_all(entries);
    let service = launch.start();
    scene.until_stored(entries.len());
    scene.stream.until_drained();
    service.stop().log
}

/// Returns how many lines and bytes were printed and not logged, as the log says.
fn suppressed(log: &str) -> [usize; 2] {
    let told = log.lines().filter_map(|line| line.split_once("guest printed more than is logged"));
    let number = |text: &str, name: &str| -> usize {
        text.split_once(name).unwrap().1.split(' ').next().unwrap().parse().unwrap()
    };
    told.fold([0, 0], |[lines, bytes], (_, rest)| {
        assert!(rest.contains("GUEST_LOG_SIZE a call"), "{rest}");
        [lines + number(rest, " lines="), bytes + number(rest, " bytes=")]
    })
}

#[test]
fn long_line() {
    let scene = Scene::new();
    let log = printed(hostile(&scene, "long_line"), &scene, &[provocation()]);
    let longest = log.lines().map(str::len).max().unwrap();
    assert!((4_096..5_000).contains(&longest), "{longest}");
    // The guest prints to standard output and to standard error, each line with its end.
    assert_eq!(suppressed(&log), [0, 2 * ((1 << 20) + 1 - 4_096)]);
}

#[test]
fn many_lines() {
    let scene = Scene::new();
    let provocations: Vec<Fields> = (0..50).map(|_| provocation()).collect();
    let log = printed(hostile(&scene, "many_lines"), &scene, &provocations);
    let lines = log.matches("line=\"flood\"").count();
    assert!((1..1_000).contains(&lines), "4096 bytes of a batch are 683 lines: {lines} of a million");
    assert!(suppressed(&log)[1] > 0);

    let scene = Scene::new();
    let launch = hostile(&scene, "many_lines").set("BATCH_SIZE", 1).set("GUEST_LOG_SIZE", "1MiB");
    let provocations: Vec<Fields> = (0..20).map(|_| provoking(&Event::new(), Some(5_000))).collect();
    let log = printed(launch, &scene, &provocations);
    let lines = log.matches("line=\"flood\"").count();
    assert_eq!(lines + suppressed(&log)[0], 20 * 2 * 5_000, "every line is logged or counted");
    assert!(lines < 20_000, "{lines} lines");
}

/// A line of the log says whose it is, and cannot forge another.
#[test]
fn control_characters() {
    let scene = Scene::new();
    let service = hostile(&scene, "control_characters").start();
    scene.stream.add(&provocation());
    scene.until_stored(1);
    let component = fs::read(guests::hostile("control_characters")).unwrap();
    let guest = format!("guest={}", Digest::new(&component));
    service.until_logged(&["INFO", "guest printed guest=", "line=\"first\"", &guest]);
    service.until_logged(&["WARN", "guest printed to standard error", "line=\"first\"", &guest]);
    let line = service.until_logged(&["INFO", "forged"]);
    assert!(line.contains("line=\"WARN ") && line.contains(&guest), "{line}");
    let log = service.stop().log;
    assert!(!log.contains(['\x1b', '\r', '\u{202e}']), "control characters are escaped: {log:?}");

    let silent = hostile(&scene, "control_characters").set("GUEST_LOG_SIZE", "0B").start();
    scene.stream.add(&provocation());
    scene.until_stored(2);
    let log = silent.stop().log;
    assert!(!log.contains("forged"), "{log}");
}

/// Returns what a guest tells of the world: the same for the same entries in another service.
fn seen(name: &str, amount: Option<usize>) -> [(String, Value); 2] {
    let scene = Scene::new();
    let start = |scene: &Scene| {
        hostile(scene, name)
            .set("BATCH_SIZE", 1)
            .set("SECRET", "hunter2")
            .set("GUEST_SETTINGS", "{b = \"2\", a = \"1\"}")
    };
    let ids = scene.stream.add_all(&[Event::new(), Event::new()].map(|event| provoking(&event, amount)));
    let one = start(&scene).start();
    let rows = scene.until_stored(2);
    one.stop();
    let again = Scene::new();
    let two = start(&again).set("STREAM_NAME", &scene.stream.name).start();
    assert_eq!(again.until_stored(2), rows);
    two.stop();
    assert!(!again.folder().join("hostile").exists(), "it makes no folder");
    let mut seen = ids.into_iter().zip(rows).map(|(id, row)| (id, row.properties.unwrap()));
    [seen.next().unwrap(), seen.next().unwrap()]
}

#[test]
fn files() {
    for (_, seen) in seen("files", None) {
        assert_eq!(seen, json!({ "found": vec![false; 9] }));
    }
}

#[test]
fn network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = usize::from(listener.local_addr().unwrap().port());
    for (_, seen) in seen("network", Some(port)) {
        assert_eq!(seen, json!({ "found": vec![false; 4] }));
    }
    assert!(listener.accept().is_err(), "nobody knocked");
}

#[test]
fn environment() {
    for (_, seen) in seen("environment", None) {
        let settings = [["a", "1"], ["b", "2"]];
        assert_eq!(seen, json!({ "found": [0, 0, 0], "settings": settings, "one_by_one": true }));
    }
}

#[test]
fn clock() {
    for (id, seen) in seen("clock", None) {
        let milliseconds: u64 = id.split('-').next().unwrap().parse().unwrap();
        let expected = json!({ "now": milliseconds * 1_000, "elapsed": 1, "slept": 3_600 });
        assert_eq!(seen, expected, "it begins at the entry's ID, and a look moves it by a nanosecond");
    }
}

#[test]
fn randomness() {
    let [(_, one), (_, two)] = seen("randomness", None);
    assert!(
        one["dice"] != two["dice"] && one["bytes"] != two["bytes"],
        "seeded by the entry's ID: {one} {two}"
    );
}

/// No state is left for the next batch, nor for another tenant with the same component.
#[test]
fn state() {
    for (_, seen) in seen("state", None) {
        assert_eq!(seen, json!({ "call": 1 }));
    }
    let house = House::new("state");
    let service = house.start();
    let provocations: Vec<Fields> = (0..10).map(|_| provocation()).collect();
    for stream in [&house.hostile, &house.neighbour] {
        stream.add_all(&provocations);
    }
    for (stream, tenant) in [(&house.hostile, "hostile"), (&house.neighbour, "neighbour")] {
        stream.until_drained();
        let sql = format!("SELECT count(*) FROM events_{tenant} WHERE properties = '{{\"call\": 1}}'");
        assert_eq!(house.scene.database.value::<i64>(&sql), 10);
    }
    service.stop();
}
