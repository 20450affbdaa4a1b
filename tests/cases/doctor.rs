//! Tests `sluicegate doctor`: it finds what is wrong on real servers, says what to do, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;
use sluicegate_demo::servers::{Options, Postgres, Redis};
use sluicegate_tests::{Event, Fields, Launch, Scene, fields, shared_postgres_url, shared_redis_url};

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
    let page = include_str!("../../docs/operations.md");
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

fn configured(redis: &Redis, name: &str, value: &str) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut connection).unwrap();
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

#[test]
fn a_redis_that_forgets_is_told_with_the_remedy() {
    let options = Options { settings: vec![("min-replicas-to-write".to_owned(), "1".to_owned())] };
    let redis = Redis::start(&options).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    for (name, value) in [
        ("maxmemory", "500mb"),
        ("maxmemory-policy", "allkeys-lru"),
        ("appendonly", "no"),
        ("timeout", "30"),
        ("tcp-keepalive", "0"),
    ] {
        configured(&redis, name, value);
    }
    let report = examined(scene.service(), &[]);
    assert_eq!(report.code, Some(1));
    let wanted = [("redis-eviction", "error"), ("redis-replicas", "error"), ("redis-persistence", "warning")];
    assert_eq!(report.bad(), wanted, "{:#?}", report.findings);
    for id in ["redis-timeout", "redis-keepalive"] {
        assert_eq!(report.level(id), "note", "{id}");
    }
    assert!(report.remedy("redis-eviction").starts_with("redis-cli CONFIG SET maxmemory-policy noeviction"));
    for (name, value) in
        [("maxmemory-policy", "noeviction"), ("min-replicas-to-write", "0"), ("appendonly", "yes")]
    {
        configured(&redis, name, value);
    }
    assert_eq!(examined(scene.service(), &[]).bad(), []);
}

