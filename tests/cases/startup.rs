//! Tests that a service that cannot work says why, and ends with code 1.

use std::fs;
use std::path::Path;
use std::process::Command;

use redis::cmd;
use sluicegate_demo::servers::{Options, Postgres, Redis};
use sluicegate_tests::{
    Ended, Event, Launch, Scene, fields, guests, shared_postgres_url, shared_redis_url, until,
};

/// Starts the service, and expects it to give up and to say all parts, but no password.
fn refused(launch: Launch, parts: &[&str]) -> Ended {
    let ended = launch.run_to_end();
    assert_eq!(ended.code, Some(1), "wanted {parts:?}; the log:\n{}", ended.log);
    let last = ended.log.lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "{part:?} is not in the last line of:\n{}", ended.log);
    }
    assert!(last.contains("ERROR"), "{last}");
    assert!(!ended.log.contains("hunter2"), "a password is told:\n{}", ended.log);
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    ended
}

#[test]
fn settings_that_cannot_be_used() {
    let scene = Scene::new();
    let with = |name: &str, value: &str| scene.service().set(name, value);
    refused(scene.service().unset("REDIS_URL"), &["REDIS_URL is not set", "redis://"]);
    refused(scene.service().unset("POSTGRES_URL"), &["POSTGRES_URL is not set", "postgres://"]);
    refused(with("REDIS_URL", ""), &["REDIS_URL is not set"]);
    for (name, value, found) in [
        ("BATCH_SIZE", "0", "0"),
        ("BATCH_SIZE", "10001", "10001"),
        ("BATCH_SIZE", "many", "many"),
        ("BATCH_SIZE", "-1", "-1"),
        ("BATCH_SIZE", "1.5", "1.5"),
        ("BLOCK", "0", "0"),
        ("COMMITS_IN_FLIGHT", "65", "65"),
        ("GUEST_TIME_LIMIT", "9", "9"),
        ("MONITORING_INTERVAL", "99", "99"),
        ("ALLOW_PLAIN_TABLE", "perhaps", "perhaps"),
        ("LOG_FORMAT", "xml", "xml"),
    ] {
        refused(with(name, value), &[name, found, "wanted"]);
    }
    refused(with("STREAM_NAME", &"x".repeat(513)), &["STREAM_NAME", "513 bytes", "wanted"]);
}

#[test]
fn urls_that_do_not_read_are_not_repeated() {
    let scene = Scene::new();
    for url in [
        "user:hunter2@localhost",
        "http://user:hunter2@localhost:6379",
        "redis://:hunter2@localhost:notaport",
        "redis://:hunter2@localhost/notadatabase",
        "redis://:hunter2 @[::1",
    ] {
        refused(scene.service().set("REDIS_URL", url), &["REDIS_URL does not read", "wanted redis://"]);
    }
    for url in [
        "user:hunter2@localhost/db",
        "mysql://user:hunter2@localhost/db",
        "postgres://user:hunter2@localhost:notaport/db",
        "postgres://user:hunter2@[::1/db",
        "postgres://user:hunter2@localhost/db?sslmode=nonsense",
    ] {
        refused(
            scene.service().set("POSTGRES_URL", url),
            &["POSTGRES_URL does not read", "wanted postgres://"],
        );
    }
}

#[test]
fn a_guest_that_cannot_be_used() {
    let scene = Scene::new();
    let file = scene.folder().join("guest.wasm");
    let launch = || scene.service().set("GUEST", file.display());
    refused(launch(), &["guest.wasm cannot be read", "No such file"]);
    for (component, reason) in [
        (b"no component".to_vec(), "no WebAssembly component: found `no compo`"),
        (guests::DEFAULT[..1_000].to_vec(), "it does not compile"),
        (guests::CORE_MODULE.to_vec(), "a core module, not a component"),
        (guests::command(), "of no world of `sluicegate:guest@0.1.0`"),
        (guests::handmade("greedy"), "imports that are not granted: "),
    ] {
        fs::write(&file, component).unwrap();
        refused(launch(), &["guest.wasm is refused: ", reason]);
    }
    let pipe = scene.folder().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (file, found) in [
        (scene.folder(), "found a directory"),
        (&pipe, "found a pipe"),
        (Path::new("/dev/zero"), "found a device"),
    ] {
        let launch = scene.service().set("GUEST", file.display());
        refused(launch, &["cannot be read: ", found, "wanted a regular file"]);
    }
}

