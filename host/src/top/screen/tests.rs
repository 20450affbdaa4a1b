use chrono::TimeZone as _;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::*;
use crate::client::{self, Client};
use crate::top::poll::{TenantKey, Update};

fn at(second: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 18, 12, 0, second).single().expect("a time")
}

/// A tenant with these differences from a quiet one.
fn tenant(name: &str, differences: Value) -> Value {
    let mut tenant = json!({
        "name": name, "state": "running", "trouble": null, "stream": format!("events:{name}"), "group": "consumers",
        "table": "events", "uptime_seconds": 7_300.0, "entries": { "stored": 41, "rejected": 3, "dead_lettered": 1 },
        "delivered": 45, "in_flight": 0, "lost": 0, "batches": 9, "breaches": {}, "worker_restarts": 0,
        "rules_version": "6f2b91c03ad4", "rules_refused": null, "rate": 8.0, "recent_rate": 12.34,
        "open_dead_letters": 4, "commit_latency_p50_seconds": 0.012, "commit_latency_p99_seconds": 0.25, "lag": 0, "pending": 0,
        "stream_length": 1_000, "oldest_age_seconds": 0.0,
    });
    if let (Value::Object(tenant), Value::Object(differences)) = (&mut tenant, differences) {
        tenant.extend(differences);
    }
    tenant
}

fn view(services: &[&str]) -> View {
    let client = |name: &&str| Client::new(&format!("http://{name}"), None).expect("a URL");
    View::new(services.iter().map(|name| ServicePicture::new(&client(name))).collect())
}

fn tell(view: &mut View, service: usize, second: u32, tenants: Vec<Value>) {
    let tenants = serde_json::from_value(json!(tenants)).expect("tenants");
    view.update(Update::Tenants { service, at: at(second), told: Ok(tenants) });
}

fn fail(view: &mut View, service: usize, second: u32) {
    let error = client::Error::Silent { service: view.services[service].name.clone() };
    view.update(Update::Tenants { service, at: at(second), told: Err(error) });
}

/// What stands on a screen of this size, without the blanks at the ends of the lines.
fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
    terminal.draw(|frame| draw(frame, view, at(30), Look { has_colours: false })).expect("drawn");
    let screen = terminal.backend().to_string();
    // A wide character stands before cells that it hides, which is told behind the line.
    let text = |line: &str| {
        line.split("\" Hidden by").next().unwrap_or_default().trim_matches('"').trim_end().to_owned()
    };
    screen.lines().map(text).collect()
}

fn press(view: &mut View, key: KeyCode) -> bool {
    view.press(KeyEvent::new(key, KeyModifiers::NONE))
}

fn three_tenants() -> View {
    let mut view = view(&["127.0.0.1:8700"]);
    let globex = json!({
        "trouble": "waiting for postgres", "state": "waiting for postgres", "recent_rate": 0.0, "lag": 1_234_567,
        "pending": 300, "oldest_age_seconds": 95.0, "commit_latency_p50_seconds": null, "commit_latency_p99_seconds": null,
    });
    let initech = json!({
        "rules_refused": "it exports no function process", "recent_rate": 9_512.3, "lag": null, "pending": null,
        "oldest_age_seconds": null, "lost": 12, "breaches": { "trapped": 2 },
    });
    tell(
        &mut view,
        0,
        29,
        vec![tenant("acme", json!({})), tenant("globex", globex), tenant("initech", initech)],
    );
    view
}

#[test]
fn what_is_wrong_comes_first() {
    let screen = drawn(&three_tenants(), 140, 8);
    assert_eq!(
        screen,
        [
            "127.0.0.1:8700: 3 tenants, 1 in trouble, 1 warning                                                                              12:00:30 UTC",
            "",
            "TENANT   STATE                 RATE/S    LAG  PENDING  OLDEST    P50     P99  LETTERS  RULES         WHAT IS WRONG",
            "globex   waiting for postgres     0.0  1.23M      300    95 s      -       -        4  6f2b91c03ad4  waiting for postgres",
            "initech  running                 9512      ?        ?       ?  12 ms  250 ms        4  6f2b91c03ad4  rules refused: it exports no function …",
            "acme     running                   12      0        0     0 s  12 ms  250 ms        4  6f2b91c03ad4",
            "",
            "q quit  s sort: what is wrong  Enter details  ? help",
        ]
    );
}

