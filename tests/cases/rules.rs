//! Tests that versions of the rules are deployed, seen and gone back from, and that bad ones do no harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use sluicegate::batch::Digest;
use sluicegate_demo::servers::{Options, Postgres};
use sluicegate_tests::{
    Event, GRANTS, Load, STATEMENTS, Scene, Service, Stage, Told, guests, rules, shared_redis_url, told,
    until,
};

/// Writes a component into the scene's folder.
fn component(scene: &Scene, name: &str, bytes: &[u8]) -> PathBuf {
    let file = scene.folder().join(name);
    fs::write(&file, bytes).unwrap();
    file
}

fn run(scene: &Scene, arguments: &[&str]) -> Told {
    rules(scene.service(), arguments)
}

/// Runs a command that must succeed, and returns what it printed.
fn ran(scene: &Scene, arguments: &[&str]) -> String {
    let told = run(scene, arguments);
    assert_eq!(told.code, Some(0), "{arguments:?}: {told:?}");
    told.out
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn status(scene: &Scene) -> Value {
    serde_json::from_str(&run(scene, &["status", "--json"]).out).expect("JSON")
}

fn deploy(scene: &Scene, file: &Path) -> String {
    let out =
        ran(scene, &["deploy", file.to_str().unwrap(), "--wait", "--json", "-m", "because", "--by", "ann"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["everywhere"], true, "{told}");
    told["deployed"].as_str().unwrap().to_owned()
}

/// Adds an event without properties, which only the strict rules reject, and returns the version of its dead letter, or
/// `stored`.
fn judged(scene: &Scene) -> String {
    let event = Event { properties: None, ..Event::of_type("purchase") };
    let letters =
        "SELECT coalesce(encode(version, 'hex'), 'none') FROM dead_letters ORDER BY id DESC LIMIT 1";
    let counts = "SELECT (SELECT count(*) FROM events) || ' ' || (SELECT count(*) FROM dead_letters)";
    let before: String = scene.database.value(counts);
    scene.stream.add(&event.data());
    until("the event judged", || match scene.database.value::<String>(counts) {
        same if same == before => Err(same),
        _ => Ok(()),
    });
    let stored: i64 =
        scene.database.value(&format!("SELECT count(*) FROM events WHERE event_id = '{}'", event.event_id));
    if stored == 1 { "stored".to_owned() } else { scene.database.value(letters) }
}

#[test]
fn a_version_is_deployed_and_gone_back_from() {
    let scene = Scene::new();
    let service = scene.start();
    let strict = component(&scene, "strict.wasm", guests::STRICT);
    assert_eq!(judged(&scene), "stored");
    let default = status(&scene)["version"].as_str().unwrap().to_owned();
    let version = deploy(&scene, &strict);
    assert_eq!(judged(&scene), version, "the letter names the version");
    assert!(run(&scene, &["deploy", strict.to_str().unwrap()]).out.contains("is wanted already"));

    let listed = lines(&ran(&scene, &["list", "--json"]));
    let found: Vec<_> = listed.iter().map(|row| row["version"].as_str().unwrap()).collect();
    assert_eq!(found, [&version, &default]);
    assert_eq!(listed[0]["component"], Digest::new(guests::STRICT).to_hex());
    assert_eq!((&listed[0]["by"], &listed[0]["message"]), (&"ann".into(), &"because".into()));
    let shown = ran(&scene, &["show", &version[..8]]);
    assert!(shown.contains(&version) && shown.contains("\"guest_memory\""), "{shown}");

    ran(&scene, &["rollback", "--wait"]);
    assert_eq!(judged(&scene), "stored");
    ran(&scene, &["rollback", &version[..12], "--wait", "5s"]);
    assert_eq!(judged(&scene), version);
    let actions: Vec<_> = lines(&ran(&scene, &["history", "--json"]))
        .iter()
        .map(|row| row["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["rollback", "rollback", "deploy", "default"]);

    let text = ran(&scene, &["status"]);
    assert!(text.contains("1 of 1 replicas have it in force since 2"), "{text}");
    assert!(text.contains("consumer-1") && text.contains("in force"), "{text}");
    // A start finds what was deployed.
    service.stop();
    assert_eq!(run(&scene, &["status"]).code, Some(4), "nobody is there");
    let service = scene.start();
    assert_eq!(judged(&scene), version);
    service.stop();
}

#[test]
fn what_cannot_be_deployed_says_why_and_changes_nothing() {
    let scene = Scene::new();
    let service = scene.start();
    let refused = |arguments: &[&str], why: &str| {
        let told = run(&scene, arguments);
        assert!(told.code == Some(3) && told.err.contains(why), "{arguments:?}: {told:?}");
    };
    let before = status(&scene)["version"].clone();
    let module = component(&scene, "module.wasm", guests::CORE_MODULE);
    refused(&["deploy", module.to_str().unwrap()], "a core module, not a component");
    refused(&["deploy", module.to_str().unwrap(), "--tenant", "acme"], "wanted one of: default");
    refused(&["rollback"], "no other version to go back to");
    refused(&["rollback", "0123456789"], "has no version 0123456789");
    assert_eq!(run(&scene, &["rollback", "x"]).code, Some(2));
    let history = lines(&ran(&scene, &["history", "--json"]));
    assert_eq!(history[0]["action"], "refused", "{history:?}");
    assert!(history[0]["message"].as_str().unwrap().contains("core module"), "{history:?}");
    assert_eq!(status(&scene)["version"], before);
    assert_eq!(judged(&scene), "stored");
    // Where a file rules, nothing else does.
    let file = component(&scene, "guest.wasm", guests::DEFAULT);
    let told = rules(scene.service().set("GUEST", file.display()), &["deploy", module.to_str().unwrap()]);
    assert!(told.code == Some(3) && told.err.contains("come from the file"), "{told:?}");
    service.stop();
}

/// A restart with a bad file is no loop of crashes: what ran before goes on.
#[test]
fn a_start_with_a_bad_file_goes_on_with_the_last_version() {
    let scene = Scene::new();
    let file = component(&scene, "guest.wasm", guests::STRICT);
    let launch = || scene.service().set("GUEST", file.display());
    launch().start().stop();
    for (label, bad, why) in
        [(1, Some(&b"half a guest"[..]), "no WebAssembly component"), (2, None, "No such file")]
    {
        match bad {
            Some(bytes) => fs::write(&file, bytes).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let service = launch().start();
        let line = service.until_logged(&["going on with the version that was in force last"]);
        assert!(line.contains(why) && line.contains("ERROR"), "{line}");
        assert_ne!(judged(&scene), "stored", "by the strict rules");
        let told = rules(launch(), &["status"]);
        assert!(told.code == Some(4) && told.out.contains(why), "{told:?}");
        let refused = || service.admin().metric(r#"rules_refused{tenant="default"}"#);
        assert_eq!(refused(), Some(1.0));
        // A good file comes into force without a restart.
        fs::write(&file, guests::relabelled(guests::STRICT, label)).unwrap();
        service.until_logged(&["new guest loaded"]);
        until("the replica to say so", || match rules(launch(), &["status"]) {
            told if told.code == Some(0) => Ok(()),
            told => Err(told.out),
        });
        assert_eq!(refused(), Some(0.0));
        service.stop();
    }
}

#[test]
fn a_pause_lasts_until_it_is_ended() {
    let scene = Scene::new();
    let service = scene.start();
    assert_eq!(judged(&scene), "stored");
    let out = ran(&scene, &["pause", "--wait", "-m", "a migration"]);
    assert!(out.contains("nothing more is to be read"), "{out}");
    service.until_logged(&["a deployment wants the reading to stop"]);
    until("the state told", || match service.log().contains("state=\"paused\"") {
        true => Ok(()),
        false => Err("another state".to_owned()),
    });
    service.stop();
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    service.until_logged(&["state=\"paused\""]);
    assert_eq!(scene.database.events().len(), 1, "nothing is read after a restart either");
    ran(&scene, &["resume", "--wait"]);
    scene.until_stored(2);
    service.stop();
}

fn replica(scene: &Scene, name: &str) -> Service {
    scene.service().set("CONSUMER_NAME", name).set("CLAIM_MIN_IDLE", "5s").start()
}

fn start_two(scene: &Scene) -> [Service; 2] {
    ["consumer-1", "consumer-2"].map(|name| replica(scene, name))
}

/// Each replica hears of a deployment at once, and one that was killed finds it at its next start.
#[test]
fn replicas_converge() {
    let scene = Scene::new();
    let [one, two] = start_two(&scene);
    let (strict, other) = (
        component(&scene, "strict.wasm", guests::STRICT),
        component(&scene, "other.wasm", &guests::relabelled(guests::DEFAULT, 1)),
    );
    let begun = Instant::now();
    let version = deploy(&scene, &strict);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(status(&scene)["replicas_in_force"], 2);
    two.end_with(Signal::KILL);
    let told = run(&scene, &["deploy", other.to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let two = replica(&scene, "consumer-2");
    until("both at the new version", || match status(&scene) {
        status if status["everywhere"] == true && status["version"] != version.as_str() => Ok(()),
        status => Err(status.to_string()),
    });
    one.stop();
    two.stop();
}

/// A pod that starts and whoever deploys come at the same time, as a rule.
#[test]
fn a_deployment_during_a_start_is_not_taken_back() {
    let scene = Scene::new();
    let strict = component(&scene, "strict.wasm", guests::STRICT);
    let other = component(&scene, "other.wasm", &guests::relabelled(guests::STRICT, 1));
    // The first start would want the default rules, and the second one those of before with other settings.
    for (settings, file) in [("{}", strict), ("{a = \"1\"}", other)] {
        let launch = || scene.service().set("GUEST_SETTINGS", settings);
        let service = launch().with_failpoints("before_record=delay:3000/1").start_unready();
        service.until_logged(&["failpoint", "before_record"]);
        let told = rules(launch(), &["deploy", file.to_str().unwrap(), "--wait", "--json"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        let version = serde_json::from_str::<Value>(&told.out).unwrap()["deployed"].clone();
        assert_eq!(judged(&scene), version);
        assert_eq!(status(&scene)["version"], version);
        service.stop();
    }
}

/// The file held what was deployed before it, after it had held something else.
#[test]
fn a_file_that_held_the_same_may_go() {
    let scene = Scene::new();
    let strict = component(&scene, "strict.wasm", guests::STRICT);
    let other = component(&scene, "other.wasm", &guests::relabelled(guests::STRICT, 1));
    let service = scene.start();
    let version = deploy(&scene, &strict);
    service.stop();
    for file in [&other, &strict] {
        scene.service().set("GUEST", file.display()).start().stop();
    }
    let service = scene.start();
    assert_eq!(judged(&scene), version);
    service.stop();
}

/// Who waits for a deployment is told when it was overtaken.
#[test]
fn a_deployment_that_is_overtaken_is_told() {
    let scene = Scene::new();
    let (strict, other) = (
        component(&scene, "strict.wasm", guests::STRICT),
        component(&scene, "other.wasm", &guests::relabelled(guests::STRICT, 1)),
    );
    ran(&scene, &["deploy", strict.to_str().unwrap()]);
    let waiting = std::thread::scope(|scope| {
        // There is no replica yet, so it waits.
        let waiting = scope.spawn(|| run(&scene, &["deploy", strict.to_str().unwrap(), "--wait", "20s"]));
        until("the first to wait", || {
            match scene.database.value::<i64>("SELECT count(*) FROM admin_audit") {
                0..2 => Err("it was not recorded yet".to_owned()),
                _ => Ok(()),
            }
        });
        ran(&scene, &["deploy", other.to_str().unwrap()]);
        let service = scene.start();
        let waiting = waiting.join().unwrap();
        service.stop();
        waiting
    });
    assert_eq!(waiting.code, Some(4), "{waiting:?}");
    assert!(waiting.out.contains("another version was deployed after this one"), "{waiting:?}");
}

/// A database that is killed in mid-deployment has it afterwards or has it not, and every replica sees the same.
#[test]
fn a_database_that_is_killed_in_mid_deployment_leaves_one_version_everywhere() {
    let mut postgres = Postgres::start(&Options::default()).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let [one, two] = start_two(&scene);
    for (label, delay_ms) in [(1, 0), (2, 40), (3, 80), (4, 160), (5, 320)] {
        let strict = guests::relabelled(guests::STRICT, label);
        let file = component(&scene, "next.wasm", &strict);
        let arguments = ["rules", "deploy", file.to_str().unwrap()];
        let mut deploying = scene.service().tool(&arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        postgres.kill().unwrap();
        let is_deployed = deploying.wait().unwrap().success();
        postgres.start_again().unwrap();
        let everywhere = until("one version everywhere", || match run(&scene, &["status", "--json"]) {
            told if told.code == Some(0) && told.out.contains("\"replicas_in_force\":2") => {
                Ok(serde_json::from_str::<Value>(&told.out).unwrap())
            }
            told => Err(format!("{told:?}")),
        });
        let component = Digest::new(&strict).to_hex();
        let shown = run(&scene, &["show", everywhere["version"].as_str().unwrap(), "--json"]).out;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert!(!is_deployed || shown["component"] == *component, "{shown}, wanted {component}");
        let judge = judged(&scene);
        assert!(judge == "stored" || everywhere["version"] == *judge, "{judge}: {everywhere}");
    }
    one.stop();
    two.stop();
}

/// Settings decide as much as a component does.
#[test]
fn other_settings_are_another_version() {
    let scene = Scene::new();
    scene.start().stop();
    let before = status(&scene)["version"].clone();
    scene.service().set("GUEST_MEMORY", "64MiB").start().stop();
    let after = status(&scene);
    assert!(after["version"] != before && after["action"] == "settings", "{after}");
    scene.service().set("GUEST_MEMORY", "64MiB").start().stop();
    assert_eq!(lines(&ran(&scene, &["history", "--json"])).len(), 2, "the same settings are no deployment");
    let strict = component(&scene, "strict.wasm", guests::STRICT);
    let file = strict.to_str().unwrap();
    ran(&scene, &["deploy", file, "--set", "a=b"]);
    ran(&scene, &["deploy", file, "--set", "a=c"]);
    let listed = lines(&ran(&scene, &["list", "--json"]));
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[0]["manifest"]["settings"]["a"], "c");
}

/// The last versions are ready: to go back to one compiles nothing.
#[test]
fn a_rollback_does_not_compile() {
    let scene = Scene::new();
    let service = scene.start();
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(200_000);
    let slow = guests::handmade_of(&format!("(func (local i32) {sum}) (func $provoked (param i32))"));
    deploy(&scene, &component(&scene, "slow.wasm", &slow));
    deploy(&scene, &component(&scene, "strict.wasm", guests::STRICT));
    let spent = service.children_spent();
    let at = "SELECT max(since) FROM rules_replicas";
    let asked = "SELECT max(at) FROM rules_deployments";
    ran(&scene, &["rollback", "--wait"]);
    let took: f64 = scene.database.value(&format!("SELECT extract(epoch FROM ({at}) - ({asked}))::float8"));
    assert!(took < 2.0, "{took} s");
    let compiled = service.children_spent() - spent;
    assert!(compiled < Duration::from_millis(500), "{compiled:?}");
    service.stop();
}

/// A row tells by whom it was made, if the operator wants that.
#[test]
fn a_row_names_its_version() {
    let scene = Scene::new();
    scene.start().stop();
    scene.database.execute("ALTER TABLE events ADD COLUMN rules_version INT");
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    let other = component(&scene, "other.wasm", &guests::relabelled(guests::DEFAULT, 1));
    let version = deploy(&scene, &other);
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    let named = "SELECT string_agg(encode(version, 'hex'), ' ' ORDER BY number)
                 FROM events JOIN rules_versions ON number = rules_version";
    let named: String = scene.database.value(named);
    assert_eq!(named.split(' ').nth(1), Some(version.as_str()), "{named}");
    service.stop();
}

/// The admin API does the same as the command line.
#[test]
fn rules_are_deployed_by_http() {
    const RULES: &str = "/v1/tenants/default/rules";
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let deploy = |query: &str, bytes: &[u8]| {
        admin.post(&format!("{RULES}/deployments{query}"), "application/wasm", bytes)
    };
    let deployed = deploy("?message=because", guests::STRICT);
    assert_eq!(deployed.status, 200, "{deployed:?}");
    let version = deployed.json()["deployed"].as_str().unwrap().to_owned();
    let everywhere = || {
        until("every replica at the last deployment", || match admin.get(RULES).json() {
            status if status["everywhere"] == true => Ok(()),
            status => Err(status.to_string()),
        });
    };
    everywhere();
    assert_eq!(judged(&scene), version);
    let component = Digest::new(guests::STRICT);
    let info =
        format!(r#"rules_info{{tenant="default",version="{}",component="{component}"}}"#, &version[..12]);
    assert_eq!(admin.metric(&info), Some(1.0));
    let history = admin.get(&format!("{RULES}/deployments")).json();
    assert_eq!(history["deployments"][0]["by"], "local");
    assert_eq!(history["deployments"][0]["message"], "because");
    let shown = admin.get(&format!("{RULES}/versions/{}", &version[..12])).json();
    assert_eq!(shown["component"], Digest::new(guests::STRICT).to_hex());

    let refused = deploy("", guests::CORE_MODULE).problem(422);
    assert!(refused.contains("a core module, not a component"), "{refused}");
    assert!(deploy("?settings=7", guests::STRICT).problem(400).contains("a JSON object of text"));
    assert_eq!(admin.get(&format!("{RULES}/versions/zz")).status, 400);
    assert_eq!(admin.get(&format!("{RULES}/versions/0123456789")).status, 404);
    assert_eq!(admin.get(&format!("{RULES}/versions?limit=0")).status, 400);
    assert_eq!(admin.get("/v1/tenants/nobody/rules").status, 404);

    assert_eq!(admin.ask("POST", &format!("{RULES}/rollback")).status, 200);
    everywhere();
    assert_eq!(judged(&scene), "stored");
    let paused = admin.post(&format!("{RULES}/pause"), "application/json", b"{\"message\": \"now\"}");
    assert_eq!(paused.json()["paused"], true, "{paused:?}");
    everywhere();
    assert_eq!(admin.until_ready(true)["ready"], true, "a pause is no trouble");
    let resumed = admin.post(&format!("{RULES}/resume"), "application/json", b"{}");
    assert_eq!(resumed.json()["paused"], false, "{resumed:?}");
    assert_eq!(judged(&scene), "stored");
    service.stop();
}

/// Two replicas under load, one of them killed in the middle of it: every row and every dead letter is there once, and is
/// traced to one version.
#[test]
fn deployments_under_load_lose_nothing() {
    let scene = Scene::new();
    scene.start().stop();
    scene.database.execute("ALTER TABLE events ADD COLUMN rules_version INT");
    let [one, two] = start_two(&scene);
    let mut load = Load::start(&scene.stream, 17, 20);
    let versions: Vec<Vec<u8>> = (0..8).map(|label| guests::relabelled(guests::DEFAULT, label)).collect();
    let bad = component(&scene, "bad.wasm", guests::CORE_MODULE);
    let mut two = Some(two);
    for (i, version) in versions.iter().enumerate() {
        load.until_sent(200);
        let file = component(&scene, &format!("v{i}.wasm"), version);
        assert_eq!(run(&scene, &["deploy", file.to_str().unwrap()]).code, Some(0));
        match i {
            2 => assert_eq!(run(&scene, &["deploy", bad.to_str().unwrap()]).code, Some(3)),
            4 => drop(two.take().map(Service::crash)),
            5 => two = Some(replica(&scene, "consumer-2")),
            6 => assert_eq!(run(&scene, &["rollback"]).code, Some(0)),
            _ => {}
        }
    }
    load.until_sent(500);
    load.stop();
    until("both replicas at the last version", || match status(&scene) {
        status if status["everywhere"] == true && status["replicas_in_force"] == 2 => Ok(()),
        status => Err(status.to_string()),
    });
    // What the killed replica had is taken over.
    sluicegate_tests::until_within(Duration::from_secs(120), "the stream drained", || {
        match scene.stream.is_drained() {
            true => Ok(()),
            false => Err(one.log_tail()),
        }
    });
    let digests: Vec<Digest> = versions.iter().map(|version| Digest::new(version)).collect();
    let report = load.audit(&scene, &digests, false);
    assert!(report.adds_up() && report.rows > 1_000, "{report:#?}");
    let traced = |table: &str, to: &str| {
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT FROM rules_versions AS v WHERE {to})"
        );
        assert_eq!(scene.database.value::<i64>(&sql), 0, "{table}");
    };
    traced("events", "v.number = events.rules_version");
    traced("dead_letters", "v.version = dead_letters.version AND v.tenant = dead_letters.tenant");
    let judges: i64 = scene.database.value("SELECT count(DISTINCT rules_version) FROM events");
    assert!(judges >= 5, "{judges} versions have judged");
    one.stop();
    drop(two.map(Service::stop));
}

/// What an operator has taken away does not go on by a version that was made with it.
#[test]
fn a_grant_that_is_taken_away_is_gone_with_the_next_start() {
    let stage = Stage::new();
    let launch = || stage.service(&format!("{GRANTS}{STATEMENTS}")).unset("GUEST");
    let service = launch().start();
    let enrich = guests::built("guest_enrich.wasm");
    let deployed = rules(launch(), &["deploy", enrich.to_str().unwrap(), "--wait"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    let event = Event { user_id: "ada".to_owned(), ..Event::new() };
    stage.add(&[event]);
    stage.scene.until_stored(1);
    assert_eq!(stage.counted("ada"), 1);
    stage.scene.stream.add(&sluicegate_tests::fields([("data", "no event")]));
    stage.scene.stream.until_drained();
    // A replay does not have more than its own settings grant either.
    let replayed = told(stage.service("").unset("GUEST"), &["replay"]);
    assert_ne!(replayed.code, Some(0), "{replayed:?}");
    let lacks =
        "do not give tenant default now: under [grants] `stream = true`, `metrics = true`, `publish = { ";
    let statement = "[statements.touch_user] as the manifest in `sluicegate rules show ";
    let of_replay = format!("made with grants that the settings of this replay {lacks}");
    assert!(replayed.err.contains(&of_replay) && replayed.err.contains(statement), "{replayed:?}");
    service.stop();
    // The versions of that component were made with it. The default rules use no grant.
    let service = stage.service("").unset("GUEST").start();
    let of_replica = format!("made with grants that the settings of replica consumer-1 {lacks}");
    service.until_logged(&[&of_replica, statement]);
    stage.add(&[Event { user_id: "ada".to_owned(), ..Event::new() }]);
    stage.scene.until_stored(2);
    assert_eq!(stage.counted("ada"), 1);
    service.stop();
    // Who is granted it again has it again.
    let service = launch().start();
    stage.add(&[Event { user_id: "ada".to_owned(), ..Event::new() }]);
    stage.scene.until_stored(3);
    assert_eq!(stage.counted("ada"), 2);
    service.stop();
}

#[test]
fn what_nobody_needs_is_deleted_and_what_is_in_force_stays() {
    let scene = Scene::new();
    let service = scene.start();
    assert_eq!(judged(&scene), "stored");
    ran(&scene, &["pause", "--wait"]);
    ran(&scene, &["resume", "--wait"]);
    let version = status(&scene)["version"].as_str().unwrap().to_owned();
    service.stop();
    scene.database.execute(
        "INSERT INTO rules_components (component, bytes, stored_at) VALUES
             (sha256('old'), 'old', now() - INTERVAL '2 days'), (sha256('young'), 'young', now()),
             (sha256('used'), 'used', now() - INTERVAL '2 days');
         INSERT INTO rules_versions (tenant, version, component, manifest, source, author)
             SELECT 'default', sha256(int4send(n)), sha256('used'), '', '', '' FROM generate_series(1, 150) AS n;
         INSERT INTO rules_deployments (tenant, action, version, author)
             SELECT 'default', 'refused', NULL, '' FROM generate_series(1, 10050);
         INSERT INTO rules_replicas (tenant, consumer, instance, version, settings, events_table, seen_at, since) VALUES
             ('default', 'gone', gen_random_uuid(), NULL, '', '', now() - INTERVAL '40 days', now() - INTERVAL '40 days'),
             ('default', 'away', gen_random_uuid(), sha256(int4send(7)), '', '', now() - INTERVAL '40 days', now())",
    );
    let kept = |service: Service| {
        let left = "SELECT (SELECT count(*) FROM rules_versions) || ' ' || (SELECT count(*) FROM rules_deployments) || ' '
                        || (SELECT string_agg(convert_from(bytes, 'UTF8'), ' ' ORDER BY stored_at) FROM rules_components
                            WHERE length(bytes) < 10)
                        || ' ' || (SELECT string_agg(consumer, ' ' ORDER BY consumer) FROM rules_replicas)";
        // 100 versions, what is in force, and what a replica has; of the history the end, what is wanted, and the last
        // pause or its end.
        let wanted = "102 10002 used young away consumer-1";
        until("what is left of the rules", || match scene.database.value::<String>(left) {
            found if found == wanted => Ok(()),
            found => Err(found),
        });
        assert_eq!(judged(&scene), "stored");
        assert_eq!(status(&scene)["version"], *version);
        service.stop();
    };
    kept(scene.start());
    kept(scene.start());
}

#[test]
fn a_replica_that_the_database_has_forgotten_tells_again_what_it_has_in_force() {
    let scene = Scene::new();
    let service = scene.start();
    assert_eq!(judged(&scene), "stored");
    scene.database.execute("DELETE FROM rules_replicas");
    until("the replica in the table again", || {
        match scene.database.value::<i64>("SELECT count(*) FROM rules_replicas") {
            1 => Ok(()),
            none => Err(none.to_string()),
        }
    });
    let text = ran(&scene, &["status"]);
    assert!(text.contains("1 of 1 replicas have it in force since 2"), "{text}");
    service.stop();
}