#[test]
fn a_redis_that_does_not_let_us_in() {
    let options = Options { settings: vec![("requirepass".to_owned(), "sesame".to_owned())] };
    let redis = Redis::start(&options).unwrap();
    let scene = Scene::new();
    let at = |credentials: &str| {
        scene.service().set("REDIS_URL", format!("redis://{credentials}127.0.0.1:{}", redis.port()))
    };
    let address = format!("127.0.0.1:{}", redis.port());
    refused(at(""), &["redis at", &address, "uthentication"]);
    refused(at(":hunter2@"), &["redis at", &address]);
    refused(at("nobody:hunter2@"), &["redis at", &address]);
    let service = at(":sesame@").start();
    assert!(!service.stop().log.contains("sesame"));
}

#[test]
fn a_stream_that_is_something_else() {
    let scene = Scene::new();
    scene.stream.run::<()>(cmd("SET").arg(&scene.stream.name).arg("text"));
    refused(scene.service(), &["redis at", "XGROUP CREATE", "WRONGTYPE"]);
    assert_eq!(scene.stream.run::<String>(cmd("GET").arg(&scene.stream.name)), "text");
}

#[test]
fn a_database_that_is_not_there() {
    let scene = Scene::new();
    let url = scene.database.url();
    let url = url.replace(&scene.stream.name, "sluicegate_no_such_database");
    refused(
        scene.service().set("POSTGRES_URL", url),
        &["postgres at", "sluicegate_no_such_database", "does not exist"],
    );
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
fn a_role_without_rights() {
    let scene = Scene::new();
    let role = Role(&scene, format!("{}_role", scene.stream.name));
    refused(role.launch(), &["postgres at"]); // no such role
    let name = &role.1;
    scene.database.execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'hunter2'"));
    refused(role.launch(), &["may not make the extension timescaledb", "run: CREATE EXTENSION timescaledb"]);
    scene.database.execute("CREATE EXTENSION timescaledb; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    refused(role.launch(), &["may not make the tables", "run: GRANT CREATE, USAGE ON SCHEMA public"]);

    scene.database.execute(&format!("GRANT CREATE, USAGE ON SCHEMA public TO {name}"));
    let service = role.launch().start();
    let event = Event::new();
    scene.stream.add_all(&[event.data(), fields([("data", "bad")])]);
    assert_eq!(scene.until_stored(1), [event]);
    scene.stream.until_drained();
    service.stop();

    // When everything is there, nothing has to be made.
    scene.database.execute(&format!("REVOKE CREATE ON SCHEMA public FROM {name}"));
    let service = role.launch().start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    service.stop();
}

/// Redis lacks memory for a group, but this one is there. What is acknowledged may be trimmed.
#[test]
fn a_redis_without_memory_is_read_all_the_same() {
    let redis = Redis::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    scene.start().stop(); // makes the group
    let events = [Event::new(), Event::new()];
    scene.stream.add_all(&events.each_ref().map(Event::data));
    scene.stream.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(1));
    let service = scene.start();
    assert_eq!(scene.until_stored(2), events);
    scene.stream.until_drained();
    service.stop();
}

#[test]
fn a_redis_without_tls_is_told_from_one_that_is_away() {
    let scene = Scene::new();
    let service =
        scene.service().set("REDIS_URL", scene.stream.url().replace("redis://", "rediss://")).start_unready();
    service.until_logged(&[
        "waiting for redis",
        "does the server speak TLS at this port? If not, wanted redis://",
    ]);
    service.crash();

    let pem = scene.folder().join("authority.pem");
    let launch = || scene.service().set("REDIS_TLS_CA_FILE", pem.display());
    refused(launch(), &["REDIS_TLS_*", "authority.pem: No such file"]);
    fs::write(&pem, "no certificate").unwrap();
    refused(launch(), &["REDIS_TLS_*", "REDIS_URL does not begin with rediss://"]);
    refused(
        scene.service().set("REDIS_TLS_KEY_FILE", pem.display()),
        &["only one of REDIS_TLS_CERT_FILE and"],
    );
}

/// The page docs/operations.md has the list of rights.
#[test]
fn a_redis_user_with_few_rights_is_enough() {
    let redis = Redis::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let page = include_str!("../../docs/operations.md");
    let (_, list) = page.split_once("on streams that are granted:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let rights = list
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|right| format!("+{}", right.to_lowercase().replace(' ', "|")));
    let mut user = cmd("ACL");
    user.arg("SETUSER")
        .arg("few")
        .arg("on")
        .arg(">hunter2")
        .arg(format!("~{}", scene.stream.name))
        .arg("-@all");
    scene.stream.run::<()>(user.arg(rights.collect::<Vec<_>>()));
    let url = redis.url().replace("redis://", "redis://few:hunter2@");
    let mut events = vec![Event::new()];
    let ids = scene.stream.add_all(&[events[0].data()]);
    scene.stream.make_group();
    scene.stream.read_as("gone", 1);
    let service = scene.service().set("REDIS_URL", &url).set("CLAIM_MIN_IDLE", "100ms").start();
    events.push(Event::new());
    scene.stream.add(&events[1].data());
    assert_eq!(scene.until_stored(2), events);
    scene.stream.until_drained();
    let log = service.stop().log;
    assert!(!log.contains("NOPERM") && !log.contains("WARN") && ids.len() == 1, "{log}");
}

/// A server's credentials are changed, and the service is told a moment later.
#[test]
fn credentials_that_were_good_may_be_so_again() {
    let scene = Scene::new();
    let role = Role(&scene, format!("{}_role", scene.stream.name));
    let name = &role.1;
    scene.start().stop(); // makes the tables
    scene.database.execute(&format!(
        "CREATE ROLE {name} LOGIN PASSWORD 'hunter2'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"
    ));
    let mut service = role.launch().start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.database.execute(&format!(
        "ALTER ROLE {name} NOLOGIN;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
    ));
    scene.stream.add(&Event::new().data());
    service.until_logged(&["a server does not let us in any more; trying again later"]);
    assert!(!service.has_ended());
    scene.database.execute(&format!("ALTER ROLE {name} LOGIN"));
    scene.until_stored(2);
    scene.stream.until_drained();
    service.stop();
}

/// Somebody may clean up who does not know what the tables are for.
#[test]
fn tables_of_the_service_that_were_dropped_are_made_again() {
    let scene = Scene::new();
    scene.start().stop();
    scene.database.execute(
        "DROP TABLE dead_letters, commits, replay_outbox, rules_in_force, decided,
         rules_versions, rules_components, rules_deployments, rules_replicas, dead_letter_jobs, admin_audit",
    );
    let service = scene.start();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    scene.until_stored(1);
    scene.stream.until_drained();
    assert_eq!(scene.database.letters().len(), 1);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename IN ('dead_letters', 'commits')";
    assert_eq!(scene.database.value::<i64>(indexes), 5);
    assert!(
        service
            .stop()
            .log
            .contains("was dropped, with what was in it; making it again table=\"dead_letters\"")
    );
}

/// Another program may use names as plain as the service's, too.
#[test]
fn tables_of_another_program_are_left_alone() {
    let scene = Scene::new();
    scene.database.execute("CREATE TABLE commits (sha TEXT); INSERT INTO commits VALUES ('a')");
    refused(scene.service(), &["the table commits is there already", "SET search_path = sluicegate, public"]);
    scene.database.execute(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, checksum BYTEA NOT NULL,
             execution_time BIGINT NOT NULL);
         INSERT INTO _sqlx_migrations VALUES (1, 'of another', now(), true, '\\x00', 0)",
    );
    refused(scene.service(), &["_sqlx_migrations has a migration 1", "SET search_path = sluicegate, public"]);
    assert_eq!(
        scene
            .database
            .value::<i64>("SELECT count(*) FROM information_schema.columns WHERE table_name = 'commits'"),
        1
    );

    let database: String = scene.database.value("SELECT current_database()");
    scene.database.execute(&format!(
        "CREATE SCHEMA sluicegate; ALTER DATABASE {database} SET search_path = sluicegate, public"
    ));
    let service = scene.start();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    scene.until_stored(1);
    scene.stream.until_drained();
    assert_eq!(scene.database.letters().len(), 1);
    service.stop();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'sluicegate'";
    assert_eq!(scene.database.value::<i64>(tables), 13, "ours, events, and those of the migrations");
    assert_eq!(scene.database.value::<String>("SELECT sha FROM public.commits"), "a");
}