#[test]
fn a_replica_and_a_node_of_a_cluster_are_told() {
    let redis = Redis::start(&Options::default()).unwrap();
    let with =
        |name: &str, value: String| Redis::start(&Options { settings: vec![(name.to_owned(), value)] });
    let replica = with("replicaof", format!("127.0.0.1 {}", redis.port())).unwrap();
    let node = with("cluster-enabled", "yes".to_owned()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let report = examined(scene.service().set("REDIS_URL", replica.url()), &[]);
    assert_eq!(report.bad(), [("redis-role", "error")]);
    let report = examined(scene.service().set("REDIS_URL", node.url()), &[]);
    assert_eq!(report.bad(), [("stream-readable", "error"), ("redis-mode", "warning")]);
}

/// Makes a user with the rights of docs/operations.md, but for these, and these besides.
fn user(scene: &Scene, without: &[&str], with: &[&str]) {
    let page = include_str!("../../docs/operations.md");
    let (_, list) = page.split_once("on streams that are granted:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let rights = list.split('`').skip(1).step_by(2).map(|right| right.to_lowercase().replace(' ', "|"));
    let rights = rights.filter(|right| !without.contains(&right.as_str())).map(|right| format!("+{right}"));
    let mut user = cmd("ACL");
    user.arg("SETUSER").arg("few").arg("reset").arg("on").arg(">hunter2").arg("-@all");
    scene.stream.run::<()>(user.arg(rights.collect::<Vec<_>>()).arg(with));
}

#[test]
fn rights_that_a_redis_user_lacks_are_found_without_effect() {
    let redis = Redis::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let key = format!("~{}", scene.stream.name);
    scene.stream.add(&Event::new().data());
    scene.stream.make_group();
    scene.stream.read_as("consumer-1", 1);
    scene.stream.add(&Event::new().data());
    let launch = || scene.service().set("REDIS_URL", redis.url().replace("redis://", "redis://few:hunter2@"));
    let before = state(&scene);

    user(&scene, &[], &[&key]);
    let report = examined(launch(), &[]);
    assert_eq!(report.bad(), [], "what the page lists is enough: {:#?}", report.findings);
    assert_eq!(report.remedy("redis-not-told"), "ACL SETUSER USER +config|get +acl|whoami +time");

    // With ACL DRYRUN, and by the commands themselves.
    for with in [&[][..], &["+acl|whoami", "+acl|dryrun"]] {
        user(&scene, &["xclaim", "xgroup|setid", "multi"], &[&[key.as_str()], with].concat());
        let report = examined(launch(), &[]);
        assert_eq!((report.code, report.bad()), (Some(1), vec![("redis-rights", "error")]));
        let name = if with.is_empty() { "USER" } else { "few" };
        let wanted = format!("ACL SETUSER {name} +xclaim +xgroup|setid +multi");
        assert_eq!(report.remedy("redis-rights"), wanted);
    }
    let remedy = ["SETUSER", "few", "+xclaim", "+xgroup|setid", "+multi"];
    scene.stream.run::<()>(cmd("ACL").arg(&remedy));
    assert_eq!(examined(launch(), &[]).bad(), []);

    user(&scene, &[], &["~other"]);
    let report = examined(launch(), &[]);
    assert_eq!(report.bad(), [("redis-rights", "error")]);
    assert_eq!(report.remedy("redis-rights"), format!("ACL SETUSER USER {key}"));
    assert_eq!(state(&scene), before, "no group, no consumer, no entry");
}

#[test]
fn streams_to_publish_to_are_tried_without_an_entry() {
    let redis = Redis::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let (granted, number) = (scene.stream.sibling("granted"), scene.stream.sibling("number"));
    let publish = format!("publish = {{ \"{}\" = 100, \"{}\" = 0 }}", granted.name, number.name);
    fs::write(scene.folder().join("sluicegate.toml"), format!("[grants]\n{publish}\n")).unwrap();
    assert_eq!(examined(scene.service(), &[]).bad(), []);
    scene.stream.run::<()>(cmd("SET").arg(&number.name).arg("1"));
    assert_eq!(examined(scene.service(), &[]).bad(), [("redis-publishing", "error")]);

    user(&scene, &[], &[&format!("~{}", scene.stream.name)]);
    let url = redis.url().replace("redis://", "redis://few:hunter2@");
    let report = examined(scene.service().set("REDIS_URL", url), &[]);
    assert_eq!(report.bad(), [("redis-publishing", "error"), ("redis-publishing", "error")]);
    assert_eq!(report.remedy("redis-publishing"), format!("ACL SETUSER USER ~{} +xadd", granted.name));
    assert_eq!(scene.stream.run::<i64>(cmd("EXISTS").arg(&granted.name)), 0);
}

#[test]
fn a_group_in_trouble() {
    let scene = Scene::new();
    scene.start().stop();
    let events: Vec<Fields> = (0..10).map(|_| Event::new().data()).collect();
    scene.stream.add_all(&events);
    scene.stream.read_as("gone", 2);
    let trimmed: u64 = scene.stream.run(cmd("XTRIM").arg(&scene.stream.name).arg("MAXLEN").arg(5));
    assert_eq!(trimmed, 5);
    std::thread::sleep(Duration::from_millis(600));
    let report =
        examined(scene.service().set("CLAIM_MIN_IDLE", "100ms").set("GUEST_TIME_LIMIT", "10ms"), &[]);
    assert_eq!(report.code, Some(1));
    for (id, level) in [
        ("entries-lost", "error"),
        ("pending-entries", "warning"),
        ("consumers-gone", "warning"),
        ("consumer-name", "note"),
    ] {
        assert_eq!(report.level(id), level, "{:#?}", report.findings);
    }
    assert!(text(report.finding("entries-lost"), "found").starts_with("3 entries"), "{:#?}", report.findings);

    let other = Scene::new();
    other.stream.run::<()>(cmd("SET").arg(&other.stream.name).arg("text"));
    assert_eq!(examined(other.service(), &[]).bad(), [("stream-readable", "error")]);
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
fn settings_of_a_database_that_weaken_it() {
    let scene = Scene::new();
    scene.start().stop();
    let database: String = scene.database.value("SELECT current_database()");
    let alter = |setting: &str| scene.database.execute(&format!("ALTER DATABASE {database} {setting}"));
    alter("SET synchronous_commit = off");
    let report = examined(scene.service(), &[]);
    let weak = vec![("postgres-synchronous-commit", "warning")];
    assert_eq!((report.code, report.bad()), (Some(0), weak.clone()));
    let report = examined(scene.service(), &["--strict"]);
    assert_eq!((report.code, report.bad()), (Some(1), weak));
    let remedy = report.remedy("postgres-synchronous-commit").split(", or ").next().unwrap().to_owned();
    scene.database.execute(&remedy);
    assert_eq!(examined(scene.service(), &["--strict"]).code, Some(0), "{remedy}");

    alter("SET idle_session_timeout = '60s'");
    alter("CONNECTION LIMIT 5");
    alter("SET default_transaction_read_only = on");
    let report = examined(scene.service(), &[]);
    let bad = [("postgres-role", "error"), ("postgres-connections", "warning")];
    assert_eq!(report.bad(), bad, "{:#?}", report.findings);
    assert_eq!(report.level("postgres-idle-sessions"), "note");
}

/// Holds a role of the test's own, which is dropped with its rights.
struct Role<'a>(&'a Scene, String);

impl Role<'_> {
    fn launch(&self) -> Launch {
        self.0.service().set("POSTGRES_URL", self.0.database.url_of_role(&self.1, "hunter2"))
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        self.0.database.execute(&format!("DROP OWNED BY {0} CASCADE; DROP ROLE {0}", self.1));
    }
}

#[test]
fn rights_that_a_role_lacks_become_statements_to_run() {
    let scene = Scene::new();
    let role = Role(&scene, format!("{}_role", scene.stream.name));
    scene.database.execute(&format!(
        "CREATE ROLE {} LOGIN PASSWORD 'hunter2'; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        role.1
    ));
    let report = examined(role.launch(), &[]);
    assert_eq!(report.bad(), [("postgres-schema", "error"), ("timescaledb", "error")]);
    assert!(report.remedy("timescaledb").contains("CREATE EXTENSION timescaledb"));

    scene.start().stop();
    let report = examined(role.launch(), &[]);
    let lacks = report.bad();
    assert!(lacks.iter().all(|lack| *lack == ("table-rights", "error")), "{lacks:?}");
    let remedies: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| text(finding, "id") == "table-rights")
        .map(|finding| text(finding, "remedy"))
        .collect();
    assert_eq!(remedies.len(), 7, "ours, that of the migrations, and events: {remedies:?}");
    remedies.iter().for_each(|remedy| scene.database.execute(remedy));
    let report = examined(role.launch(), &["--strict"]);
    assert_eq!((report.code, report.bad()), (Some(0), vec![]), "{:#?}", report.findings);
    let service = role.launch().start();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    scene.until_stored(1);
    scene.stream.until_drained();
    service.stop();
}

