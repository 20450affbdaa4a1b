//! Tests where settings come from: the environment, then `.env`, then the file, then the default.

use std::fs;

use redis::cmd;
use sluicegate_tests::{Event, Fields, Scene};

fn consumers(scene: &Scene) -> Vec<String> {
    let consumers: Vec<redis::Value> =
        scene.stream.run(cmd("XINFO").arg("CONSUMERS").arg(&scene.stream.name).arg(&scene.stream.group));
    let name = |consumer: redis::Value| {
        consumer.into_map_iter().ok()?.find_map(|(key, value)| {
            (key == redis::Value::BulkString("name".into())).then(|| redis::from_redis_value(value).ok())?
        })
    };
    consumers.into_iter().filter_map(name).collect()
}

#[test]
fn the_environment_comes_before_the_file_and_the_file_before_the_default() {
    let scene = Scene::new();
    fs::write(
        scene.folder().join("sluicegate.toml"),
        format!(
            "redis_url = \"{}\"\nstream_name = \"no-such-stream\"\nconsumer_name = \"of the file\"\nbatch_size = 7\n",
            scene.stream.url()
        ),
    )
    .unwrap();
    let events: Vec<Event> = (0..30).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let service = scene.service().unset("REDIS_URL").set("CONSUMER_NAME", "").start();
    scene.until_stored(30);
    assert_eq!(consumers(&scene), ["of the file"], "a variable that is empty counts as unset");
    service.stop();
    let largest: i64 = scene
        .database
        .value("SELECT max(count) FROM (SELECT count(*) FROM events GROUP BY xmin::text) AS transaction");
    assert_eq!(largest, 7, "from the file");
}

#[test]
fn dot_env_comes_after_the_environment_and_before_the_file() {
    let scene = Scene::new();
    fs::write(scene.folder().join("sluicegate.toml"), "consumer_name = \"of the file\"\nbatch_size = 9\n")
        .unwrap();
    let variables = format!(
        "export REDIS_URL={}\nCONSUMER_NAME='of .env'\nBATCH_SIZE=8\nBLOCK=\nOTHER=$HOME\n",
        scene.stream.url()
    );
    fs::write(scene.folder().join(".env"), variables).unwrap();
    let events: Vec<Event> = (0..30).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    let service = scene.service().unset("REDIS_URL").set("BATCH_SIZE", 7).start();
    scene.until_stored(30);
    assert_eq!(consumers(&scene), ["of .env"]);
    service.stop();
    let largest: i64 = scene
        .database
        .value("SELECT max(count) FROM (SELECT count(*) FROM events GROUP BY xmin::text) AS transaction");
    assert_eq!(largest, 7, "from the environment");

    fs::write(scene.folder().join(".env"), "A=1\nPOSTGRES_URL=hunter2 hunter2\n").unwrap();
    let ended = scene.service().run_to_end();
    assert!(ended.log.contains(".env, line 2: it does not read; wanted"), "{}", ended.log);
    assert!(!ended.log.contains("hunter2"), "{}", ended.log);
}

