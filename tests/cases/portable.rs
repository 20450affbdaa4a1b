//! Tests that guests are ordinary components, which the wasmtime command line runs with nothing of this repository.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sluicegate_tests::{GRANTS, Project, STATEMENTS, cached, guests};
use tempfile::TempDir;

fn wasmtime() -> PathBuf {
    cached("wasmtime-48.0.8/bin/wasmtime", "wasmtime")
}

fn wac() -> PathBuf {
    cached("wac-0.12.0/bin/wac", "wac")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_wasmtime_command_line_runs_the_default_guest() {
    let good = r#"{id: {milliseconds: 1, sequence: 0}, fields: [
        ("event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11"), ("event_type", "page_view"), ("user_id", "u1"),
        ("timestamp", "2026-01-18T22:17:34.827Z"), ("properties", "{\"a\":1}")]}"#;
    let bad = r#"{id: {milliseconds: 1, sequence: 1}, fields: [("data", "{}")]}"#;
    let output = Command::new(wasmtime())
        .args(["run", "--invoke", &format!("process([{good}, {bad}])")])
        .arg(guests::built("guest_default.wasm"))
        .output()
        .unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    let verdicts = printed.trim();
    let accepted = concat!(
        r#"[accept({event-id: "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", time: 1768774654827000, "#,
        r#"event-type: "page_view", user-id: "u1", properties: some("{\"a\":1}")}), reject(["#,
    );
    assert!(verdicts.starts_with(accepted), "{verdicts}");
    assert_eq!(verdicts.matches(r#"code: "missing""#).count(), 4, "{verdicts}");
}

/// This shows that what the command line ran is what the service runs.
#[test]
fn the_service_carries_this_very_component() {
    assert!(std::fs::read(guests::built("guest_default.wasm")).unwrap() == guests::DEFAULT);
}

/// A command of a page, and what it prints. Its lines begin with `$ ` and, but for the first, with `> `.
struct PageCommand {
    line: usize,
    command: String,
    prints: Vec<String>,
}

/// Returns the commands of all fences of a page that are called `console`.
fn commands(page: &str) -> Vec<PageCommand> {
    let mut commands: Vec<PageCommand> = Vec::new();
    let mut is_console = false;
    for (at, line) in page.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("```") {
            assert!(matches!(kind, "console" | ""), "line {}: a fence that is not run", at + 1);
            is_console = kind == "console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| is_console) {
            commands.push(PageCommand { line: at + 1, command: command.to_owned(), prints: Vec::new() });
        } else if is_console {
            let last = commands.last_mut().expect("a fence begins with a command");
            match line.strip_prefix("> ") {
                Some(more) => last.command.extend(["\n", more]),
                None => last.prints.push(line.to_owned()),
            }
        }
    }
    commands
}

/// Returns whether the line is the one of the page, where `…` stands for anything.
fn fits(page: &str, line: &str) -> bool {
    let mut parts = page.split('…');
    let Some(mut rest) = parts.next().and_then(|start| line.strip_prefix(start)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    true
}

#[test]
fn every_command_of_the_page_prints_what_the_page_says() {
    let folder = TempDir::with_prefix("sluicegate-test-").unwrap();
    let guest = guests::built("guest_default.wasm");
    let target = guest.ancestors().nth(3).unwrap();
    std::os::unix::fs::symlink(target, folder.path().join("target")).unwrap();
    let tools = [wasmtime(), wac()].map(|program| program.parent().unwrap().to_owned());
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path: OsString =
        std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&others))).unwrap();

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/wasmtime.md")).unwrap();
    let commands = commands(&page);
    assert!(commands.len() > 8, "{}", commands.len());
    for PageCommand { line, command, prints } in commands {
        let output = Command::new("bash")
            .args(["-eu", "-c", &command])
            .current_dir(folder.path())
            .env("PATH", &path)
            .output()
            .unwrap();
        let printed = text(&output.stdout);
        let shown = format!("line {line}: {command}\n{printed}{}", text(&output.stderr));
        assert!(output.status.success(), "{shown}");
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), prints.len(), "{shown}");
        for (page, line) in prints.iter().zip(lines) {
            assert!(fits(page, line), "{shown}\nwanted: {page}");
        }
    }
}

/// Plugs one component into the imports of another.
fn plug(socket: &Path, plug: &Path, into: &Path) -> PathBuf {
    let output =
        Command::new(wac()).arg("plug").arg(socket).arg("--plug").arg(plug).arg("-o").arg(into).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    into.to_owned()
}