#[test]
fn migrations_that_are_missing_later_or_of_another_program() {
    let scene = Scene::new();
    scene.start().stop();
    for (change, level, part) in [
        ("DELETE FROM _sqlx_migrations WHERE version = 9", "warning", ": 9"),
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of later', true, '\\x00', 0)",
            "warning",
            ": 9",
        ),
        ("UPDATE _sqlx_migrations SET success = false WHERE version = 8", "error", ": 8"),
        ("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1", "error", "another program: 1"),
    ] {
        scene.database.execute(change);
        let report = examined(scene.service(), &[]);
        assert_eq!(report.bad(), [("migrations", level)], "{change}");
        assert!(text(report.finding("migrations"), "found").ends_with(part), "{:#?}", report.findings);
    }
}

#[test]
fn tables_that_somebody_has_changed() {
    let scene = Scene::new();
    scene.start().stop();
    for (change, id, level, undo) in [
        (
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()",
            "table-triggers",
            "note",
            "DROP TRIGGER note ON events",
        ),
        (
            "CREATE TRIGGER note BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION note()",
            "table-triggers",
            "warning",
            "DROP TRIGGER note ON events",
        ),
        (
            "ALTER TABLE events ADD COLUMN note TEXT NOT NULL",
            "table-columns",
            "error",
            "ALTER TABLE events DROP COLUMN note",
        ),
        (
            "CREATE UNIQUE INDEX one ON events (user_id, time)",
            "table-unique-indexes",
            "note",
            "DROP INDEX one",
        ),
        ("ALTER TABLE decided SET UNLOGGED", "table-unlogged", "error", "ALTER TABLE decided SET LOGGED"),
        (
            "ALTER TABLE dead_letters RENAME TO letters",
            "tables",
            "ok", // it is made again at the start
            "ALTER TABLE letters RENAME TO dead_letters",
        ),
    ] {
        scene.database.execute(change);
        let report = examined(scene.service(), &[]);
        assert_eq!(report.level(id), level, "{change}");
        assert_eq!(report.bad().len(), usize::from(["error", "warning"].contains(&level)), "{change}");
        scene.database.execute(undo);
    }
    scene.database.execute("DROP TABLE events; CREATE TABLE events (number BIGINT PRIMARY KEY)");
    let report = examined(scene.service(), &[]);
    assert_eq!(report.bad(), [("events-table", "error")]);
    assert!(text(report.finding("events-table"), "wanted").contains("event_id uuid"));
}