#[test]
fn a_narrow_terminal_has_fewer_columns() {
    let view = three_tenants();
    assert_eq!(
        drawn(&view, 80, 8),
        [
            "127.0.0.1:8700: 3 tenants, 1 in trouble, 1 warning                  12:00:30 UTC",
            "",
            "TENANT   RATE/S    LAG  PENDING  OLDEST    P50     P99  WHAT IS WRONG",
            "globex      0.0  1.23M      300    95 s      -       -  waiting for postgres",
            "initech    9512      ?        ?       ?  12 ms  250 ms  rules refused: it expor…",
            "acme         12      0        0     0 s  12 ms  250 ms",
            "",
            "q quit  s sort: what is wrong  Enter details  ? help",
        ]
    );
    assert_eq!(
        drawn(&view, 40, 7),
        [
            "127.0.0.1:8700: 3 tenants, 1 in trouble…",
            "",
            "TENANT     LAG  WHAT IS WRONG",
            "globex   1.23M  waiting for postgres",
            "initech      ?  rules refused: it expor…",
            "acme         0",
            "q quit  s sort: what is wrong  Enter det",
        ]
    );
    for (width, height) in [(1, 1), (3, 2), (10, 3), (20, 100), (500, 5)] {
        drawn(&view, width, height);
    }
}

#[test]
fn a_service_that_does_not_answer_keeps_its_picture() {
    let mut view = three_tenants();
    fail(&mut view, 0, 29);
    fail(&mut view, 0, 30);
    assert_eq!(
        drawn(&view, 100, 9),
        [
            "127.0.0.1:8700: 3 tenants, 1 in trouble, 1 warning                                      12:00:30 UTC",
            "127.0.0.1:8700: no answer since 12:00:29 UTC (1.0 s); what it told then is below",
            "  127.0.0.1:8700 has not answered within 5 s",
            "",
            "TENANT   STATE          RATE/S    LAG  PENDING  OLDEST    P50     P99  LETTERS  WHAT IS WRONG",
            "globex   waiting for …     0.0  1.23M      300    95 s      -       -        4  waiting for postgres",
            "initech  running          9512      ?        ?       ?  12 ms  250 ms        4  rules refused: it e…",
            "acme     running            12      0        0     0 s  12 ms  250 ms        4",
            "q quit  s sort: what is wrong  Enter details  ? help",
        ]
    );
    let mut never = self::view(&["127.0.0.1:8700"]);
    fail(&mut never, 0, 20);
    fail(&mut never, 0, 25);
    assert_eq!(
        drawn(&never, 100, 6),
        [
            "127.0.0.1:8700: 0 tenants                                                               12:00:30 UTC",
            "127.0.0.1:8700: no answer since 12:00:20 UTC (10 s)",
            "  127.0.0.1:8700 has not answered within 5 s",
            "",
            "",
            "q quit  s sort: what is wrong  Enter details  ? help",
        ]
    );
    tell(&mut view, 0, 31, vec![]);
    assert_eq!(drawn(&view, 100, 4)[2], "no tenants");
}

#[test]
fn replicas_have_their_own_rows() {
    let mut view = view(&["one:8700", "two:8700"]);
    tell(&mut view, 0, 29, vec![tenant("acme", json!({}))]);
    tell(&mut view, 1, 29, vec![tenant("acme", json!({ "recent_rate": 5.0, "state": "paused" }))]);
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(
        drawn(&view, 120, 6),
        [
            "2 services: 2 tenants                                                                                       12:00:30 UTC",
            "",
            "TENANT  SERVICE   STATE    RATE/S  LAG  PENDING  OLDEST    P50     P99  LETTERS  RULES         WHAT IS WRONG",
            "acme    one:8700  running      12    0        0     0 s  12 ms  250 ms        4  6f2b91c03ad4",
            "acme    two:8700  paused      5.0    0        0     0 s  12 ms  250 ms        4  6f2b91c03ad4  paused",
            "q quit  s sort: name  Enter details  ? help",
        ]
    );
}

/// Whoever answers in the service's place cannot command the terminal, nor draw lines of its own.
#[test]
fn nothing_that_is_told_commands_the_terminal() {
    let mut view = view(&["127.0.0.1:8700"]);
    let hostile = "\u{1b}[2J\r\nroot\u{202e}";
    let differences = json!({
        "state": hostile, "trouble": hostile, "rules_version": hostile, "stream": hostile, "breaches": { hostile: 1 },
        "rules_refused": hostile.repeat(1_000),
    });
    tell(&mut view, 0, 29, vec![tenant(hostile, differences), tenant("日本語日本語日本語日本語", json!({}))]);
    assert_eq!(
        drawn(&view, 80, 7),
        [
            "127.0.0.1:8700: 2 tenants, 1 in trouble                             12:00:30 UTC",
            "",
            "TENANT                RATE/S  LAG  PENDING  OLDEST     P99  WHAT IS WRONG",
            "\\u{1b}[2J\\r\\nroot\\u…      12    0        0     0 s  250 ms  \\u{1b}[2J\\r\\nroot\\u…",
            "日本語日本語日本語…       12    0        0     0 s  250 ms",
            "",
            "q quit  s sort: what is wrong  Enter details  ? help",
        ]
    );
    press(&mut view, KeyCode::Enter);
    let key = view.looked_at().expect("a tenant");
    let replica = json!({
        "replica": hostile, "version": hostile, "state": hostile, "refused": hostile, "paused": true, "seen_s_ago": -1.0,
    });
    let rules = json!({ "version": hostile, "by": hostile, "since": hostile, "replicas": [replica] });
    view.update(Update::Rules { of: key, told: Ok(serde_json::from_value(rules).expect("a status")) });
    let screen = drawn(&view, 200, 20).join("\n");
    assert!(screen.contains("\\u{1b}[2J\\r\\nroot\\u{202e}"), "{screen}");
    assert!(!screen.contains(['\u{1b}', '\r', '\u{202e}']), "{screen}");
}