/// The extension is in a schema where it is not found without the schema's name.
#[test]
fn an_extension_in_a_schema_of_its_own_is_found() {
    let scene = Scene::new();
    let database: String = scene.database.value("SELECT current_database()");
    scene.database.execute(&format!(
        "CREATE SCHEMA extensions; CREATE EXTENSION timescaledb SCHEMA extensions;
         CREATE SCHEMA app; ALTER DATABASE {database} SET search_path = app"
    ));
    let service = scene.start();
    scene.stream.add_all(&[Event::new().data(), fields([("data", "bad")])]);
    until("a row and a letter", || {
        let sql = "SELECT (SELECT count(*) FROM app.events) + (SELECT count(*) FROM app.dead_letters)";
        match scene.database.try_value::<i64>(sql)? {
            2 => Ok(()),
            found => Err(format!("{found} of 2")),
        }
    });
    service.stop();
    let chunks = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_schema = 'app'";
    assert_eq!(scene.database.value::<i64>(chunks), 1);
}

/// The table is altered beneath prepared statements, and again before the next start.
#[test]
fn a_table_that_somebody_alters_is_written_to_all_the_same() {
    let scene = Scene::new();
    let service = scene.start();
    let send = |count: i64| {
        scene.stream.add(&Event::new().data());
        until("the event in the table", || {
            match scene.database.try_value::<i64>("SELECT count(*) FROM events")? {
                found if found == count => Ok(()),
                found => Err(format!("{found} rows, wanted {count}")),
            }
        });
    };
    send(1);
    scene.database.execute("ALTER TABLE events ADD COLUMN note TEXT");
    send(2);
    scene.database.execute(
        "ALTER TABLE events ALTER COLUMN event_type TYPE varchar(100), ALTER COLUMN user_id TYPE varchar",
    );
    send(3);
    service.stop();
    let service = scene.start();
    send(4);
    service.stop();
    assert!(scene.database.letters().is_empty());
}

