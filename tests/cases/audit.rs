//! Tests that who has changed what is on record, by the admin API and by the command line.

use std::fs;

use serde_json::{Value, json};
use sluicegate_tests::{
    Admin, Scene, Tenants, refused_purchases, rules, token_line, told, until, until_running,
};

fn rows(admin: &Admin, query: &str) -> Vec<Value> {
    admin.get(&format!("/v1/audit{query}")).json()["audit"].as_array().unwrap().clone()
}

fn brief(row: &Value) -> String {
    let part = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
    format!("{} {} {} {}", part("by"), part("action"), part("tenant"), part("outcome"))
}

#[test]
fn changes_are_on_record_whoever_makes_them() {
    let scene = Scene::new();
    refused_purchases(&scene, 3);
    let service = scene.start();
    let admin = service.admin();
    assert_eq!(rows(&admin, ""), Vec::<Value>::new());
    assert_eq!(admin.post_json("/v1/tenants/default/rules/pause", &json!({ "message": "now" })).status, 200);
    assert_eq!(
        admin.post("/v1/tenants/default/rules/deployments", "application/wasm", b"no guest").status,
        422
    );
    let asked = admin.post_json("/v1/tenants/default/dead-letters/purge", &json!({ "filter": { "id": 1 } }));
    let job = asked.json()["id"].as_i64().unwrap();
    admin.until_job(job, "done");
    assert_eq!(admin.ask("POST", &format!("/v1/jobs/{job}/cancel")).status, 409);
    let launch = || scene.service().set("USER", "ann");
    assert_eq!(rules(launch(), &["resume", "--by", "bob"]).code, Some(0));
    assert_eq!(rules(launch(), &["rollback"]).code, Some(0));
    assert_eq!(told(launch(), &["replay", "--dry-run"]).code, Some(0));
    assert_eq!(
        told(launch(), &["replay", "--code", "missing", "--tenant", "default", "--force"]).code,
        Some(0)
    );
    assert_eq!(told(launch(), &["purge", "--all"]).code, Some(0));

    let found = rows(&admin, "");
    let told: Vec<String> = found.iter().map(brief).collect();
    assert_eq!(
        told,
        [
            "ann dead-letters purge - done",
            "ann dead-letters replay default done",
            "ann rules rollback default done",
            "bob rules resume default done",
            "local POST /v1/jobs/{id}/cancel - refused",
            "local POST /v1/tenants/{name}/dead-letters/purge default done",
            "local POST /v1/tenants/{name}/rules/deployments default refused",
            "local POST /v1/tenants/{name}/rules/pause default done",
        ]
    );
    assert_eq!((&found[0]["via"], &found[0]["status"]), (&json!("command"), &Value::Null));
    assert_eq!((&found[4]["via"], &found[4]["status"]), (&json!("api"), &json!(409)));
    assert_eq!(found[4]["target"], format!("/v1/jobs/{job}/cancel"));
    assert!(found[6]["detail"].as_str().unwrap().starts_with("refused: "), "{}", found[6]);
    assert_eq!(
        found[5]["detail"],
        format!("job {job}: purge {{\"filter\":{{\"id\":1}},\"dry_run\":false,\"all\":false}}")
    );
    assert!(found[1]["target"].as_str().unwrap().contains("missing"), "{}", found[1]);
    let page = admin.get("/v1/audit?limit=3").json();
    let next = page["next_before_id"].as_i64().unwrap();
    assert_eq!(rows(&admin, &format!("?limit=5&before_id={next}")), found[3..]);
    service.stop();
}

#[test]
fn refusals_are_on_record_and_only_admins_see_it() {
    let tenants = Tenants::new(&[("acme", ""), ("globex", "")]);
    let file = tenants.scene.folder().join("tokens.toml");
    let lines = [
        token_line("viewer", "viewer", ""),
        token_line("operator", "operator", ""),
        token_line("admin", "admin", ""),
        token_line("acme-admin", "admin", "tenants = [\"acme\"]"),
    ];
    fs::write(&file, lines.concat()).unwrap();
    let service = tenants.launch().set("ADMIN_TOKENS_FILE", file.display()).start_unready();
    for name in ["acme", "globex"] {
        until_running(&service, name);
    }
    let admin = service.admin();
    let pause = |token: &str, tenant: &str| {
        let path = format!("/v1/tenants/{tenant}/rules/pause");
        admin.as_holder(token).ask("POST", &path).status
    };
    assert_eq!((pause("viewer", "acme"), pause("nobody", "acme")), (403, 401));
    assert_eq!((pause("operator", "globex"), pause("acme-admin", "globex")), (200, 404));
    for token in ["viewer", "operator"] {
        assert!(admin.as_holder(token).get("/v1/audit").problem(403).contains("wanted admin"));
    }
    let told =
        |token: &str| rows(&admin.as_holder(token), "?limit=1000").iter().map(brief).collect::<Vec<_>>();
    let action = "POST /v1/tenants/{name}/rules/pause";
    // What is unknown to a caller is not named by what it asked for.
    let hidden = format!("acme-admin {action} - refused");
    let refused = format!("viewer {action} acme refused");
    assert_eq!(told("admin"), [hidden, format!("operator {action} globex done"), refused.clone()]);
    assert_eq!(told("acme-admin"), [refused]);

    // A flood of refused requests does not become one of rows.
    for _ in 0..100 {
        assert_eq!(pause("viewer", "acme"), 403);
    }
    assert_eq!(told("acme-admin").len(), 60 - 1, "with the one that was hidden, so many of a minute");
    assert_eq!(pause("operator", "acme"), 200, "what is done is recorded all the same");
    assert_eq!(told("acme-admin")[0], format!("operator {action} acme done"));
    service.stop();
}

/// The change itself is what counts.
#[test]
fn a_change_that_cannot_be_recorded_is_made_and_told() {
    let scene = Scene::new();
    let service = scene.start();
    scene.database.execute("ALTER TABLE admin_audit ADD CONSTRAINT never CHECK (false) NOT VALID");
    assert_eq!(service.admin().ask("POST", "/v1/tenants/default/rules/pause").status, 200);
    let line = service.until_logged(&["this was not recorded in admin_audit", "ERROR"]);
    assert!(line.contains("by=\"local\"") && line.contains("status=200"), "{line}");
    let told = rules(scene.service(), &["resume"]);
    assert!(told.code == Some(0) && told.err.contains("this was not recorded in admin_audit"), "{told:?}");
    until("the reading to go on", || match service.log().contains("wants the reading to go on") {
        true => Ok(()),
        false => Err("no line".to_owned()),
    });
    service.stop();
}