#[test]
fn keys_choose_sort_and_quit() {
    let mut view = three_tenants();
    let chosen = |view: &View| {
        let rows = view.rows();
        rows[view.chosen_among(&rows)].tenant.name.clone()
    };
    assert_eq!(chosen(&view), "globex");
    press(&mut view, KeyCode::Char('j'));
    assert_eq!(chosen(&view), "initech");
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(view.rows()[0].tenant.name, "acme", "by name");
    assert_eq!(chosen(&view), "initech", "the same wherever it stands");
    press(&mut view, KeyCode::Down);
    assert_eq!(chosen(&view), "initech", "it is the last");
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(view.rows()[0].tenant.name, "initech", "by rate");
    press(&mut view, KeyCode::Enter);
    assert_eq!(view.looked_at(), Some(TenantKey { service: 0, name: "initech".to_owned() }));
    assert!(!press(&mut view, KeyCode::Esc), "back to the list");
    assert_eq!(view.looked_at(), None);
    press(&mut view, KeyCode::Char('?'));
    assert!(
        drawn(&view, 100, 20).iter().any(|line| line.starts_with("LETTERS")),
        "{:?}",
        drawn(&view, 100, 20)
    );
    press(&mut view, KeyCode::Esc);
    assert!(press(&mut view, KeyCode::Esc));
    assert!(press(&mut view, KeyCode::Char('q')));
    assert!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn all_of_a_tenant_is_told() {
    let mut view = three_tenants();
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Enter);
    assert!(drawn(&view, 100, 20).contains(&"replicas  asking…".to_owned()));
    let replica = json!({
        "replica": "consumer-1", "version": "6f2b91c03ad4aaaa", "state": "refused", "refused": "it exports no function process",
        "paused": false, "seen_s_ago": 0.5,
    });
    let rules = json!({
        "version": "0c77de41f19bbbbb", "by": "anna", "since": "2026-01-18T11:59:00Z", "replicas": [replica],
    });
    let of = view.looked_at().expect("a tenant");
    view.update(Update::Rules { of, told: Ok(serde_json::from_value(rules).expect("a status")) });
    assert_eq!(
        drawn(&view, 100, 18),
        [
            "127.0.0.1:8700: 3 tenants, 1 in trouble, 1 warning                                      12:00:30 UTC",
            "",
            "tenant    initech at 127.0.0.1:8700, running for 2 h",
            "wrong     rules refused: it exports no function process; 12 entries were lost; breaches: trapped 2",
            "stream    events:initech, group consumers, table events",
            "ended     dead_lettered 1, rejected 3, stored 41",
            "rates     9512/s in the last half minute, 8.0/s in all",
            "left      lag ?, pending ?, oldest ?, in flight here 0, stream length 1000",
            "latency   p50 12 ms, p99 250 ms",
            "letters   4 open",
            "lost      12",
            "breaches  trapped 2",
            "restarts  0 of the guest's process",
            "rules     6f2b91c03ad4",
            "wanted    0c77de41f19b by anna since 2026-01-18T11:59:00Z",
            "replica   consumer-1: 6f2b91c03ad4 refused, seen 500 ms ago: it exports no function process",
            "",
            "q quit  Esc back  up down another tenant  ? help",
        ]
    );
}

#[test]
fn many_tenants_scroll() {
    let mut view = view(&["127.0.0.1:8700"]);
    let tenants = (0..100).map(|at| tenant(&format!("t{at:02}"), json!({}))).collect();
    tell(&mut view, 0, 29, tenants);
    press(&mut view, KeyCode::End);
    let screen = drawn(&view, 60, 10);
    assert!(screen[8].starts_with("t99"), "{screen:?}");
    press(&mut view, KeyCode::Home);
    assert!(drawn(&view, 60, 10)[3].starts_with("t00"));
}
