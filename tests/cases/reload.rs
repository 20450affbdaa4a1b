//! Tests that the settings are followed while the service runs.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use sluicegate_tests::{Admin, Service, Tenants, until, until_running, until_within};

/// Writes the settings of these tenants at once, as `mv` does.
fn write(tenants: &Tenants, names: &[&str], more: &str) {
    let mut file = String::new();
    for name in names {
        file += &format!("[tenants.{name}]\nstream_name = \"{}\"\n{more}\n", tenants.stream(name).name);
    }
    let path = tenants.scene.folder().join("sluicegate.toml");
    let new = path.with_extension("new");
    fs::write(&new, file).unwrap();
    fs::rename(&new, &path).unwrap();
}

fn until_logged(service: &Service, parts: &[&str]) {
    service.until_logged(parts);
}

fn until_metric(admin: &Admin, sample: &str, value: f64) {
    until(sample, || match admin.metric(sample) {
        Some(found) if found == value => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn tenants_come_go_and_change() {
    let tenants = Tenants::new(&[("one", ""), ("two", ""), ("three", "")]);
    write(&tenants, &["one", "two"], "");
    let service = tenants.start(&["one", "two"]);
    tenants.add("one", 10);
    tenants.until_rows("events_one", 10);

    write(&tenants, &["one", "three"], "");
    until_running(&service, "three");
    until_logged(&service, &["the tenant is gone from the settings", "two"]);
    tenants.add("three", 10);
    tenants.until_rows("events_three", 10);
    tenants.add("two", 10);
    assert_eq!(tenants.rows("events_two"), 0, "nobody reads it");

    // What others have is not touched.
    let starts = service.log().matches("running redis=").count();
    write(&tenants, &["one", "two", "three"], "");
    tenants.until_rows("events_two", 10);
    assert_eq!(service.log().matches("running redis=").count(), starts + 1);

    // A setting of all of them: each is started again, and loses nothing.
    tenants.add("one", 500);
    write(&tenants, &["one", "two", "three"], "batch_size = 7");
    tenants.until_rows("events_one", 510);
    until_within(Duration::from_secs(30), "all started again", || {
        match service.log().matches("running redis=").count() {
            found if found == starts + 4 => Ok(()),
            found => Err(format!("{found} starts")),
        }
    });
    service.stop();
}

#[test]
fn a_file_with_a_mistake_changes_nothing() {
    let tenants = Tenants::new(&[("one", "")]);
    let service = tenants.start(&["one"]);
    let admin = service.admin();
    let refused = r#"settings_reloads_total{outcome="refused"}"#;
    assert_eq!((admin.metric(refused), admin.metric("settings_refused")), (Some(0.0), Some(0.0)));
    write(&tenants, &["one"], "batch_sise = 7");
    until_logged(&service, &["the settings cannot be used; nothing is changed", "batch_sise"]);
    until_metric(&admin, refused, 1.0);
    assert_eq!(admin.metric("settings_refused"), Some(1.0));
    let path = tenants.scene.folder().join("sluicegate.toml");
    fs::remove_file(&path).unwrap();
    until_logged(&service, &["the settings' file is gone; nothing is changed"]);
    until_metric(&admin, refused, 2.0);
    tenants.add("one", 10);
    tenants.until_rows("events_one", 10);
    // What takes a restart says so.
    let stream = &tenants.stream("one").name;
    fs::write(&path, format!("guest_idle = \"30s\"\n[tenants.one]\nstream_name = \"{stream}\"\n")).unwrap();
    until_logged(&service, &["they take effect with the next start", "GUEST_IDLE"]);
    until_metric(&admin, r#"settings_reloads_total{outcome="in_force"}"#, 1.0);
    assert_eq!(admin.metric("settings_refused"), Some(0.0));
    fs::write(&path, format!("stream_name = \"{stream}\"\n")).unwrap();
    until_logged(&service, &["that takes a restart; nothing is changed"]);
    service.stop();
}

/// SIGHUP has the settings read again at once, whether their file has changed or not.
#[test]
fn sighup_reads_the_settings_again() {
    let tenants = Tenants::new(&[("one", "")]);
    let service = tenants.start(&["one"]);
    service.signal(Signal::HUP);
    until_logged(&service, &["the settings were read again"]);
    tenants.add("one", 10);
    until("the rows", || match tenants.rows("events_one") {
        10 => Ok(()),
        found => Err(format!("{found} rows")),
    });
    service.stop();
}