/// Makes a command of a guest that takes text, in a project's folder.
fn command_of(project: &Project, guest: &Path) -> PathBuf {
    plug(&guests::built("guest_harness.wasm"), guest, &project.folder().join("command.wasm"))
}

/// Runs a command in a project's folder, whose file `events.jsonl` it reads.
fn run(project: &Project, flags: &[&str], command: &Path, arguments: &[&str]) -> Output {
    let events = File::open(project.folder().join("events.jsonl")).unwrap();
    let mut wasmtime = Command::new(wasmtime());
    wasmtime.arg("run").args(flags).arg(command).args(arguments);
    wasmtime.stdin(Stdio::from(events)).output().unwrap()
}

/// Judges the events by the service's own command and by the harness, with no more than two entries a call, and expects the
/// same of both. Returns what they printed.
fn judged_alike(project: &Project, command: &Path) -> String {
    let told = project.rules(&["run", "events.jsonl"]);
    let output = run(project, &[], command, &["--batch", "2"]);
    assert_eq!(text(&output.stdout), told.out, "{}{}", text(&output.stderr), told.err);
    assert_eq!(output.status.success(), told.code == Some(0), "{}{}", text(&output.stderr), told.err);
    told.out
}

const BATCHES_OF_TWO: &str = "batch_size = 2\n";