#[test]
fn names_that_are_nearly_settings_are_told() {
    let scene = Scene::new();
    fs::write(scene.folder().join(".env"), "GUEST_TIMELIMIT_MS=hunter2\nREDIS_HOST=h\n").unwrap();
    let service = scene.service().set("GEUST", "/hunter2").set("POSTGRES_USER", "me").start();
    let log = service.stop().log;
    for line in [
        "GEUST in the environment is not a setting, and has no effect; did you mean GUEST?",
        "GUEST_TIMELIMIT_MS in .env is not a setting, and has no effect; did you mean GUEST_TIME_LIMIT?",
    ] {
        assert!(log.contains(line), "{log}");
    }
    assert_eq!(log.matches("did you mean").count(), 2, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn a_file_may_be_named() {
    let scene = Scene::new();
    let file = scene.folder().join("other.toml");
    fs::write(&file, "consumer_name = \"of the other\"\n").unwrap();
    fs::write(scene.folder().join("sluicegate.toml"), "consumer_name = \"of the usual\"\n").unwrap();
    let service = scene.service().argument("--config").argument(file.to_str().unwrap()).start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    assert_eq!(consumers(&scene), ["of the other"]);
    service.stop();

    let ended = scene.service().argument("--config").argument("missing.toml").run_to_end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.log.contains("missing.toml does not exist"), "{}", ended.log);
}

#[test]
fn a_file_that_does_not_read_is_refused() {
    let scene = Scene::new();
    for (text, part) in [
        ("batch_sise = 7\n", "batch_sise is not a setting; did you mean batch_size? "),
        ("batch_size = \"many\"\n", "BATCH_SIZE"),
        ("batch_size = 0\n", "BATCH_SIZE is 0; wanted 1 to 10000"),
        ("batch_size =", "sluicegate.toml"),
        (
            "block = \"5\"\n",
            "BLOCK is \"5\", which is no time with a unit such as 500ms, 10s or 30d; wanted how long",
        ),
        ("block = 5\n", "int `5`; wanted how long"),
        ("block = \"2h\"\n", "BLOCK is 2h; wanted 1ms to 1m"),
        (
            "guest_memory = \"much\"\n",
            "GUEST_MEMORY is \"much\", which is no size such as 64KiB or 128MiB; wanted memory",
        ),
        ("block_ms = 5\n", "block_ms is not a setting; did you mean block? "),
        ("block = \"5ms\"\nbatch_size = x\n", "sluicegate.toml, line 2, column 14: "),
        // In capitals these settings would have no effect.
        ("BATCH_SIZE = 0\n", "BATCH_SIZE is not a setting in the file; wanted batch_size, in lower case"),
        (
            "Guest = \"/nonexistent.wasm\"\n",
            "Guest is not a setting in the file; wanted guest, in lower case",
        ),
        (
            "[tenants.a]\nstream_name = \"s\"\nGUEST_TIME_LIMIT = 1\n",
            "tenant a: GUEST_TIME_LIMIT is not a setting in the file; wanted guest_time_limit, in lower case",
        ),
    ] {
        fs::write(scene.folder().join("sluicegate.toml"), text).unwrap();
        let ended = scene.service().run_to_end();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        assert!(ended.log.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
}

/// The wrong line, such as one that lacks a quote, is the one with the password.
#[test]
fn a_file_that_does_not_read_is_not_repeated() {
    let scene = Scene::new();
    for (text, part) in [
        ("\npostgres_url = \"postgres://user:hunter2@h/db\n", "sluicegate.toml, line 2, column "),
        ("redis_url = redis://:hunter2@h\n", "sluicegate.toml, line 1, column "),
        ("postgres_url = [\"hunter2\"]\n", "POSTGRES_URL is no text; wanted PostgreSQL 14 or later"),
    ] {
        fs::write(scene.folder().join("sluicegate.toml"), text).unwrap();
        let ended = scene.service().unset("POSTGRES_URL").unset("REDIS_URL").run_to_end();
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        assert!(ended.log.contains(part), "{part:?} is not in:\n{}", ended.log);
        assert!(!ended.log.contains("hunter2"), "a password is told:\n{}", ended.log);
    }
}

/// Whoever rotates credentials writes the file anew.
#[test]
fn urls_may_be_in_files() {
    let scene = Scene::new();
    let (redis, postgres) = (scene.folder().join("redis"), scene.folder().join("postgres"));
    fs::write(&redis, format!("{}\n", scene.stream.url())).unwrap();
    fs::write(&postgres, format!("{}\n", scene.database.url())).unwrap();
    let launch = || {
        let launch = scene.service().unset("REDIS_URL").unset("POSTGRES_URL");
        launch.set("REDIS_URL_FILE", redis.display()).set("POSTGRES_URL_FILE", postgres.display())
    };
    let service = launch().start();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    // When a server hangs up, it is reached again by what is in the file then.
    fs::write(&postgres, format!("{}?application_name=rotated", scene.database.url())).unwrap();
    scene.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'sluicegate'",
    );
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    service.stop();

    let ended = launch().set("REDIS_URL", scene.stream.url()).run_to_end();
    assert!(
        ended.log.contains("REDIS_URL and REDIS_URL_FILE are both set; wanted one of them"),
        "{}",
        ended.log
    );
    fs::write(&postgres, " \n").unwrap();
    let ended = launch().run_to_end();
    assert!(ended.log.contains("is empty; wanted a URL in it"), "{}", ended.log);
}
