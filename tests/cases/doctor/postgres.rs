//! Tests what `doctor` finds on PostgreSQL, and of the tables.

use std::fs;

use sluicegate_demo::servers::{Options, Postgres};
use sluicegate_tests::{Event, Launch, Scene, fields, shared_redis_url};

use super::{examined, text};

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
    assert_eq!(remedies.len(), 13, "ours, that of the migrations, and events: {remedies:?}");
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
