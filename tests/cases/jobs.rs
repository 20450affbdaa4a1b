//! Tests dead letters in the admin API: who sees what, and long work as jobs.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use sluicegate_tests::{
    Admin, Answer, Event, Scene, Service, Stage, Tenants, block_on, fields, hold_letter, purchase_of,
    refused_purchases, token_line, until, until_running, until_within,
};

const LETTERS: &str = "/v1/tenants/default/dead-letters";
const SETTLED: &str =
    "SELECT count(*) FROM dead_letters WHERE replay_outcome IN ('stored', 'duplicate', 'discarded')";

/// Returns the number of a job that was asked for.
fn id(accepted: &Answer) -> i64 {
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.json()["id"].as_i64().unwrap();
    assert!(accepted.head.contains(&format!("location: /v1/jobs/{id}\r\n")), "{accepted:?}");
    id
}

fn replay(admin: &Admin, request: &Value) -> i64 {
    id(&admin.post_json(&format!("{LETTERS}/replay"), request))
}

fn letters(list: &Value) -> &[Value] {
    list["dead_letters"].as_array().unwrap()
}

fn until_settled(scene: &Scene, count: i64) {
    until(&format!("{count} letters settled"), || match scene.database.value::<i64>(SETTLED) {
        found if found == count => Ok(()),
        found => Err(found.to_string()),
    });
}

/// Sets tenants with a letter each that holds a secret, and tokens named by tenant and role.
fn two_tenants() -> (Tenants, Service) {
    let tenants = Tenants::new(&[("acme", ""), ("globex", "")]);
    let file = tenants.scene.folder().join("tokens.toml");
    let mut lines = token_line("admin", "admin", "");
    for role in ["viewer", "operator", "admin"] {
        lines += &token_line(&format!("acme-{role}"), role, "tenants = [\"acme\"]");
    }
    fs::write(&file, lines).unwrap();
    for name in ["acme", "globex"] {
        let mut entry = fields([("data", "no JSON but a secret")]);
        entry.push((b"\xfe".to_vec(), b"\xff".to_vec()));
        tenants.stream(name).add(&entry);
    }
    let service = tenants.launch().set("ADMIN_TOKENS_FILE", file.display()).start_unready();
    for name in ["acme", "globex"] {
        until_running(&service, name);
        tenants.stream(name).until_drained();
    }
    let mark =
        r#"UPDATE dead_letters SET violations = '[{"path": "data", "code": "bad", "message": "a secret"}]'"#;
    tenants.scene.database.execute(mark);
    (tenants, service)
}

#[test]
fn a_letter_is_seen_as_the_role_may() {
    let (tenants, service) = two_tenants();
    let admin = service.admin();
    let of = |tenant: &str| -> i64 {
        tenants.scene.database.value(&format!("SELECT id FROM dead_letters WHERE tenant = '{tenant}'"))
    };
    let path = "/v1/tenants/acme/dead-letters";
    let own = format!("{path}/{}", of("acme"));

    let viewer = admin.as_holder("acme-viewer");
    for path in [path, &own, &format!("{path}/summary")] {
        let answer = viewer.get(path);
        assert!(answer.status == 200 && !answer.body.contains("secret"), "{answer:?}");
    }
    let shown = viewer.get(&own).json();
    assert_eq!(shown["withheld"], json!(["fields", "violations.message"]));
    assert_eq!(shown["violations"], json!([{ "path": "data", "code": "bad" }]));

    let operator = admin.as_holder("acme-operator");
    let listed = operator.get(path).json();
    assert_eq!(listed["dead_letters"][0]["violations"][0]["message"], "a secret");
    assert_eq!((&listed["dead_letters"][0]["fields"], letters(&listed).len()), (&Value::Null, 1));
    let shown = operator.get(&own).json();
    let fields = json!([
        { "name": "data", "value": "no JSON but a secret" },
        { "name_base64": "/g==", "value_base64": "/w==" },
    ]);
    assert_eq!((&shown["fields"], &shown["withheld"]), (&fields, &Value::Null));

    // Another tenant's letter is as if it were not there, by its own path and by that of the tenant.
    let other = of("globex");
    for token in ["acme-viewer", "acme-operator", "acme-admin"] {
        let holder = admin.as_holder(token);
        assert_eq!(holder.get(&format!("{path}/{other}")).problem(404), "the tenant has no such dead letter");
        for path in
            [format!("/v1/tenants/globex/dead-letters/{other}"), "/v1/tenants/globex/dead-letters".to_owned()]
        {
            assert_eq!(holder.get(&path).problem(404), "no such tenant; wanted one of: acme");
        }
        assert_eq!(letters(&holder.get(&format!("{path}?id={other}")).json()).len(), 0);
    }
    service.stop();
}