#[test]
fn the_harness_says_what_rules_run_says() {
    let project = Project::new(&guests::scripted(), BATCHES_OF_TWO);
    let command = command_of(&project, &guests::scripted());
    let nested = format!("{}1{}", r#"{"a":"#.repeat(130), "}".repeat(130));
    let mut events = vec![
        "\u{feff}// comments and empty lines do not count\r\n".to_owned(),
        r#"{"id":"7-1","fields":{"event_id":"0C7B6B3E5A0E4B0F9D6C2F1F6A3C8E11","verdict":"accept","user_id":"ü","properties":{"big": 10000000000000000000000000000000000000001, "a": 1.50}}}"#.to_owned(),
        r#"{"fields":{"data":"{}"},"name":"a golden is an entry too","expect":{"discard":"x"}}"#.to_owned(),
        r#"{"fields":[["a","1"],["a",{"base64":"/w=="}],["b","2"]]}"#.to_owned(),
        r#"{"fields":[[{"base64":"/w=="},"1"]]}"#.to_owned(),
        r#"{"fields":{"verdict":"reject","count":200,"path":"a\u0000b"}}"#.to_owned(),
        r#"{"fields":{"verdict":"discard","reason":"a bot\n"}}"#.to_owned(),
    ];
    let accept = |fields: &str| format!(r#"{{"fields":{{"verdict":"accept",{fields}}}}}"#);
    events.extend([
        accept(r#""event_id":"no""#),
        accept(r#""time":1768774674827"#),
        accept(r#""time":9223372036854775807"#),
        accept(r#""user_id":"a\u0000""#),
        accept(r#""properties":"[]""#),
        accept(r#""properties":{"a":"\ud83d\ude00"}"#),
        accept(r#""properties":{"a":1e400}"#),
        accept(&format!(r#""properties":{nested}"#)),
    ]);
    for (count, step) in [(0, 0), (2, 0), (1001, 0), (3, 1_000_000), (100, 604_800_000_000_u64)] {
        events.push(format!(r#"{{"fields":{{"verdict":"expand","count":{count},"step":{step}}}}}"#));
    }
    events.push(r#"{"fields":{"verdict":"reject","count":0}}"#.to_owned());
    project.write("events.jsonl", &events.join("\n"));
    let out = judged_alike(&project, &command);
    assert_eq!(out.lines().count(), events.len() - 1, "{out}");
    for kind in ["accept", "expand", "reject", "discard", "fault"] {
        assert!(out.contains(&format!("\"{kind}\":")), "no {kind}: {out}");
    }

    // What does not read is told with its place, after what came of the entries before it.
    let whole = r#"{"fields":{"verdict":"discard"}}"#;
    for (events, wanted) in [
        (format!("{whole}\n\n{{\"field\":{{}}}}\n{whole}"), "standard input:3: unknown field `field`"),
        (
            format!("{whole}\n{{\"fields\":{{\"a\":1,\"a\":2}}}}"),
            "standard input:2: the field \"a\" is there twice",
        ),
        (
            format!("{whole}\n{}", "x".repeat(70 << 20)),
            "standard input:2: the line has more than 67108864 bytes",
        ),
    ] {
        project.write("events.jsonl", &events);
        let told = project.rules_reading(&events, &["run"]);
        let output = run(&project, &[], &command, &[]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), told.out));
        let said = text(&output.stderr);
        assert!(said.contains(wanted) && told.err.contains(wanted), "{said}{}", told.err);
    }
    for bad in [["--batch", "0"], ["--batch", "many"], ["--size", "1"]] {
        let output = run(&project, &[], &command, &bad);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("wanted none, or --batch with a number"), "{bad:?}");
    }
}

/// Too few verdicts cost the entry that provokes them, and not its neighbours.
#[test]
fn the_harness_tells_verdicts_apart() {
    let guest = guests::hostile("too_few_verdicts");
    let project = Project::new(&guest, BATCHES_OF_TWO);
    let command = command_of(&project, &guest);
    project.write("events.jsonl", "{\"fields\":{}}\n{\"fields\":{\"provoke\":\"\"}}\n{\"fields\":{}}\n");
    let out = judged_alike(&project, &command);
    assert!(out.contains("another number of verdicts: found 0, wanted 1"), "{out}");
}

#[test]
fn guests_that_take_bytes_have_a_harness_too() {
    let project = Project::new(&guests::bytes(), BATCHES_OF_TWO);
    let harness = guests::built("guest_harness_bytes.wasm");
    let command = plug(&harness, &guests::bytes(), &project.folder().join("command.wasm"));
    project.write("events.jsonl", r#"{"fields":{"a":"ü","b":{"base64":"/w=="},"c":[1, 2]}}"#);
    let out = judged_alike(&project, &command);
    assert!(out.contains(r#""given":[["a","c3bc"],["b","ff"],["c","5b312c325d"]]"#), "{out}");
}

/// The stubs are empty fakes, and tell what they were asked.
#[test]
fn stubs_answer_as_empty_fakes_do() {
    let guest = guests::built("guest_enrich.wasm");
    let project = Project::new(&guest, &format!("{BATCHES_OF_TWO}{GRANTS}{STATEMENTS}"));
    project.write(
        "tests/fakes.toml",
        "[[statements.user_plan]]\nrows = []\n[[statements.touch_user]]\nchanged = 0\n",
    );
    project.write(
        "events.jsonl",
        r#"{"fields":{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"purchase","user_id":"ada","timestamp":"2026-01-18T22:17:34.827Z","properties":"{\"amount\":7}"}}"#,
    );
    let folder = project.folder();
    let alone = plug(&guest, &guests::built("guest_stubs.wasm"), &folder.join("alone.wasm"));
    let command = command_of(&project, &alone);
    let out = judged_alike(&project, &command);
    assert!(out.contains(r#""properties":{"amount":7,"plan":"none"}"#), "{out}");
    let told = text(&run(&project, &[], &command, &[]).stderr);
    let asked: Vec<&str> = told.lines().filter_map(|line| line.split('"').next()).collect();
    let wanted = ["store.query", "store.execute", "metrics.add", "metrics.observe", "stream.publish"];
    assert_eq!(asked, wanted.map(|call| format!("stub: {call} ")), "{told}");
}

#[test]
fn settings_and_limits_are_flags() {
    let provoking = r#"{"fields":{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"a","user_id":"ada","timestamp":"2026-01-18T22:17:34.827Z","provoke":""}}"#;
    for (guest, flags, wanted) in [
        (
            "environment",
            &["-S", "config", "-S", "config-var=region=north"][..],
            r#""settings":[["region","north"]]"#,
        ),
        ("endless_loop", &["-W", "timeout=1s"], "wasm trap: interrupt"),
        ("endless_loop", &["-W", "fuel=100000000"], "all fuel consumed by WebAssembly"),
        ("deep_recursion", &["-W", "max-wasm-stack=524288"], "call stack exhausted"),
        ("memory_by_steps", &["-W", "max-memory-size=134217728", "-W", "trap-on-grow-failure"], "memory"),
    ] {
        let project = Project::new(&guests::hostile(guest), "");
        project.write("events.jsonl", provoking);
        let command = command_of(&project, &guests::hostile(guest));
        let output = run(&project, flags, &command, &[]);
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.contains(wanted), "{guest}: {told}");
    }
}
