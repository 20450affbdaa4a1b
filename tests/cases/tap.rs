//! Tests the live tap: what it shows and to whom, and that those who watch hold up nothing.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate_tests::{
    Event, Fields, Scene, Service, Tenants, Watch, fields, guests, token_line, until, until_running,
};

const TAP: &str = "/v1/tenants/default/tap";

/// Starts the service with the rules of the example.
fn strict(scene: &Scene) -> Service {
    let strict = scene.folder().join("strict.wasm");
    fs::write(&strict, guests::STRICT).unwrap();
    scene.service().set("GUEST", strict.display()).start()
}

fn rejected() -> Event {
    Event { properties: None, ..Event::of_type("purchase") }
}

fn outcomes(watch: &mut Watch, count: usize) -> Vec<String> {
    (0..count).map(|_| watch.entry()["outcome"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn entries_are_shown_with_what_became_of_them() {
    let scene = Scene::new();
    let service = strict(&scene);
    let admin = service.admin();
    let mut watch = admin.watch(TAP);
    let mut payload = admin.watch(&format!("{TAP}?payload=true"));
    let event = Event::new();
    let undecodable: Fields = fields([(b"data".as_slice(), b"\xff".as_slice())]);
    let ids = scene.stream.add_all(&[
        event.data(),
        event.flat(),
        rejected().data(),
        Event::of_type("heartbeat").data(),
        undecodable,
    ]);
    let shown: Vec<Value> = (0..5).map(|_| watch.entry()).collect();
    let outcomes: Vec<&str> = shown.iter().map(|entry| entry["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["stored", "duplicate", "rejected", "discarded", "dead_lettered"]);
    for (entry, id) in shown.iter().zip(&ids) {
        assert_eq!(entry["entry"], *id);
    }
    let version = &admin.get("/v1/tenants/default/rules").json()["version"];
    assert!(version.is_string() && shown.iter().all(|entry| entry["version"] == *version), "{shown:?}");
    assert_eq!(shown[2]["violations"], json!([{ "path": "properties.amount", "code": "missing" }]));
    assert_eq!((&shown[3]["reason"], &shown[4]["reason"]), (&json!("heartbeat"), &json!("undecodable")));
    assert_eq!(shown[0].get("fields"), None);

    let shown: Vec<Value> = (0..5).map(|_| payload.entry()).collect();
    let data = String::from_utf8(event.data()[0].1.clone()).unwrap();
    assert_eq!(shown[0]["fields"], json!([["data", data]]));
    assert_eq!(shown[0]["events"][0]["event_id"], event.event_id.to_string());
    assert_eq!(shown[0]["events"][0]["time"], event.timestamp());
    assert!(shown[2]["violations"][0]["message"].as_str().unwrap().contains("expected a number"));
    assert_eq!(shown[4]["fields"], json!([["data", "\u{fffd}"]]));
    service.stop();
}

#[test]
fn only_what_is_wanted_is_shown() {
    let scene = Scene::new();
    let service = strict(&scene);
    let admin = service.admin();
    let mut letters = admin.watch(&format!("{TAP}?outcome=rejected,dead_lettered&outcome=discarded&limit=2"));
    let mut of_code = admin.watch(&format!("{TAP}?code=missing&code=other"));
    let mut one_in = admin.watch(&format!("{TAP}?sample=2"));
    scene.stream.add_all(&[
        Event::new().data(),
        Event::of_type("heartbeat").data(),
        fields([("data", "no JSON")]),
        Event::new().data(),
        rejected().data(),
    ]);
    assert_eq!(outcomes(&mut letters, 2), ["discarded", "rejected"]);
    assert_eq!(letters.next(), None, "that was all");
    assert_eq!(of_code.entry()["violations"][0]["path"], "properties.amount");
    assert_eq!(outcomes(&mut one_in, 3), ["stored", "rejected", "rejected"]);
    for (query, part) in [
        ("outcome=lost", "wanted stored, duplicate, rejected"),
        ("rate=1000", "wanted 1 to 100"),
        ("sample=0", "wanted a whole number"),
        ("payloads=true", "wanted outcome, code"),
    ] {
        let detail = admin.get(&format!("{TAP}?{query}")).problem(400);
        assert!(detail.contains(part), "{detail}");
    }
    service.stop();
}

/// The content is for operators, and another tenant is as if it were not there.
#[test]
fn each_sees_what_its_token_allows() {
    let tenants = Tenants::new(&[("acme", ""), ("globex", "")]);
    let file = tenants.scene.folder().join("tokens.toml");
    let of_acme = "tenants = [\"acme\"]";
    let tokens = [token_line("look", "viewer", of_acme), token_line("act", "operator", of_acme)];
    fs::write(&file, tokens.concat()).unwrap();
    let service = tenants.launch().set("ADMIN_TOKENS_FILE", file.display()).start_unready();
    until_running(&service, "acme");
    let admin = service.admin();
    let (viewer, operator) = (admin.as_holder("look"), admin.as_holder("act"));
    admin.get("/v1/tenants/acme/tap").problem(401);
    assert_eq!(viewer.get("/v1/tenants/globex/tap").problem(404), "no such tenant; wanted one of: acme");
    assert!(viewer.get("/v1/tenants/acme/tap?payload=true").problem(403).contains("wanted operator"));
    let mut may_look = viewer.watch("/v1/tenants/acme/tap");
    let mut may_act = operator.watch("/v1/tenants/acme/tap?payload=true");
    let event = Event { user_id: "hidden-user".to_owned(), ..Event::of_type("hidden-type") };
    let bad = fields([("data", "{\"hidden\": true}")]);
    tenants.stream("acme").add_all(&[event.data(), bad]);
    for _ in 0..2 {
        let (shown, payload) = (may_look.entry(), may_act.entry());
        assert!(!shown.to_string().contains("hidden"), "{shown}");
        assert!(payload.to_string().contains("hidden"), "{payload}");
    }

    // Who may not see the content any more has seen the last of it.
    fs::write(&file, [token_line("look", "viewer", of_acme), token_line("act", "viewer", of_acme)].concat())
        .unwrap();
    until("the end of the stream", || {
        tenants.stream("acme").add(&event.data());
        match may_act.next() {
            None => Ok(()),
            Some(told) => Err(format!("{told:?}")),
        }
    });
    may_look.entry();
    service.stop();
}

/// A watcher that reads nothing loses samples, and is told how many; the data path loses nothing.
#[test]
fn a_slow_watcher_holds_up_nothing() {
    const COUNT: usize = 2_000;
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let watch = admin.watch(&format!("{TAP}?payload=true&rate=100"));
    let large = Event { properties: Some(json!({ "text": "x".repeat(4_000) })), ..Event::new() };
    let event = || Event { event_id: Event::new().event_id, ..large.clone() }.data();
    for _ in 0..COUNT / 100 {
        scene.stream.add_all(&(0..100).map(|_| event()).collect::<Vec<Fields>>());
    }
    scene.stream.until_drained();
    assert_eq!(admin.metric(r#"entries_total{tenant="default",outcome="stored"}"#), Some(2_000.0));
    let (mut shown, mut slow, mut rate) = (0, 0, 0);
    for (kind, told) in watch {
        match kind.as_str() {
            "entry" => {
                assert_eq!(told["truncated"], true, "{told}");
                shown += 1;
            }
            "dropped" => {
                slow += told["slow"].as_u64().unwrap();
                rate += told["rate"].as_u64().unwrap();
            }
            _ => panic!("{kind}: {told}"),
        }
        if shown + slow + rate >= 2_000 {
            break;
        }
    }
    assert_eq!(shown + slow + rate, 2_000, "each is shown or counted once");
    assert!(shown > 0 && slow > 0 && rate > 0, "{shown} shown, {slow} slow, {rate} beyond the rate");
    service.stop();
}

/// A hundred and more may watch and read nothing. They take nobody's place, and their number has an end.
#[test]
fn watchers_take_no_place_of_others_and_do_not_delay_the_shutdown() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    let mut watches: Vec<Watch> = (0..128).map(|_| admin.watch(TAP)).collect();
    assert!(admin.get(TAP).problem(503).contains("128 watch already"));
    assert_eq!(admin.get("/readyz").status, 200);
    assert_eq!(admin.metric(r#"connected{tenant="default",server="redis"}"#), Some(1.0));
    // One that goes makes room for another.
    drop(watches.pop());
    until("a free place", || match admin.ask("HEAD", TAP).status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    scene.stream.add_all(&vec![Event::new().data(); 100]);
    scene.stream.until_drained();
    let ended = service.stop();
    assert!(ended.took < Duration::from_secs(2), "{:?}", ended.took);
    for watch in watches {
        watch.count(); // to its end
    }
}

#[test]
fn the_stream_ends_with_its_tenant() {
    let tenants = Tenants::new(&[("one", ""), ("two", "")]);
    let service = tenants.start(&["one", "two"]);
    let admin = service.admin();
    let mut one = admin.watch("/v1/tenants/one/tap");
    let mut two = admin.watch("/v1/tenants/two/tap");
    let path = tenants.scene.folder().join("sluicegate.toml");
    fs::write(&path, format!("[tenants.one]\nstream_name = \"{}\"\n", tenants.stream("one").name)).unwrap();
    assert_eq!(two.next(), None);
    // What is in flight is committed first.
    until("a tenant that is gone", || match admin.get("/v1/tenants/two/tap").status {
        404 => Ok(()),
        status => Err(status.to_string()),
    });
    tenants.add("one", 1);
    assert_eq!(one.entry()["outcome"], "stored");
    service.stop();
}