/// They are planned, and none is run. What PostgreSQL says may repeat a value, which may be a secret.
#[test]
fn granted_statements_that_cannot_run() {
    let scene = Scene::new();
    scene.start().stop();
    scene.database.execute("CREATE TABLE notes (text TEXT)");
    let file = r#"
[grants]
statements = ["gone", "note", "secret"]
[statements.gone]
sql = "SELECT name FROM customers WHERE id = $1"
parameters = ["integer"]
[statements.note]
sql = "INSERT INTO notes VALUES ($1)"
parameters = ["text"]
[statements.secret]
sql = "SELECT 'hunter2'::bigint"
"#;
    fs::write(scene.folder().join("sluicegate.toml"), file).unwrap();
    let report = examined(scene.service(), &[]);
    assert_eq!(report.bad(), [("granted-statement", "error"), ("granted-statement", "error")]);
    let found = text(report.finding("granted-statement"), "found");
    assert!(found.contains("\"gone\"") && found.contains("\"customers\" does not exist"), "{found}");
    assert_eq!(scene.database.value::<i64>("SELECT count(*) FROM notes"), 0);
}

/// Policies do not hold for superusers and owners.
#[test]
fn policies_that_hold_for_the_role() {
    let scene = Scene::new();
    scene.start().stop();
    let role = Role(&scene, format!("{}_role", scene.stream.name));
    scene.database.execute(&format!(
        "CREATE ROLE {0} LOGIN PASSWORD 'hunter2'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {0};
         ALTER TABLE dead_letters ENABLE ROW LEVEL SECURITY",
        role.1
    ));
    assert_eq!(examined(scene.service(), &[]).bad(), []);
    assert_eq!(examined(role.launch(), &[]).bad(), [("table-row-security", "error")]);
}

#[test]
fn a_postgres_without_timescaledb() {
    let options = Options { settings: vec![("shared_preload_libraries".to_owned(), String::new())] };
    let postgres = Postgres::start(&options).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let report = examined(scene.service(), &[]);
    assert_eq!((report.code, report.bad()), (Some(1), vec![("timescaledb", "error")]));
    assert!(report.remedy("timescaledb").contains("shared_preload_libraries"), "{:#?}", report.findings);
    let launch = || scene.service().set("ALLOW_PLAIN_TABLE", true);
    assert_eq!(examined(launch(), &[]).bad(), []);
    launch().start().stop();
    let report = examined(launch(), &["--strict"]);
    assert_eq!((report.code, report.level("events-table")), (Some(0), "ok"), "{:#?}", report.findings);
}

#[test]
fn a_postgres_that_may_forget_what_it_has_committed() {
    let options = Options { settings: vec![("fsync".to_owned(), "off".to_owned())] };
    let postgres = Postgres::start(&options).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    scene.start().stop();
    let report = examined(scene.service(), &[]);
    assert_eq!(report.bad(), [("postgres-durability", "error")]);
    assert!(report.remedy("postgres-durability").starts_with("ALTER SYSTEM SET fsync = on; "));
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
