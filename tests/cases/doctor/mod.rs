//! Tests `sluicegate doctor`: it finds what is wrong on real servers, says what to do, and changes nothing.

mod postgres;
mod redis;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use ::redis::cmd;
use serde_json::Value;
use sluicegate_demo::servers::{Options, Postgres, Redis};
use sluicegate_tests::{Event, GRANTS, Launch, STATEMENTS, Scene, Stage, Tenants, fields, guests, rules};

/// Holds what the command has told.
struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

/// Runs the command, which must tell JSON and no password.
fn examined(launch: Launch, arguments: &[&str]) -> Report {
    let output = launch.tool(&[&["doctor", "--json"], arguments].concat()).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!out.contains("hunter2") && !err.contains("hunter2"), "a password is told:\n{out}{err}");
    assert!(err.is_empty(), "{err}");
    let findings: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let page = include_str!("../../../docs/operations.md");
    for id in findings.iter().map(|finding| text(finding, "id")) {
        assert!(page.contains(&format!("`{id}`")), "{id} is not in docs/operations.md");
    }
    Report { code: output.status.code(), findings }
}

impl Report {
    /// Returns identifier and level of what is not well, in their order.
    fn told(&self) -> Vec<(&str, &str)> {
        let told = self.findings.iter().map(|finding| (text(finding, "id"), text(finding, "level")));
        told.filter(|(_, level)| *level != "ok").collect()
    }

    /// Returns the errors and warnings.
    fn bad(&self) -> Vec<(&str, &str)> {
        self.told().into_iter().filter(|(_, level)| *level != "note").collect()
    }

    fn level(&self, id: &str) -> &str {
        text(self.finding(id), "level")
    }

    fn remedy(&self, id: &str) -> &str {
        text(self.finding(id), "remedy")
    }

    fn finding(&self, id: &str) -> &Value {
        let found = self.findings.iter().find(|finding| text(finding, "id") == id);
        found.unwrap_or_else(|| panic!("no {id} in {:#?}", self.findings))
    }
}

fn text<'a>(finding: &'a Value, name: &str) -> &'a str {
    finding[name].as_str().unwrap_or_else(|| panic!("no {name} in {finding}"))
}

/// Describes everything that a look could have changed.
fn state(scene: &Scene) -> String {
    let stream: String = scene.stream.run(
        cmd("EVAL")
            .arg(
                "if redis.call('EXISTS', KEYS[1]) == 0 then return '' end \
                 local all = {redis.call('XINFO', 'STREAM', KEYS[1], 'FULL'), redis.call('XINFO', 'GROUPS', KEYS[1])} \
                 return cjson.encode(all)",
            )
            .arg(1)
            .arg(&scene.stream.name),
    );
    let tables: String = scene.database.value(
        "SELECT coalesce(string_agg(format('%s %s %s', oid, relname, relacl), '; ' ORDER BY oid), '') FROM pg_class
         WHERE relnamespace = 'public'::regnamespace",
    );
    let extensions: i64 = scene.database.value("SELECT count(*) FROM pg_extension");
    format!("{stream}\n{tables}\n{extensions}")
}

/// The servers are as `make demo` starts them.
#[test]
fn all_is_well_where_the_service_has_run() {
    let (redis, postgres) =
        (Redis::start(&Options::default()).unwrap(), Postgres::start(&Options::default()).unwrap());
    let scene = Scene::on(&redis.url(), &postgres.url());
    let before = state(&scene);
    let report = examined(scene.service(), &[]);
    assert_eq!((report.code, report.bad()), (Some(0), vec![]), "{:#?}", report.findings);
    for id in ["stream-missing", "migrations", "timescaledb", "events-table"] {
        assert_eq!(report.level(id), "note", "{id}");
    }
    assert_eq!(state(&scene), before, "nothing is made");
    assert!(!scene.folder().join("backend").exists());

    let service = scene.start();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    scene.until_stored(1);
    scene.stream.until_drained();
    service.stop();
    let before = state(&scene);
    let report = examined(scene.service(), &["--strict"]);
    assert_eq!((report.code, report.bad()), (Some(0), vec![]), "{:#?}", report.findings);
    assert!(report.findings.len() > 25, "{:#?}", report.findings);
    for id in [
        "settings",
        "sandbox-walls",
        "rules",
        "rules-in-force",
        "redis-version",
        "redis-rights",
        "redis-clock",
        "group-progress",
        "postgres-version",
        "postgres-clock",
        "postgres-pooler",
        "timescaledb",
        "migrations",
        "tables",
        "events-table",
    ] {
        assert_eq!(report.level(id), "ok", "{id}");
    }
    assert_eq!(state(&scene), before, "nothing is changed");

    let output = scene.service().tool(&["doctor"]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let last = out.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("0 errors, 0 warnings, ") && out.contains("ok       redis-version (redis): "),
        "{out}"
    );
}