#[test]
fn nobody_acts_beyond_the_role_and_the_tenants() {
    let (tenants, service) = two_tenants();
    let admin = service.admin();
    let ask = |token: &str, tenant: &str, what: &str, request: Value| {
        let path = format!("/v1/tenants/{tenant}/dead-letters/{what}");
        admin.as_holder(token).post_json(&path, &request)
    };
    ask("acme-viewer", "acme", "replay", json!({ "dry_run": true })).problem(403);
    ask("acme-operator", "globex", "replay", json!({ "dry_run": true })).problem(404);
    ask("acme-operator", "globex", "purge", json!({ "all": true })).problem(404);
    ask("acme-operator", "acme", "replay", json!({ "force": true })).problem(403);
    assert!(ask("acme-admin", "acme", "purge", json!({})).problem(400).contains("set \"all\" to true"));
    ask("acme-operator", "acme", "purge", json!({ "all": true })).problem(403);

    let job = id(&ask("admin", "globex", "purge", json!({ "dry_run": true })));
    let job = admin.as_holder("admin").until_job(job, "done");
    assert_eq!((&job["outcomes"], &job["by"]), (&json!({ "deleted": 1 }), &json!("admin")));
    let path = format!("/v1/jobs/{}", job["id"]);
    for token in ["acme-viewer", "acme-admin"] {
        let holder = admin.as_holder(token);
        assert_eq!(holder.get(&path).problem(404), "no such job");
        assert_eq!(holder.get("/v1/jobs").json()["jobs"], json!([]));
        holder.get("/v1/jobs?tenant=globex").problem(404);
    }
    admin.as_holder("acme-admin").ask("POST", &format!("{path}/cancel")).problem(404);

    // A purge without a condition is the tenant's own letters, and no others.
    let own = id(&ask("acme-admin", "acme", "purge", json!({ "all": true })));
    let job = admin.as_holder("acme-viewer").until_job(own, "done");
    assert_eq!((&job["done"], &job["in_total"]), (&json!(1), &json!(1)));
    let left = "SELECT string_agg(tenant, ' ') FROM dead_letters";
    assert_eq!(tenants.scene.database.value::<String>(left), "globex");
    // What only an admin could ask for, only an admin can have gone on with.
    let resume = format!("/v1/jobs/{own}/resume");
    admin.as_holder("acme-operator").ask("POST", &resume).problem(403);
    let conflict = admin.as_holder("acme-admin").ask("POST", &resume).problem(409);
    assert_eq!(conflict, "a job that is done cannot be resumed; wanted one that is cancelled or failed");
    service.stop();
}