/// A later version has prepared the database, and was then taken back.
#[test]
fn an_older_program_goes_on_with_a_newer_database() {
    let scene = Scene::new();
    scene.start().stop();
    scene.database.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of later', true, '\\x00', 0)",
    );
    let service = scene.start();
    service.until_logged(&["prepared by a later version", "migration=9999"]);
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    service.stop();
}

/// The settings of a role or a database must weaken nothing.
#[test]
fn a_session_sets_what_the_promise_needs() {
    let scene = Scene::new();
    scene.start().stop(); // makes the table
    let database: String = scene.database.value("SELECT current_database()");
    for setting in
        ["synchronous_commit = off", "lock_timeout = '7s'", "default_transaction_isolation = serializable"]
    {
        scene.database.execute(&format!("ALTER DATABASE {database} SET {setting}"));
    }
    scene.database.execute(
        "CREATE TABLE found (name TEXT, setting TEXT);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO found SELECT name, setting FROM pg_settings
             WHERE name IN ('synchronous_commit', 'lock_timeout', 'transaction_isolation');
             RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION note()",
    );
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    scene.stream.until_drained();
    service.stop();
    let found: Vec<String> = scene.database.value(
        "SELECT array_agg(found ORDER BY found) FROM (SELECT DISTINCT name || ' ' || setting AS found FROM found) AS each",
    );
    assert_eq!(found, ["lock_timeout 0", "synchronous_commit on", "transaction_isolation read committed"]);
}

#[test]
fn a_table_of_another_form_is_left_as_it_is() {
    for (columns, found) in [
        (
            "time TIMESTAMPTZ NOT NULL, event_id TEXT NOT NULL, event_type TEXT, user_id TEXT, properties JSONB, PRIMARY KEY (event_id, time)",
            "event_id text",
        ),
        (
            "time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT, user_id BIGINT, properties JSONB, PRIMARY KEY (event_id, time)",
            "user_id bigint",
        ),
        (
            "time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT, user_id TEXT, properties JSONB",
            "no primary key",
        ),
        (
            "time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT, user_id TEXT, properties JSONB, PRIMARY KEY (time, user_id)",
            "primary key (time, user_id)",
        ),
        ("number BIGINT PRIMARY KEY", "the table events has another form"),
    ] {
        let scene = Scene::new();
        scene.database.execute(&format!("CREATE EXTENSION timescaledb; CREATE TABLE events ({columns})"));
        refused(scene.service(), &["the table events has another form", found, "wanted event_id uuid"]);
        let hypertables: i64 =
            scene.database.value("SELECT count(*) FROM timescaledb_information.hypertables");
        assert_eq!(hypertables, 0, "somebody else's table is not touched");
    }
}

#[test]
fn a_table_made_by_hand_is_taken_over_with_its_rows() {
    let scene = Scene::new();
    scene.database.execute(
        "CREATE EXTENSION timescaledb;
         CREATE TABLE events (
             time TIMESTAMPTZ NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL, user_id TEXT NOT NULL,
             properties JSONB, PRIMARY KEY (event_id, time));
         INSERT INTO events VALUES ('2026-01-18T22:17:34Z', '00000000-0000-4000-8000-000000000000', 'old', 'old', NULL)",
    );
    let service = scene.start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    service.stop();
    assert_eq!(scene.database.value::<i64>("SELECT count(*) FROM timescaledb_information.hypertables"), 1);
}

#[test]
fn a_postgres_without_timescaledb_needs_our_word() {
    let options = Options { settings: vec![("shared_preload_libraries".to_owned(), String::new())] };
    let postgres = Postgres::start(&options).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    refused(scene.service(), &["not loaded", "shared_preload_libraries", "ALLOW_PLAIN_TABLE=true"]);

    let service = scene.service().set("ALLOW_PLAIN_TABLE", true).start();
    service.until_logged(&["events go to a plain table"]);
    let event = Event::new();
    scene.stream.add_all(&[event.data(), event.flat()]);
    assert_eq!(scene.until_stored(1), [event]);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [1, 1, 0, 0, 0]);
}