/// What one server does not say, the other one says all the same, and soon.
#[test]
fn a_server_that_is_away_silent_or_closed_is_a_finding() {
    let (mut redis, mut postgres) =
        (Redis::start(&Options::default()).unwrap(), Postgres::start(&Options::default()).unwrap());
    let scene = Scene::new();
    let own = Scene::on(&redis.url(), &postgres.url());
    let with_redis = || scene.service().set("REDIS_URL", redis_url_of(&own));
    let with_postgres = || scene.service().set("POSTGRES_URL", own.database.url());

    redis.pause().unwrap();
    let begun = Instant::now();
    let report = examined(with_redis(), &[]);
    assert_eq!((report.code, report.bad()), (Some(1), vec![("redis-reachable", "error")]));
    assert_eq!(report.level("postgres-version"), "ok");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    redis.resume().unwrap();
    postgres.pause().unwrap();
    let report = examined(with_postgres(), &[]);
    assert_eq!((report.code, report.bad()), (Some(1), vec![("postgres-reachable", "error")]));
    assert_eq!(report.level("redis-version"), "ok");
    postgres.resume().unwrap();

    redis.stop().unwrap();
    let report = examined(with_redis(), &[]);
    assert_eq!(report.bad(), [("redis-reachable", "error")]);
    assert!(report.remedy("redis-reachable").starts_with("start Redis"));
    postgres.stop().unwrap();
    let report = examined(with_postgres(), &[]);
    assert_eq!(report.bad(), [("postgres-reachable", "error")]);
    assert!(report.remedy("postgres-reachable").starts_with("start PostgreSQL"));
    redis.start_again().unwrap();
    postgres.start_again().unwrap();

    let url = scene.stream.url().replace("redis://", "redis://nobody:hunter2@");
    let report = examined(scene.service().set("REDIS_URL", url), &[]);
    assert_eq!(report.bad(), [("redis-reachable", "error")]);
    assert!(report.remedy("redis-reachable").contains("password"), "{:#?}", report.findings);
    let report = examined(
        scene.service().set("POSTGRES_URL", scene.database.url_of_role("sluicegate_nobody", "hunter2")),
        &[],
    );
    assert_eq!(report.bad(), [("postgres-reachable", "error")]);
    for (name, id) in [("REDIS_URL", "redis-reachable"), ("POSTGRES_URL", "postgres-reachable")] {
        let unreadable = scene.service().set(name, "user:hunter2@localhost");
        assert_eq!(examined(unreadable, &[]).bad(), [(id, "error")]);
        assert_eq!(examined(scene.service().unset(name), &[]).bad(), [(id, "error")]);
    }
}

fn redis_url_of(scene: &Scene) -> &str {
    scene.stream.url()
}

#[test]
fn each_tenant_has_its_findings() {
    let tenants = Tenants::new(&[("acme", "events_table = \"both\""), ("globex", "events_table = \"both\"")]);
    let report = examined(tenants.launch(), &[]);
    assert_eq!(report.bad(), [("settings-shared-table", "warning")]);
    assert!(report.remedy("settings-shared-table").contains("\"events_globex\""), "{:#?}", report.findings);
    tenants.start(&["acme", "globex"]).stop();
    let report = examined(tenants.launch(), &[]);
    for (subject, id) in [("tenant acme", "group-progress"), ("tenant globex", "events-table")] {
        let is_told = |finding: &&Value| text(finding, "subject") == subject && text(finding, "id") == id;
        assert_eq!(report.findings.iter().filter(is_told).count(), 1, "{subject}: {:#?}", report.findings);
    }
}

#[test]
fn files_and_names_in_the_settings() {
    let scene = Scene::new();
    let cache = scene.folder().join("cache");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
    let report = examined(
        scene
            .service()
            .set("GEUST", "guest.wasm")
            .set("GUEST_CACHE", cache.display())
            .set("METRICS_CSV", "/dev/null/metrics.csv")
            .set("GUEST_TIME_LIMIT", "5s")
            .set("ROW_RETRY", "50s"),
        &[],
    );
    assert_eq!(report.code, Some(0));
    assert_eq!(
        report.bad(),
        ["settings-misspelt", "guest-cache", "settings-claim-min-idle", "metrics-csv"]
            .map(|id| (id, "warning"))
    );
    assert_eq!(report.level("settings-row-retry"), "note");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);

    let guest = scene.folder().join("guest.wasm");
    let launch = || scene.service().set("GUEST", guest.display());
    assert_eq!(examined(launch(), &[]).bad(), [("rules", "error")]);
    fs::write(&guest, b"no component").unwrap();
    let report = examined(launch(), &[]);
    assert_eq!(report.bad(), [("rules", "error")]);
    assert!(text(report.finding("rules"), "found").contains("no WebAssembly component"));

    let report = examined(scene.service().set("BATCH_SIZE", 0), &[]);
    assert_eq!((report.code, report.bad()), (Some(1), vec![("settings", "error")]));
    let output = scene.service().tool(&["doctor", "--nonsense"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// The settings name no file, so that they say nothing of what was deployed.
#[test]
fn a_version_in_force_that_the_next_start_would_refuse_is_an_error() {
    let stage = Stage::new();
    let launch = |grants: &str| stage.service(grants).unset("GUEST");
    let grants = format!("{GRANTS}{STATEMENTS}");
    let service = launch(&grants).start();
    let enrich = guests::built("guest_enrich.wasm");
    let deployed = rules(launch(&grants), &["deploy", enrich.to_str().unwrap(), "--wait"]);
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    service.stop();
    assert_eq!(examined(launch(&grants), &[]).level("rules-in-force"), "ok");
    let report = examined(launch(""), &[]);
    assert_eq!((report.level("rules"), report.bad()), ("ok", vec![("rules-in-force", "error")]));
    let found = text(report.finding("rules-in-force"), "found");
    assert!(found.contains("made with grants that the settings of this command do not give"), "{found}");
}
