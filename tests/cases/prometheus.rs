//! Tests that an unmodified Prometheus scrapes the service.

use std::fs;

use sluicegate_tests::{Admin, Event, Prometheus, Scene, token_line, until};

fn until_scraped(scene: &Scene, admin: &Admin, settings: &str) {
    scene.stream.add_all(&[Event::new().data(), Event::new().data()]);
    scene.stream.until_drained();
    let prometheus = Prometheus::start(scene.folder(), admin, settings);
    until("a target that is up", || match prometheus.value("up") {
        Some(1.0) => Ok(()),
        found => Err(format!("up is {found:?}: {}", prometheus.ask("targets?state=active"))),
    });
    let target = &prometheus.ask("targets?state=active")["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    assert!(prometheus.value("scrape_samples_scraped").is_some_and(|samples| samples > 50.0));
    let stored = r#"sluicegate_entries_total{tenant="default",outcome="stored"}"#;
    let expression = stored.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
    until("the counter", || match prometheus.value(&expression) {
        Some(2.0) => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let metadata = prometheus.ask("metadata?metric=sluicegate_entries");
    let of_histogram = prometheus.ask("metadata?metric=sluicegate_batch_duration_seconds");
    assert_eq!(metadata["sluicegate_entries"][0]["type"], "counter", "{metadata}");
    assert_eq!(of_histogram["sluicegate_batch_duration_seconds"][0]["type"], "histogram", "{of_histogram}");
    let log = prometheus.log();
    let is_trouble = |line: &&str| ["level=warn", "level=error"].iter().any(|level| line.contains(level));
    assert_eq!(log.lines().find(is_trouble), None, "{log}");
}

#[test]
fn prometheus_scrapes_the_metrics() {
    let scene = Scene::new();
    let service = scene.start();
    until_scraped(&scene, &service.admin(), "");
    service.stop();
}

#[test]
fn prometheus_scrapes_with_a_token() {
    let scene = Scene::new();
    let [tokens, credentials] = ["tokens.toml", "prometheus.token"].map(|name| scene.folder().join(name));
    fs::write(&tokens, token_line("secret", "viewer", "")).unwrap();
    fs::write(&credentials, "secret\n").unwrap();
    let service = scene.service().set("ADMIN_TOKENS_FILE", tokens.display()).start();
    let settings =
        format!("    authorization: {{ credentials_file: {:?} }}\n", credentials.display().to_string());
    until_scraped(&scene, &service.admin(), &settings);
    service.stop();
}
