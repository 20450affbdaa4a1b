//! Tests many tenants in one process: what is whose, and that one tenant's failure stays its own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use redis::cmd;
use sluicegate_tests::guests::{self, provoking};
use sluicegate_tests::{Event, Fields, Scene, Tenants, fields, until, until_running};

fn dead_letters(tenants: &Tenants, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tenants.launch().tool(&[&["dead-letters"], arguments].concat()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn write_guest(folder: &Path, name: &str, component: &[u8]) -> String {
    let file = folder.join(name);
    fs::write(&file, component).unwrap();
    file.display().to_string()
}

#[test]
fn each_tenant_has_its_own_rules_and_its_own_table() {
    let tenants = Tenants::new(&[
        ("acme", "guest = \"strict.wasm\"\nbatch_size = 3"),
        ("globex", ""),
        ("default", "events_table = \"shared_of_old\""),
    ]);
    write_guest(tenants.scene.folder(), "strict.wasm", guests::STRICT);
    let service = tenants.start(&["acme", "globex", "default"]);
    // The strict rules reject a purchase without properties; the default rules store it.
    let purchase = Event { properties: None, ..Event::of_type("purchase") };
    for name in ["acme", "globex", "default"] {
        tenants.stream(name).add_all(&[Event::new().data(), purchase.data()]);
    }
    tenants.until_rows("events_globex", 2);
    tenants.until_rows("events_acme", 1);
    tenants.until_rows("shared_of_old", 2);
    for (_, stream) in &tenants.streams {
        stream.until_drained();
    }
    let ended = service.stop();
    let hypertables = tenants.rows("timescaledb_information.hypertables");
    assert_eq!(hypertables, 4, "events, as the migration makes it, and one for each tenant");
    let letters = "dead_letters WHERE tenant = 'acme' AND reason = 'rejected'";
    assert_eq!((tenants.rows(letters), tenants.rows("dead_letters")), (1, 1));
    for (name, stored) in [("acme", "stored=1"), ("globex", "stored=2"), ("default", "stored=2")] {
        let metrics = ended
            .log
            .lines()
            .rfind(|line| line.contains(&format!("tenant={name}")) && line.contains("metrics"));
        assert!(metrics.is_some_and(|line| line.contains(stored)), "{name}:\n{}", ended.log);
        let csv = tenants.scene.folder().join(format!("backend/metrics-{name}.csv"));
        let csv = fs::read_to_string(csv).unwrap();
        assert!(csv.starts_with("timestamp,events_processed,lag,batch_time_ms,processing_rate\n"), "{csv}");
    }
    let of_all = ["shutting down", "database ready", "serving metrics"];
    for line in ended.log.lines().filter(|line| !of_all.iter().any(|part| line.contains(part))) {
        assert!(line.contains("tenant="), "whose is this? {line}");
    }
}

#[test]
fn settings_are_inherited_and_checked() {
    let scene = Scene::new();
    for (text, part) in [
        ("[tenants.a]\n", "tenant a: STREAM_NAME is not set; wanted the stream to read"),
        (
            "[tenants.a]\nstream_name = \"s\"\nbatch_size = 0\n",
            "tenant a: BATCH_SIZE is 0; wanted 1 to 10000",
        ),
        (
            "batch_size = 0\n[tenants.a]\nstream_name = \"s\"\n",
            "tenant a: BATCH_SIZE is 0; wanted 1 to 10000",
        ),
        ("[tenants.a]\nstream_name = 7\n", "tenant a: STREAM_NAME is signed int `7`; wanted the stream"),
        ("[tenants.a]\nbatch_sise = 7\n", "tenant a: batch_sise is not a setting"),
        ("[tenants.a]\nredis_url = \"redis://h\"\n", "tenant a: REDIS_URL is one for the whole service"),
        (
            "[tenants.a]\nstream_name = \"s\"\nevents_table = \"e; DROP TABLE x\"\n",
            "tenant a: EVENTS_TABLE is \"e; DROP TABLE x\"; wanted",
        ),
        ("[tenants.A]\nstream_name = \"s\"\n", "\"A\" is no name for a tenant; wanted a lower-case letter"),
        (
            "[grants]\nstream = true\n[tenants.a]\nstream_name = \"s\"\n",
            "[grants] is given to one tenant, not to all; wanted [tenants.NAME.grants]",
        ),
        (
            "[tenants.a]\nstream_name = \"s\"\n[tenants.a.statements.x]\nsql = \"SELECT 1\"\n",
            "tenant a: statements is one for the whole service",
        ),
        (
            "[tenants.a]\nstream_name = \"s\"\n[tenants.a.grants]\nstatements = [\"x\"]\n",
            "tenant a: grants.statements is \"x\"; wanted the name of a table [statements.x]",
        ),
        ("tenants = 7\n", "wanted [tenants.NAME]"),
        ("[tenants]\n", "wanted [tenants.NAME]"),
        (
            "[tenants.a]\nstream_name = \"s\"\n[tenants.b]\nstream_name = \"s\"\n",
            "the tenants a and b both read \"s\" as the group",
        ),
    ] {
        fs::write(scene.folder().join("sluicegate.toml"), text).unwrap();
        let ended = scene.service().run_to_end();
        assert_eq!(ended.code, Some(1), "{text}: {}", ended.log);
        assert!(ended.log.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
}

#[test]
fn what_a_tenant_does_not_set_comes_from_the_top() {
    let tenants = Tenants::new(&[("acme", "batch_size = 3"), ("globex", "")]);
    for name in ["acme", "globex"] {
        tenants.add(name, 30);
    }
    let service = tenants.launch().set("BATCH_SIZE", 7).start_unready();
    for (name, largest) in [("acme", 3), ("globex", 7)] {
        let table = format!("events_{name}");
        tenants.until_rows(&table, 30);
        let transactions = format!(
            "SELECT max(count) FROM (SELECT count(*) FROM {table} GROUP BY xmin::text) AS transactions"
        );
        assert_eq!(tenants.scene.database.value::<i64>(&transactions), largest, "{name}");
    }
    service.stop();
}

#[test]
fn two_groups_of_one_stream_are_two_tenants() {
    let scene = Scene::new();
    let name = &scene.stream.name;
    let file = format!(
        "[tenants.a]\nstream_name = \"{name}\"\nconsumer_group = \"a\"\n[tenants.b]\nstream_name = \"{name}\"\nconsumer_group = \"b\"\n"
    );
    fs::write(scene.folder().join("sluicegate.toml"), file).unwrap();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    let service = scene.service().unset("CONSUMER_GROUP").start_unready();
    for group in ["a", "b"] {
        scene.stream.another_group(group).until_drained();
    }
    service.stop();
    let number = |sql: &str| scene.database.value::<i64>(sql);
    assert_eq!((number("SELECT count(*) FROM events_a"), number("SELECT count(*) FROM events_b")), (1, 1));
    assert_eq!(number("SELECT count(DISTINCT tenant) FROM dead_letters"), 2, "each has a letter of its own");
}

/// Each tenant but one has something that somebody must mend, and that is mended later.
#[test]
fn a_tenant_that_cannot_work_holds_up_nobody_and_recovers() {
    let tenants = Tenants::new(&[
        ("fine", ""),
        ("guestless", "guest = \"missing.wasm\""),
        ("greedy", "guest = \"greedy.wasm\""),
        ("streamless", ""),
        ("tableless", ""),
    ]);
    let folder = tenants.scene.folder();
    write_guest(folder, "greedy.wasm", &guests::handmade("greedy"));
    let wrong = tenants.stream("streamless");
    wrong.run::<()>(cmd("SET").arg(&wrong.name).arg("text"));
    tenants.scene.database.execute("CREATE TABLE events_tableless (number BIGINT PRIMARY KEY)");
    let service = tenants.start(&["fine"]);
    for (name, error) in [
        ("guestless", "cannot be read"),
        ("greedy", "imports that are not granted"),
        ("streamless", "WRONGTYPE"),
        ("tableless", "the table events_tableless has another form"),
    ] {
        service.until_logged(&["ERROR", &format!("tenant={name}"), error]);
    }
    tenants.add("fine", 10);
    tenants.until_rows("events_fine", 10);

    write_guest(folder, "missing.wasm", guests::DEFAULT);
    write_guest(folder, "greedy.wasm", guests::STRICT);
    wrong.run::<()>(cmd("DEL").arg(&wrong.name));
    tenants.scene.database.execute("DROP TABLE events_tableless");
    for name in ["guestless", "greedy", "streamless", "tableless"] {
        until_running(&service, name);
        tenants.add(name, 1);
        tenants.until_rows(&format!("events_{name}"), 1);
    }
    service.stop();
}

/// Otherwise somebody could keep the compiler busy for as long as the service runs.
#[test]
fn a_component_that_is_refused_is_compiled_once() {
    let tenants =
        Tenants::new(&[("slow", "guest = \"slow.wasm\"\nguest_compile_time = \"100ms\""), ("quick", "")]);
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(400_000);
    let slow = guests::handmade_of(&format!("(func (local i32) {sum}) (func $provoked (param i32))"));
    write_guest(tenants.scene.folder(), "slow.wasm", &slow);
    let service = tenants.start(&["quick"]);
    let failed = |times: usize| {
        until(&format!("{times} failures"), || {
            let log = service.log();
            let lines = log.lines().filter(|line| {
                line.contains("this tenant has failed")
                    && line.contains("100 ms of a processor to compile (GUEST_COMPILE_TIME)")
            });
            if lines.count() >= times { Ok(()) } else { Err(log) }
        });
    };
    failed(1);
    let spent = service.children_spent();
    assert!(spent > Duration::ZERO);
    failed(3);
    assert_eq!(service.children_spent(), spent);
    // The service looks at another version.
    write_guest(tenants.scene.folder(), "slow.wasm", guests::DEFAULT);
    until_running(&service, "slow");
    service.stop();
}

/// While entries flow, a column of the table is renamed, and later renamed back.
#[test]
fn a_tenant_that_fails_in_mid_flow_goes_on_when_it_is_mended() {
    let tenants = Tenants::new(&[("fine", ""), ("broken", "")]);
    let service = tenants.start(&["fine", "broken"]);
    tenants.add("broken", 5);
    tenants.until_rows("events_broken", 5);
    tenants.scene.database.execute("ALTER TABLE events_broken RENAME COLUMN user_id TO usr");
    tenants.add("broken", 5);
    service.until_logged(&["ERROR", "tenant=broken", "user_id"]);
    tenants.add("fine", 10);
    tenants.until_rows("events_fine", 10);
    tenants.scene.database.execute("ALTER TABLE events_broken RENAME COLUMN usr TO user_id");
    tenants.until_rows("events_broken", 10);
    tenants.stream("broken").until_drained();
    let ended = service.stop();
    let last =
        ended.log.lines().rfind(|line| line.contains("tenant=broken") && line.contains("metrics")).unwrap();
    assert!(last.contains("processed=10") && last.contains("in_flight=0"), "{last}");
}

/// There are more tenants than guests that may run at the same time, and all but one hang.
#[test]
fn poison_of_many_tenants_stays_their_own() {
    let guest = guests::hostile("endless_loop").display().to_string();
    let hang = format!("guest = {guest:?}\nguest_time_limit = \"100ms\"");
    let names: Vec<String> = (0..24).map(|i| format!("hanging_{i}")).collect();
    let mut settings: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), hang.as_str())).collect();
    settings.push(("fine", ""));
    let tenants = Tenants::new(&settings);
    for name in &names {
        let entries: Vec<Fields> = (0..3).map(|_| provoking(&Event::new(), None)).collect();
        tenants.stream(name).add_all(&entries);
    }
    tenants.add("fine", 20);
    let service = tenants.launch().start_unready();
    tenants.until_rows("events_fine", 20);
    for name in &names {
        tenants.stream(name).until_drained();
    }
    service.stop();
    assert_eq!(tenants.rows("dead_letters WHERE reason = 'timed_out'"), 3 * 24);
    assert_eq!(tenants.rows("dead_letters"), 3 * 24, "nobody is out of luck for want of an instance");
}

#[test]
fn letters_are_replayed_by_the_rules_and_into_the_table_of_their_tenant() {
    let tenants = Tenants::new(&[("acme", "guest = \"acme.wasm\""), ("globex", "guest = \"globex.wasm\"")]);
    let folder = tenants.scene.folder();
    for name in ["acme.wasm", "globex.wasm"] {
        write_guest(folder, name, guests::STRICT);
    }
    let service = tenants.start(&["acme", "globex"]);
    let purchase = || Event { properties: None, ..Event::of_type("purchase") }.data();
    for (name, count) in [("acme", 2), ("globex", 3)] {
        tenants.stream(name).add_all(&(0..count).map(|_| purchase()).collect::<Vec<Fields>>());
        tenants.stream(name).until_drained();
    }
    service.stop();
    write_guest(folder, "acme.wasm", guests::DEFAULT);
    tenants.start(&["acme", "globex"]).stop();

    let (code, told) = dead_letters(&tenants, &["list", "--tenant", "globex"]);
    assert_eq!((code, told.lines().count()), (Some(0), 4), "{told}");
    let (code, told) = dead_letters(&tenants, &["replay", "--tenant", "nobody"]);
    assert!(code == Some(1) && told.contains("wanted one of: acme, globex"), "{told}");
    let (code, told) = dead_letters(&tenants, &["replay"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains("2  are stored") && told.contains("3  are dead letters still: rejected (missing)"),
        "{told}"
    );
    assert_eq!((tenants.rows("events_acme"), tenants.rows("events_globex")), (2, 0));

    write_guest(folder, "globex.wasm", guests::DEFAULT);
    tenants.start(&["acme", "globex"]).stop();
    let (code, told) = dead_letters(&tenants, &["replay", "--tenant", "globex"]);
    assert!(code == Some(0) && told.contains("3  are stored"), "{told}");
    assert_eq!((tenants.rows("events_acme"), tenants.rows("events_globex")), (2, 3));
}

/// A hundred tenants cost less than a hundred services.
#[test]
fn a_hundred_idle_tenants_cost_little() {
    let names: Vec<String> = (0..100).map(|i| format!("t{i}")).collect();
    let settings: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let tenants = Tenants::new(&settings);
    let service = tenants.launch().set("MONITORING_INTERVAL", "500ms").start_unready();
    for name in &names {
        until_running(&service, name);
    }
    for name in &names {
        tenants.add(name, 1);
    }
    for name in &names {
        tenants.until_rows(&format!("events_{name}"), 1);
        tenants.stream(name).until_drained();
    }
    let connections = tenants.scene.database.value::<i64>(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sluicegate'",
    );
    // One more connection may be housekeeping at the moment.
    assert!(connections <= 11, "{connections} connections to postgres");
    let memory = service.memory_bytes() >> 20;
    assert!(memory < 150, "{memory} MiB");
    let ended = service.stop();
    assert!(!ended.log.contains("WARN"), "{}", ended.log);
    let mut letters =
        ended.log.lines().filter(|line| line.contains("metrics") && line.contains("processed=1 "));
    assert!(letters.next().is_some());
}

#[test]
fn the_shutdown_drains_every_tenant() {
    let names: Vec<String> = (0..8).map(|i| format!("t{i}")).collect();
    let settings: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "batch_size = 20")).collect();
    let tenants = Tenants::new(&settings);
    let service = tenants.start(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        tenants.add(name, 2_000);
    }
    tenants.until_some("events_t7");
    service.stop();
    for name in &names {
        let stream = tenants.stream(name);
        let read = stream.group_info("entries-read").and_then(|read| read.parse::<i64>().ok()).unwrap_or(0);
        assert_eq!(stream.pending().len(), 0, "{name}: what was read is acknowledged");
        assert_eq!(tenants.rows(&format!("events_{name}")), read, "{name}: what was read is stored");
    }
}
