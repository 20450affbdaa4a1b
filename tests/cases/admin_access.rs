//! Tests who may ask the admin API: callers of this machine, and holders of tokens.

use std::fs;

use serde_json::json;
use sluicegate_tests::{Admin, Event, Scene, Tenants, token_line, until};

/// A page in a browser on this machine can ask as well, by a name that it has given this address.
#[test]
fn pages_of_other_sites_are_refused() {
    let scene = Scene::new();
    let service = scene.start();
    let admin = service.admin();
    for header in [
        "Host: evil.example",
        "Host: localhost.evil.example",
        "Host: 192.168.0.1:8700",
        "Host:",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Origin: http://evil.example",
        "Origin: null",
    ] {
        for path in ["/metrics", "/v1/tenants", "/readyz", "/livez"] {
            let detail = admin.with(header).get(path).problem(403);
            assert!(detail.contains("wanted"), "{header}: {detail}");
        }
    }
    let absolute = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    admin.send(absolute).problem(403);
    admin.send("GET /metrics HTTP/1.0\r\n\r\n").problem(403);
    let port = admin.port();
    for header in [
        "Host: localhost".to_owned(),
        format!("Host: 127.0.0.1:{port}"),
        "Host: [::1]:8700".to_owned(),
        "Sec-Fetch-Site: same-origin".to_owned(),
        "Sec-Fetch-Site: none".to_owned(),
        format!("Origin: http://127.0.0.1:{port}"),
    ] {
        assert_eq!(admin.with(&header).get("/metrics").status, 200, "{header}");
    }
    service.stop();
}

#[test]
fn where_others_can_ask_tokens_are_wanted() {
    let scene = Scene::new();
    let file = scene.folder().join("tokens.toml");
    let launch = || scene.service().set("ADMIN_LISTEN", "0.0.0.0:0");
    let ended = launch().run_to_end();
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.log.contains("which others can reach, and ADMIN_TOKENS_FILE is not set; wanted"),
        "{}",
        ended.log
    );
    for (text, part) in [
        ("", "there is no token in it; wanted"),
        (token_line("hunter2", "root", "").as_str(), "unknown variant `root`"),
        ("[[token]]\nname = \"a\"\nsha256 = \"hunter2\"\nrole = \"viewer\"\n", "wanted 64 digits"),
        ("hunter2 = [", "wanted [[token]] with name"),
    ] {
        fs::write(&file, text).unwrap();
        let ended = launch().set("ADMIN_TOKENS_FILE", file.display()).run_to_end();
        assert_eq!(ended.code, Some(1));
        assert!(ended.log.contains("tokens.toml: ") && ended.log.contains(part), "{part}: {}", ended.log);
        assert!(!ended.log.contains("= \"hunter2") && !ended.log.contains("hunter2 ="), "{}", ended.log);
    }
    fs::remove_file(&file).unwrap();
    let ended = launch().set("ADMIN_TOKENS_FILE", file.display()).run_to_end();
    assert!(ended.log.contains("wanted a TOML file that this user may read"), "{}", ended.log);

    fs::write(&file, token_line("hunter2", "viewer", "")).unwrap();
    let service = launch().set("ADMIN_TOKENS_FILE", file.display()).start();
    let line = service.until_logged(&["serving metrics and the admin API"]);
    assert!(line.contains("admin=0.0.0.0:"), "{line}");
    let admin = service.admin();
    assert_eq!(admin.as_holder("hunter2").with("Host: sluicegate.example").get("/metrics").status, 200);
    assert_eq!(admin.with("Host: sluicegate.example").get("/readyz").status, 200);
    service.stop();
}

#[test]
fn a_token_has_a_role_and_tenants() {
    let tenants = Tenants::new(&[("acme", ""), ("globex", "")]);
    let file = tenants.scene.folder().join("tokens.toml");
    let of_acme = token_line("see-acme", "viewer", "tenants = [\"acme\"]");
    fs::write(&file, format!("{of_acme}{}", token_line("all", "operator", ""))).unwrap();
    let service = tenants.launch().set("ADMIN_TOKENS_FILE", file.display()).start_unready();
    for name in ["acme", "globex"] {
        sluicegate_tests::until_running(&service, name);
    }
    let admin = service.admin();
    for path in ["/livez", "/readyz"] {
        assert_eq!(admin.get(path).status, 200, "{path}");
    }
    for asked in [admin.clone(), admin.as_holder("guessed"), admin.with("Authorization: Basic all")] {
        for path in ["/metrics", "/v1/tenants", "/v1/tenants/nobody", "/v1/scale", "/v1/openapi.json"] {
            let answer = asked.get(path);
            answer.problem(401);
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    let (of_acme, of_all) = (admin.as_holder("see-acme"), admin.as_holder("all"));
    let names = |admin: &Admin, path: &str| {
        let list = admin.get(path).json();
        let tenants = list["tenants"].as_array().unwrap();
        tenants.iter().map(|tenant| tenant["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for path in ["/v1/tenants", "/v1/scale"] {
        assert_eq!(names(&of_acme, path), ["acme"]);
        assert_eq!(names(&of_all, path), ["acme", "globex"]);
    }
    assert_eq!(of_acme.get("/v1/tenants/acme").json()["name"], "acme");
    let nobody = of_acme.get("/v1/tenants/nobody").problem(404);
    assert_eq!(of_acme.get("/v1/tenants/globex").problem(404), nobody, "as if it were not there");
    assert!(!of_acme.get("/metrics").body.contains("globex"));
    assert!(of_all.get("/metrics").body.contains("globex"));
    of_acme.ask("POST", "/v1/tenants").problem(403);
    of_all.ask("POST", "/v1/tenants").problem(405);

    // Another file counts at the next request, and one that does not read counts for nothing.
    fs::write(&file, token_line("new", "viewer", "")).unwrap();
    until("the new token", || match admin.as_holder("new").get("/v1/tenants").status {
        200 => Ok(()),
        status => Err(status.to_string()),
    });
    of_all.get("/metrics").problem(401);
    fs::write(&file, "broken").unwrap();
    assert_eq!(admin.as_holder("new").get("/metrics").status, 200);
    service.until_logged(&["tokens were not read again; going on with the last ones"]);
    let log = service.stop().log;
    for token in ["guessed", "Bearer"] {
        assert!(!log.contains(token), "{log}");
    }
}

/// Nothing that an event holds is told to those who may only look.
#[test]
fn the_api_tells_nothing_of_the_events() {
    let scene = Scene::new();
    let event = Event { user_id: "hidden-user".to_owned(), ..Event::of_type("hidden-type") };
    scene.stream.add_all(&[event.data(), event.flat()]);
    let service = scene.start();
    scene.stream.until_drained();
    let admin = service.admin();
    for path in ["/metrics", "/readyz", "/v1/tenants", "/v1/tenants/default", "/v1/scale"] {
        let answer = admin.get(path);
        assert!(!answer.body.contains("hidden"), "{path}: {}", answer.body);
        assert!(answer.head.contains("cache-control: no-store"), "{path}: {}", answer.head);
    }
    assert_eq!(admin.get("/readyz").json(), json!({ "ready": true, "not_ready": [] }));
    service.stop();
}