#[test]
fn letters_are_chosen_and_come_in_pages() {
    let scene = Scene::new();
    refused_purchases(&scene, 5);
    let service = scene.start();
    let admin = service.admin();
    let listed = |query: &str| admin.get(&format!("{LETTERS}?{query}")).json();
    for (query, count) in [
        ("", 7),
        ("reason=undecodable", 1),
        ("code=missing", 5),
        ("code=missing&reason=undecodable", 0),
        ("older=1h", 0),
        ("newer=1h", 7),
        ("before=2020-01-01T00:00:00Z", 0),
        ("since=2020-01-01T00:00:00%2B02:00", 7),
        ("stream=another", 0),
        ("guest=0000", 0),
    ] {
        assert_eq!(letters(&listed(query)).len(), count, "{query}");
    }
    let (mut found, mut page) = (Vec::new(), listed("limit=3"));
    loop {
        found.extend(letters(&page).iter().map(|letter| letter["id"].as_i64().unwrap()));
        let Some(next) = page["next_before_id"].as_i64() else { break };
        page = listed(&format!("limit=3&before_id={next}"));
    }
    assert!(found.len() == 7 && found.is_sorted_by(|one, next| one > next), "{found:?}");
    let summary = admin.get(&format!("{LETTERS}/summary")).json();
    assert_eq!(
        (&summary["causes"][0]["letters"], &summary["causes"][0]["code"]),
        (&json!(5), &json!("missing"))
    );

    let missing = json!({ "filter": { "code": "missing" } });
    let dry = replay(&admin, &json!({ "filter": { "code": "missing" }, "dry_run": true }));
    let dry = admin.until_job(dry, "done");
    assert_eq!(
        (&dry["outcomes"], &dry["done"], &dry["in_total"]),
        (&json!({ "stored": 5 }), &json!(5), &json!(5))
    );
    assert_eq!(
        (scene.database.events().len(), letters(&listed("")).len()),
        (0, 7),
        "a dry run changes nothing"
    );
    let job = admin.until_job(replay(&admin, &missing), "done");
    assert_eq!(
        (&job["kind"], &job["outcomes"], &job["error"]),
        (&json!("replay"), &json!({ "stored": 5 }), &Value::Null)
    );
    assert_eq!((scene.database.events().len(), letters(&listed("")).len()), (5, 2));
    assert_eq!(letters(&listed("settled=true")).len(), 7);
    let again = admin.until_job(replay(&admin, &json!({})), "done");
    assert_eq!((&again["done"], &again["in_total"]), (&json!(2), &json!(2)), "{again}");
    service.stop();
}

/// A cancelled job does nothing more, and goes on where it was.
#[test]
fn a_job_is_cancelled_and_resumed() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 100);
    let held = hold_letter(&scene.database, &events, 50);
    let service = scene.service().set("BATCH_SIZE", 20).start();
    let admin = service.admin();
    let job = replay(&admin, &json!({ "filter": { "code": "missing" } }));
    until_settled(&scene, 40);
    let running = until("two parts told", || match admin.get(&format!("/v1/jobs/{job}")).json() {
        found if found["done"] == 40 => Ok(found),
        found => Err(found.to_string()),
    });
    assert_eq!((&running["state"], &running["in_total"]), (&json!("running"), &json!(100)));
    assert_eq!((&running["outcomes"], &running["replica"]), (&json!({ "stored": 40 }), &json!("consumer-1")));
    // A second job of the tenant waits for the first.
    let purge =
        id(&admin.post_json(&format!("{LETTERS}/purge"), &json!({ "filter": { "code": "missing" } })));
    assert_eq!(admin.get(&format!("/v1/jobs/{purge}")).json()["state"], "queued");
    let cancel = |job: i64| admin.ask("POST", &format!("/v1/jobs/{job}/cancel"));
    assert_eq!(cancel(purge).json()["state"], "cancelled");

    assert_eq!(cancel(job).json()["state"], "cancelled");
    assert_eq!(
        cancel(job).problem(409),
        "a job that is cancelled cannot be cancelled; wanted one that is queued or running"
    );
    drop(held);
    service.until_logged(&["the job was cancelled, or is another replica's now"]);
    assert_eq!(scene.database.value::<i64>(SETTLED), 40, "what was in its midst is rolled back");
    let resumed = admin.ask("POST", &format!("/v1/jobs/{job}/resume"));
    assert_eq!(resumed.status, 200, "{resumed:?}");
    let done = admin.until_job(job, "done");
    assert_eq!((&done["done"], &done["outcomes"]), (&json!(100), &json!({ "stored": 100 })));
    assert_eq!(scene.database.events(), events);
    assert_eq!(admin.get("/v1/jobs?state=cancelled").json()["jobs"][0]["id"], purge);
    service.stop();
}

