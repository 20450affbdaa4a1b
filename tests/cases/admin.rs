//! Tests what the admin API tells: metrics, health, tenants, and how much is left to do.

use std::io::Write as _;
use std::net::TcpListener;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluicegate_demo::servers::{Options, Postgres, Redis};
use sluicegate_tests::{
    Admin, Event, Fields, Scene, Tenants, check_metrics, guests, shared_postgres_url, shared_redis_url, until,
};

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|tenant| tenant["name"].as_str().unwrap()).collect()
}

fn until_metric(admin: &Admin, sample: &str, wanted: f64) {
    until(&format!("{sample} {wanted}"), || match admin.metric(sample) {
        Some(found) if (found - wanted).abs() < 1e-9 => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn each_outcome_is_counted() {
    let scene = Scene::new();
    let event = Event::new();
    let no_amount = Event { properties: None, ..Event::of_type("purchase") };
    let undecodable: Fields = vec![(b"data".to_vec(), b"\xff".to_vec())];
    scene.stream.add_all(&[
        event.data(),
        event.flat(),
        no_amount.data(),
        Event::of_type("heartbeat").data(),
        Event::of_type("heartbeat").data(),
        undecodable,
    ]);
    let strict = scene.folder().join("strict.wasm");
    std::fs::write(&strict, guests::STRICT).unwrap();
    let service = scene.service().set("GUEST", strict.display()).start();
    scene.stream.until_drained();
    let admin = service.admin();
    until_metric(&admin, r#"entries_delivered_total{tenant="default"}"#, 6.0);
    until_metric(&admin, r#"entries_in_flight{tenant="default"}"#, 0.0);
    for (outcome, count) in
        [("stored", 1.0), ("duplicate", 1.0), ("rejected", 1.0), ("discarded", 2.0), ("dead_lettered", 1.0)]
    {
        let sample = format!(r#"entries_total{{tenant="default",outcome="{outcome}"}}"#);
        assert_eq!(admin.metric(&sample), Some(count), "{outcome}");
    }
    for (sample, value) in [
        (r#"entries_lost_total{tenant="default"}"#, 0.0),
        (r#"dead_letters_open{tenant="default"}"#, 2.0),
        (r#"rules_deployments_total{tenant="default",outcome="in_force"}"#, 1.0),
        (r#"rules_refused{tenant="default"}"#, 0.0),
        (r#"commit_latency_seconds_count{tenant="default"}"#, 6.0),
        (r#"group_pending{tenant="default"}"#, 0.0),
        (r#"group_lag{tenant="default"}"#, 0.0),
        (r#"stream_length{tenant="default"}"#, 6.0),
        (r#"oldest_entry_age_seconds{tenant="default"}"#, 0.0),
        (r#"connected{tenant="default",server="postgres"}"#, 1.0),
        (r#"tenant_state{tenant="default",state="running"}"#, 1.0),
        (r#"tenant_state{tenant="default",state="failed"}"#, 0.0),
    ] {
        until_metric(&admin, sample, value);
    }
    let page = admin.get("/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    check_metrics(&page.body);
    let batches = admin.metric(r#"batches_total{tenant="default"}"#).unwrap();
    for histogram in ["batch_duration", "rules_duration"] {
        let sample = format!(r#"{histogram}_seconds_count{{tenant="default"}}"#);
        assert_eq!(admin.metric(&sample), Some(batches), "{histogram}");
    }
    for stage in ["judge", "write", "acknowledge"] {
        let sample = format!(r#"stage_duration_seconds_count{{tenant="default",stage="{stage}"}}"#);
        assert_eq!(admin.metric(&sample), Some(batches), "{stage}");
    }
    let discards = page.body.lines().find(|line| line.starts_with("sluicegate_discards_total{")).unwrap();
    assert!(discards.ends_with(" 2"), "{discards}");

    let tenant = admin.get("/v1/tenants/default").json();
    let ended = json!({ "stored": 1, "duplicate": 1, "rejected": 1, "discarded": 2, "dead_lettered": 1 });
    assert_eq!(tenant["entries"], ended);
    assert_eq!((&tenant["state"], &tenant["stream"]), (&json!("running"), &json!(scene.stream.name)));
    assert_eq!(service.stop().metrics().tally(), [1, 1, 1, 2, 1], "the log tells the same");
}

/// The process is as alive as before, and what it waits for is told.
#[test]
fn a_tenant_that_waits_for_postgres_is_not_ready() {
    let mut postgres = Postgres::start(&Options::default()).unwrap();
    let scene = Scene::on(&shared_redis_url(), &postgres.url());
    let service = scene.service().start();
    let admin = service.admin();
    admin.until_ready(true);
    postgres.kill().unwrap();
    assert_eq!(admin.get("/readyz").status, 200, "there is nothing to do");
    scene.stream.add(&Event::new().data());
    let readiness = admin.until_ready(false);
    assert_eq!(readiness["not_ready"], json!([{ "tenant": "default", "reason": "waiting for postgres" }]));
    assert_eq!(admin.get("/readyz").status, 503);
    assert_eq!(admin.get("/livez").status, 200);
    assert_eq!(admin.metric(r#"connected{tenant="default",server="postgres"}"#), Some(0.0));
    assert_eq!(admin.metric(r#"connected{tenant="default",server="redis"}"#), Some(1.0));
    assert_eq!(admin.metric(r#"tenant_state{tenant="default",state="waiting"}"#), Some(1.0));
    postgres.start_again().unwrap();
    admin.until_ready(true);
    scene.until_stored(1);
    service.stop();
}

#[test]
fn one_tenants_trouble_is_its_own() {
    let tenants = Tenants::new(&[("broken", ""), ("sound", "")]);
    let broken = tenants.stream("broken");
    broken.run::<()>(redis::cmd("SET").arg(&broken.name).arg("no stream"));
    let service = tenants.start(&["sound"]);
    let admin = service.admin();
    tenants.add("sound", 3);
    tenants.until_rows("events_sound", 3);
    let readiness = until("the trouble", || {
        let found = admin.until_ready(false);
        match found["not_ready"].to_string().contains("failed") {
            true => Ok(found),
            false => Err(found.to_string()),
        }
    });
    assert_eq!(readiness["not_ready"], json!([{ "tenant": "broken", "reason": "failed" }]));
    assert_eq!(admin.get("/livez").status, 200);
    let list = admin.get("/v1/tenants").json();
    assert_eq!(names(&list["tenants"]), ["broken", "sound"]);
    assert_eq!(list["tenants"][1]["table"], "events_sound");
    until_metric(&admin, r#"entries_total{tenant="sound",outcome="stored"}"#, 3.0);
    assert_eq!(admin.metric(r#"connected{tenant="broken",server="redis"}"#), None, "nobody has looked");
    let scale = until("nothing left to do", || {
        let found = admin.get("/v1/scale").json();
        if found["tenants"][1]["backlog"] == 0 { Ok(found) } else { Err(found.to_string()) }
    });
    assert_eq!(scale["tenants"][0]["known"], false, "it has no group: {scale}");
    assert_eq!((&scale["total"]["known"], &scale["total"]["backlog"]), (&json!(false), &json!(null)));
    service.stop();
}

/// What nobody delivers although it waits is told, whatever the service believes of itself.
#[test]
fn what_is_in_flight_for_too_long_is_told() {
    let scene = Scene::new();
    let service = scene.service().set("CLAIM_MIN_IDLE", "1s").start();
    let admin = service.admin();
    let mut lock = scene.database.connect();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    sluicegate_tests::block_on(async {
        sqlx::raw_sql("BEGIN; LOCK TABLE events").execute(&mut lock).await.unwrap();
    });
    scene.stream.add(&Event::new().data());
    let readiness = admin.until_ready(false);
    let reason = readiness["not_ready"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "1 entries are in flight, and no batch has ended for 1.1 s");
    drop(lock);
    admin.until_ready(true);
    scene.until_stored(2);
    service.stop();
}

#[test]
fn scale_tells_what_is_left_to_do() {
    let scene = Scene::new();
    scene.stream.add_all(&vec![Event::new().data(); 3]);
    scene.stream.make_group();
    scene.stream.read_as("colleague", 2);
    let service = scene.start();
    scene.until_stored(1);
    let admin = service.admin();
    let scale = until("two entries left", || {
        let found = admin.get("/v1/scale").json();
        let is_counted = found["total"]["rate"].as_f64().is_some_and(|rate| rate > 0.0);
        if is_counted && found["total"]["backlog"] == 2 { Ok(found) } else { Err(found.to_string()) }
    });
    let total = &scale["total"];
    assert_eq!(total["known"], true);
    assert!(total["oldest_age_seconds"].as_f64().is_some_and(|age| (0.0..60.0).contains(&age)), "{scale}");
    assert!(total["drain_seconds"].as_f64().is_some_and(|drain| drain > 0.0), "{scale}");
    assert_eq!(scale["tenants"][0]["name"], "default");
    service.stop();
}

/// Redis stands still: whoever asks gets an answer soon, in which nothing is made up.
#[test]
fn what_redis_does_not_tell_is_unknown() {
    let redis = Redis::start(&Options::default()).unwrap();
    let scene = Scene::on(&redis.url(), &shared_postgres_url());
    let service = scene.start();
    let admin = service.admin();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    until_metric(&admin, r#"group_lag{tenant="default"}"#, 0.0);
    redis.pause().unwrap();
    until("an unknown lag", || match admin.metric(r#"group_lag{tenant="default"}"#) {
        None => Ok(()),
        Some(lag) => Err(lag.to_string()),
    });
    let begun = Instant::now();
    scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let scale = admin.get("/v1/scale").json();
                assert_eq!(
                    (&scale["total"]["known"], &scale["total"]["backlog"], &scale["total"]["drain_seconds"]),
                    (&json!(false), &json!(null), &json!(null)),
                    "{scale}"
                );
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(4), "one look for all: {:?}", begun.elapsed());
    assert_eq!(admin.metric(r#"entries_total{tenant="default",outcome="stored"}"#), Some(1.0));
    assert_eq!(admin.get("/v1/tenants/default").json()["lag"], json!(null));
    redis.resume().unwrap();
    until_metric(&admin, r#"group_lag{tenant="default"}"#, 0.0);
    scene.stream.add(&Event::new().data());
    scene.until_stored(2);
    service.stop();
}

#[test]
fn an_open_connection_does_not_delay_the_shutdown() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let idle = admin.connect();
    let mut slow = admin.connect();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: local").unwrap();
    // It has been accepted by now.
    assert_eq!(admin.get("/livez").body, "ok\n");
    let ended = service.stop();
    assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
    drop((idle, slow));
}

/// More than are served at once: they are closed, and others have their turn.
#[test]
fn connections_that_send_nothing_are_closed() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let idle: Vec<_> = (0..80).map(|_| admin.connect()).collect();
    sleep(Duration::from_millis(100));
    assert_eq!(admin.get("/livez").status, 200);
    drop(idle);
    let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut large = admin.connect();
    // It may be closed before all of this is sent.
    let _ = large.write_all(head.as_bytes());
    assert_eq!(admin.get("/livez").status, 200);
    service.stop();
}

#[test]
fn the_default_address_may_be_taken() {
    let scene = Scene::new();
    // If this fails, another program has it.
    let _taken = TcpListener::bind("127.0.0.1:8700");
    let service = scene.service().unset("ADMIN_LISTEN").start();
    let line = service.until_logged(&["going on without metrics and the admin API"]);
    assert!(line.contains("127.0.0.1:8700") && line.contains("set ADMIN_LISTEN to"), "{line}");
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    service.stop();

    let ended = scene.service().set("ADMIN_LISTEN", "127.0.0.1:8700").run_to_end();
    assert_eq!(ended.code, Some(1));
    assert!(ended.log.contains("ADMIN_LISTEN is 127.0.0.1:8700, which does not work: "), "{}", ended.log);

    let service = scene.service().set("ADMIN_LISTEN", "off").start();
    assert!(!service.stop().log.contains("admin"), "it is off");
    let ended = scene.service().set("ADMIN_LISTEN", "localhost").run_to_end();
    assert!(ended.log.contains("ADMIN_LISTEN is \"localhost\", which is no address"), "{}", ended.log);
}

#[test]
fn the_document_describes_every_page() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let document = admin.get("/v1/openapi.json").json();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/livez",
            "/metrics",
            "/readyz",
            "/v1/audit",
            "/v1/jobs",
            "/v1/jobs/{id}",
            "/v1/jobs/{id}/cancel",
            "/v1/jobs/{id}/resume",
            "/v1/scale",
            "/v1/tenants",
            "/v1/tenants/{name}",
            "/v1/tenants/{name}/dead-letters",
            "/v1/tenants/{name}/dead-letters/purge",
            "/v1/tenants/{name}/dead-letters/replay",
            "/v1/tenants/{name}/dead-letters/summary",
            "/v1/tenants/{name}/dead-letters/{id}",
            "/v1/tenants/{name}/rules",
            "/v1/tenants/{name}/rules/deployments",
            "/v1/tenants/{name}/rules/pause",
            "/v1/tenants/{name}/rules/resume",
            "/v1/tenants/{name}/rules/rollback",
            "/v1/tenants/{name}/rules/versions",
            "/v1/tenants/{name}/rules/versions/{version}",
            "/v1/tenants/{name}/tap",
        ]
    );
    // What it refers to is there, and errors are what they are.
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    let not_found = &document["paths"]["/v1/tenants/{name}"]["get"]["responses"]["404"]["content"];
    assert!(not_found["application/problem+json"].is_object(), "{not_found}");
    for path in paths.iter().filter(|path| !path.contains('{')) {
        assert_eq!(admin.get(path).status, 200, "{path}");
    }
    assert_eq!(admin.get("/v1/tenants/nobody").problem(404), "no such tenant; wanted one of: default");
    assert!(admin.get("/v1/tenants/%ff").problem(400).contains("UTF-8"));
    assert_eq!(admin.get("/nowhere").problem(404), "no such page; /v1/openapi.json lists them");
    // What curl sends with -d, unless it is told otherwise.
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n{}";
    let pause = format!("POST /v1/tenants/default/rules/pause HTTP/1.1\r\nHost: localhost\r\n{form}");
    assert!(admin.send(&pause).problem(415).contains("Content-Type: application/json"));
    assert_eq!(admin.ask("DELETE", "/v1/tenants").problem(405), "method not allowed");
    let paused = admin.post_json("/v1/tenants/default/rules/pause", &json!(["now"]));
    assert!(paused.problem(422).contains("expected a map"), "a list of values is no object");
    assert_eq!(
        admin.post_json("/v1/tenants/default/rules/resume", &Value::Null).status,
        200,
        "null is no body"
    );
    service.stop();
}

/// Whatever is wrong with a request, the document has the answer to it, and no server is to blame.
#[test]
fn every_answer_is_documented() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let document = admin.get("/v1/openapi.json").json();
    let mut asked = 0;
    for (template, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            // A stream has no end; those who test the tap ask for it.
            if !operation["responses"]["200"]["content"]["text/event-stream"].is_null() {
                continue;
            }
            for (name, id) in [
                ("default", "1"),
                ("default", "0"),
                ("nobody", "x"),
                ("%ff", "-9"),
                ("%00", "99999999999999999999"),
            ] {
                let path = template.replace("{name}", name).replace("{id}", id).replace("{version}", id);
                let mut answers = vec![];
                for query in [
                    "",
                    "?limit=0",
                    "?limit=7&before_id=3",
                    "?nonsense",
                    "?guest=zz&older=x",
                    "?reason=%00",
                    "?since=2026-01-31T12:00:00Z&id=7",
                ] {
                    let path = format!("{path}{query}");
                    if method == "get" {
                        answers.push(admin.get(&path));
                        continue;
                    }
                    for (content_type, body) in [
                        ("application/json", &b"{}"[..]),
                        ("application/json", b"{\"filter\": {\"older\": \"1h\"}, \"dry_run\": true}"),
                        ("application/json", b"{\"nonsense\": 1}"),
                        ("application/json", b"{\"filter\": {\"code\": \"\\u0000\"}}"),
                        ("application/json", b"[{"),
                        ("text/plain", b"{}"),
                    ] {
                        answers.push(admin.post(&path, content_type, body));
                    }
                }
                for answer in answers {
                    asked += 1;
                    let status = answer.status.to_string();
                    let known =
                        responses.get(&status).unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
                    assert!(answer.status < 500, "{method} {path}: {answer:?}");
                    let Some(content) = known["content"].as_object() else { continue };
                    let has = |content: &String| answer.head.contains(&format!("content-type: {content}"));
                    assert!(content.keys().any(has), "{method} {path}: {answer:?}");
                }
            }
        }
    }
    assert!(asked > 1_000, "{asked}");
    service.stop();
}
