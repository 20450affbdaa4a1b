//! Tests `sluicegate top` against the real service, and in a real terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluicegate::batch::Digest;
use sluicegate_tests::{Scene, Tenants, guests, top, until};

#[test]
fn once_tells_what_each_tenant_does() {
    let tenants = Tenants::new(&[("acme", ""), ("globex", "")]);
    let service = tenants.start(&["acme", "globex"]);
    let url = service.admin().url();
    tenants.add("acme", 3);
    let found = until("three stored entries of acme", || {
        let told = top(tenants.launch(), &["--once", "--json", "--url", &url]);
        assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
        let found: Value = serde_json::from_str(&told.out).unwrap();
        let acme = &found["services"][0]["tenants"][0];
        match acme["entries"]["stored"] == 3 && acme["lag"] == 0 && acme["pending"] == 0 {
            true => Ok(found),
            false => Err(told.out),
        }
    });
    let service_told = &found["services"][0];
    assert_eq!((&service_told["url"], &service_told["error"]), (&json!(format!("{url}/")), &Value::Null));
    let [acme, globex] = [0, 1].map(|at| &service_told["tenants"][at]);
    assert_eq!((&acme["name"], &acme["state"]), (&json!("acme"), &json!("running")));
    assert_eq!((&acme["trouble"], &acme["rules_refused"]), (&Value::Null, &Value::Null));
    let latency = |share: &str| acme[format!("commit_latency_{share}_seconds")].as_f64().unwrap();
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") < 60.0, "{acme}");
    assert_eq!(globex["commit_latency_p99_seconds"], Value::Null, "nothing was committed");
    assert_eq!(acme["rules_version"].as_str().map(str::len), Some(12), "{acme}");

    let told = top(tenants.launch(), &["--once", "--url", &url]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = told.out.lines().collect();
    assert_eq!(lines.len(), 3, "{}", told.out);
    assert!(lines[0].starts_with("TENANT  STATE    RATE/S  LAG  PENDING  OLDEST"), "{}", told.out);
    assert!(
        lines[1].starts_with("acme    running ") && lines[2].starts_with("globex  running "),
        "{}",
        told.out
    );
    assert!(!told.out.contains('\u{1b}'), "nothing for a terminal");
    service.stop();
}

/// A tenant goes on with what it has, and it is told why it does not have what is wanted.
#[test]
fn what_is_wrong_is_told() {
    let tenants = Tenants::new(&[("acme", "guest = \"acme.wasm\""), ("broken", "guest = \"broken.wasm\"")]);
    let guest = tenants.scene.folder().join("acme.wasm");
    fs::write(&guest, guests::STRICT).unwrap();
    let service = tenants.start(&["acme"]);
    let url = service.admin().url();
    fs::write(&guest, b"no component").unwrap();
    until("what is wrong with both", || {
        let told = top(tenants.launch(), &["--once", "--url", &url]);
        let lines: Vec<&str> = told.out.lines().collect();
        let is_told = lines[1].starts_with("broken  failed ")
            && lines[1].ends_with("  failed")
            && lines[2].starts_with("acme    running ")
            && lines[2].contains("  rules refused: ");
        if is_told { Ok(()) } else { Err(told.out) }
    });
    service.stop();
}

#[test]
fn a_token_opens_it() {
    let scene = Scene::new();
    let digest: String =
        Digest::new(b"hunter2").as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let tokens = scene.folder().join("tokens.toml");
    fs::write(&tokens, format!("[[token]]\nname = \"a\"\nsha256 = \"{digest}\"\nrole = \"viewer\"\n"))
        .unwrap();
    let service = scene.service().set("ADMIN_TOKENS_FILE", tokens.display()).start();
    let url = service.admin().url();
    let token = scene.folder().join("token");
    let token_file = token.display().to_string();

    let told = top(scene.service(), &["--once", "--url", &url]);
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("wants a token; name a file that holds one, by --token-file"), "{told:?}");
    fs::write(&token, "hunter3\n").unwrap();
    let told = top(scene.service(), &["--once", "--url", &url, "--token-file", &token_file]);
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("does not know this token; wanted one whose SHA-256"), "{told:?}");
    assert!(!told.err.contains("hunter"), "{told:?}");
    fs::write(&token, "hunter2\n").unwrap();
    let launch = scene.service().set("ADMIN_URL", &url).set("ADMIN_URL_TOKEN_FILE", &token_file);
    let told = top(launch, &["--once"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.out.contains("\ndefault  running"), "{told:?}");
    service.stop();
}