/// The other replica takes the job over when the lease is over, and counts on.
#[test]
fn a_job_of_a_replica_that_was_killed_is_ended_by_another() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 100);
    let held = hold_letter(&scene.database, &events, 50);
    let start = |name: &str| scene.service().set("BATCH_SIZE", 20).set("CONSUMER_NAME", name).start();
    let one = start("one");
    let job = replay(&one.admin(), &json!({ "filter": { "code": "missing" } }));
    until_settled(&scene, 40);
    let two = start("two");
    one.end_with(Signal::KILL);
    drop(held);
    let done = two.admin().until_job(job, "done");
    assert_eq!((&done["replica"], &done["outcomes"]), (&json!("two"), &json!({ "stored": 100 })));
    assert_eq!(scene.database.events(), events);
    two.stop();
}

/// Counts are not idempotent, and hold all the same.
#[test]
fn a_job_does_each_letter_once_whatever_kills_the_service() {
    let stage = Stage::new();
    stage.scene.database.execute("ALTER TABLE user_activity RENAME TO away");
    let purchases: Vec<Event> = (0..50).map(|_| purchase_of("ada", 1.0)).collect();
    stage.add(&purchases);
    let settings = format!("{}{}", sluicegate_tests::GRANTS, sluicegate_tests::STATEMENTS);
    let launch = || stage.service(&settings).set("BATCH_SIZE", 10);
    let service = launch().start();
    stage.scene.stream.until_drained();
    service.stop();
    stage.scene.database.execute("ALTER TABLE away RENAME TO user_activity");
    assert_eq!(stage.scene.database.letters().len(), 50);

    // Between two pages, and with one half done.
    let mut service = launch().with_failpoints("after_commit=kill/2").start();
    let job = replay(&service.admin(), &json!({}));
    let mut deaths = 0;
    loop {
        until_within(Duration::from_secs(60), "its death", || match service.has_ended() {
            true => Ok(()),
            false => Err(service.log_tail()),
        });
        deaths += 1;
        let points = if deaths % 2 == 1 { "before_commit=kill/2" } else { "after_commit=kill/2" };
        let done: i64 = stage.scene.database.value("SELECT done FROM dead_letter_jobs");
        let settled: i64 = stage.scene.database.value(SETTLED);
        assert_eq!(done, settled, "what is told is what is committed");
        if done >= 30 {
            break;
        }
        service = launch().with_failpoints(points).start();
    }
    assert!(deaths >= 2, "{deaths}");
    let service = launch().start();
    let done = service.admin().until_job(job, "done");
    assert_eq!((&done["done"], &done["outcomes"]), (&json!(50), &json!({ "stored": 50 })));
    assert_eq!(stage.counted("ada"), 50);
    until("all publications", || match stage.purchases().len() {
        50 => Ok(()),
        found => Err(found.to_string()),
    });
    service.stop();
}

/// Nobody waits for a job at the end, and it goes on with the next start at once.
#[test]
fn a_shutdown_gives_the_job_back() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 100);
    let held = hold_letter(&scene.database, &events, 50);
    let launch = || scene.service().set("BATCH_SIZE", 20);
    let service = launch().start();
    let job = replay(&service.admin(), &json!({ "filter": { "code": "missing" } }));
    until_settled(&scene, 40);
    let ended = service.stop();
    assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
    assert!(ended.log.contains("the job goes on with the next start, or elsewhere"), "{}", ended.log);
    assert_eq!(scene.database.value::<String>("SELECT state FROM dead_letter_jobs"), "queued");
    drop(held);
    let service = launch().start();
    let done = service.admin().until_job(job, "done");
    assert_eq!(done["outcomes"], json!({ "stored": 100 }));
    assert_eq!(scene.database.events(), events);
    let leased = "SELECT extract(epoch FROM ended_at - started_at)::float8 FROM dead_letter_jobs";
    assert!(scene.database.value::<f64>(leased) < 15.0, "nobody waited for the end of a lease");
    service.stop();
}

