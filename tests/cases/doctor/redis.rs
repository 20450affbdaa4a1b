//! Tests what `doctor` finds on Redis, and of streams and groups.

use std::fs;
use std::time::Duration;

use redis::cmd;
use sluicegate_demo::servers::{Options, Redis};
use sluicegate_tests::{Event, Fields, Scene, shared_postgres_url};

use super::{examined, state, text};

fn configured(redis: &Redis, name: &str, value: &str) {
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection().unwrap();
    cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut connection).unwrap();
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
    let page = include_str!("../../../docs/operations.md");
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
    rights_are_found_on(&Redis::start(&Options::default()).unwrap());
}

/// It has other words for what it denies.
#[test]
fn rights_that_a_user_of_redis_7_0_lacks_are_found_without_effect() {
    rights_are_found_on(&Redis::start_7_0(&Options::default()).unwrap());
}

fn rights_are_found_on(redis: &Redis) {
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