#[test]
fn who_does_not_answer_is_told() {
    let scene = Scene::new();
    let service = scene.start();
    let url = service.admin().url();
    // The kernel takes the connection, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let of = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (silent_url, nobody) = (of(&silent), of(&TcpListener::bind("127.0.0.1:0").unwrap()));
    for (urls, part) in [
        (vec![nobody.as_str()], "cannot be reached: Connection refused (os error 111); wanted the address"),
        (vec![silent_url.as_str()], "has not answered within 5 s"),
        (vec!["https://localhost"], "TLS is not spoken; wanted one such as http://127.0.0.1:8700"),
        (vec![url.as_str(), nobody.as_str()], "cannot be reached"),
    ] {
        let arguments: Vec<&str> = urls.iter().flat_map(|url| ["--url", url]).chain(["--once"]).collect();
        let told = top(scene.service(), &arguments);
        let is_wrong = urls[0].starts_with("https:");
        assert_eq!(told.code, Some(if is_wrong { 2 } else { 1 }), "{told:?}");
        assert!(told.err.contains(part), "{told:?}");
        assert_eq!(
            told.out.contains("default"),
            urls.contains(&url.as_str()),
            "the others are told: {told:?}"
        );
    }
    let told = top(scene.service(), &["--url", &url]);
    assert!(told.err.contains("standard output is no terminal; add --once"), "{told:?}");
    service.stop();
}

/// The shell shows how it finds the terminal when the command has ended.
#[test]
fn the_terminal_is_as_it_was_when_it_ends() {
    let scene = Scene::new();
    let service = scene.start();
    let top = scene.service().tool(&["top", "--url", &service.admin().url()]);
    let words = [top.get_program()].into_iter().chain(top.get_args());
    let words: Vec<String> = words.map(|word| word.to_str().unwrap().to_owned()).collect();
    for key in ["q", "\u{1b}", "\u{3}"] {
        let mut terminal = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!(
                "stty rows 24 columns 100; {}; echo ended $?; stty -a; echo all told",
                words.join(" ")
            ))
            .arg("/dev/null")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script (of util-linux) starts a terminal");
        let (mut keys, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
        let mut shown = Vec::new();
        let mut read_until = |part: &str| {
            let mut bytes = [0; 4_096];
            while !String::from_utf8_lossy(&shown).contains(part) {
                let read = screen.read(&mut bytes).unwrap();
                assert!(read > 0, "{part} in {:?}", String::from_utf8_lossy(&shown));
                shown.extend_from_slice(&bytes[..read]);
            }
            String::from_utf8_lossy(&shown).into_owned()
        };
        let shown = read_until("default");
        assert!(shown.contains("\u{1b}[?1049h"), "the other screen: {shown:?}");
        keys.write_all(key.as_bytes()).unwrap();
        let shown = read_until("all told");
        assert!(shown.contains("ended 0"), "{key:?}: {shown:?}");
        let (_, after) = shown.split_once("\u{1b}[?1049l").expect("the first screen again");
        let modes: Vec<&str> = after.split_whitespace().collect();
        for mode in ["icanon", "echo", "isig"] {
            assert!(modes.contains(&mode), "{mode} in {after:?}");
        }
        terminal.wait().unwrap();
    }
    service.stop();
}