/// Somebody else has letters: the job says so, and can go on later.
#[test]
fn a_job_that_fails_says_why() {
    let scene = Scene::new();
    refused_purchases(&scene, 30);
    let service = scene.start();
    let admin = service.admin();
    let mut other = scene.database.connect();
    let hold = "BEGIN; SELECT id FROM dead_letters WHERE reason = 'rejected' ORDER BY id LIMIT 10 FOR UPDATE";
    block_on(async { sqlx::raw_sql(hold).execute(&mut other).await.unwrap() });
    let request = json!({ "filter": { "code": "missing" }, "wait": "2s" });
    let job = replay(&admin, &request);
    until("the note", || match admin.get(&format!("/v1/jobs/{job}")).json() {
        job if job["note"] == "waiting for 10 dead letters that another replay holds" => Ok(()),
        job => Err(job.to_string()),
    });
    let failed = admin.until_job(job, "failed");
    assert!(failed["error"].as_str().unwrap().starts_with("10 dead letters were not replayed"), "{failed}");
    assert_eq!(failed["done"], 20);
    drop(other);
    assert_eq!(admin.ask("POST", &format!("/v1/jobs/{job}/resume")).status, 200);
    assert_eq!(admin.until_job(job, "done")["done"], 30);
    assert_eq!(
        admin.post_json(&format!("{LETTERS}/replay"), &json!({ "wait": "2h" })).problem(400),
        "wait: wanted an hour at most"
    );
    service.stop();
}

#[test]
fn letters_are_purged_as_a_job() {
    let scene = Scene::new();
    refused_purchases(&scene, 1_100);
    let service = scene.start();
    let admin = service.admin();
    let purge = |request: Value| {
        let job = id(&admin.post_json(&format!("{LETTERS}/purge"), &request));
        let done = admin.until_job(job, "done");
        (done["done"].as_i64().unwrap(), done["outcomes"].clone())
    };
    let missing = json!({ "code": "missing" });
    assert_eq!(purge(json!({ "filter": missing, "dry_run": true })), (1_100, json!({ "deleted": 1_100 })));
    assert_eq!(scene.database.letters().len(), 1_102);
    assert_eq!(purge(json!({ "filter": { "older": "1h" } })), (0, json!({})));
    assert_eq!(purge(json!({ "filter": missing })), (1_100, json!({ "deleted": 1_100 })));
    assert_eq!(purge(json!({ "all": true })), (2, json!({ "deleted": 2 })));
    assert_eq!(scene.database.letters(), []);
    service.stop();
}

#[test]
fn a_queue_has_a_bound() {
    let scene = Scene::new();
    let events = refused_purchases(&scene, 1);
    let held = hold_letter(&scene.database, &events, 0);
    let service = scene.start();
    let admin = service.admin();
    let first = replay(&admin, &json!({}));
    admin.until_job(first, "running");
    for _ in 1..100 {
        replay(&admin, &json!({ "dry_run": true }));
    }
    let full = admin.post_json(&format!("{LETTERS}/replay"), &json!({}));
    assert!(full.problem(429).starts_with("the tenant has too many jobs that have not ended"), "{full:?}");
    assert_eq!(admin.ask("POST", &format!("/v1/jobs/{first}/cancel")).status, 200);
    let last = replay(&admin, &json!({ "dry_run": true }));
    admin.ask("POST", &format!("/v1/jobs/{first}/resume")).problem(429);
    drop(held);
    admin.until_job(last, "done");
    let listed = admin.get("/v1/jobs?limit=1000").json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 101);
    service.stop();
}
