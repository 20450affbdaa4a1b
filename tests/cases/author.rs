//! Tests the tools of those who write rules. They need no server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};
use sluicegate_tests::{GRANTS, Launch, Project, STATEMENTS, Told, guests};

/// Returns what a command printed, line by line.
fn lines(told: &Told) -> Vec<Value> {
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told.out.lines().map(line).collect()
}

const ACCEPTED: &str = r#"{"id":"7-1","fields":{"event_id":"0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11","event_type":"page_view",
"user_id":"ü","timestamp":"2026-01-18T22:17:34.827Z","properties":{"big": 10000000000000000000000000000000000000001, "a": 1.50}}}"#;

fn accepted() -> String {
    ACCEPTED.replace('\n', "")
}

#[test]
fn entries_are_judged_as_the_service_would_in_their_order() {
    let project = Project::new(&guests::scripted(), "batch_size = 2\n");
    let events = [
        "// comments and empty lines do not count\n".to_owned(),
        accepted(),
        r#"{"fields":{"data":"{}"}}"#.to_owned(),
        r#"{"fields":{"verdict":"expand","count":2},"name":"a golden is an entry too","expect":{"discard":"x"}}"#.to_owned(),
        r#"{"fields":{"verdict":"expand","count":2,"event_id":"a"}}"#.to_owned(),
        r#"{"fields":[["a","1"],["a",{"base64":"/w=="}]]}"#.to_owned(),
        r#"{"fields":{"verdict":"discard","reason":"a bot"}}"#.to_owned(),
        r#"{"fields":{"verdict":"accept","time":1768774674827}}"#.to_owned(),
    ]
    .join("\n");
    project.write("events.jsonl", &events);
    let told = project.rules(&["run", "events.jsonl"]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""));
    assert!(
        told.out.contains(r#""properties":{"big":10000000000000000000000000000000000000001,"a":1.50}"#),
        "{}",
        told.out
    );
    let found = lines(&told);
    assert_eq!(found[0]["id"], json!("7-1"));
    assert_eq!(found[0]["accept"]["time"], json!("2026-01-18T22:17:34.827000Z"));
    assert_eq!(found[1]["id"], json!("1700000000004-0"), "the number of its line");
    let codes: Vec<&Value> =
        found[1]["reject"].as_array().unwrap().iter().map(|violation| &violation["code"]).collect();
    assert_eq!(codes, vec!["missing"; 4]);
    assert_eq!(found[2]["expand"].as_array().unwrap().len(), 2);
    let fault = |at: usize| (found[at]["fault"].as_str().unwrap(), found[at]["message"].as_str().unwrap());
    assert_eq!(fault(3).0, "bad_verdict");
    assert_eq!(fault(4).0, "undecodable");
    assert_eq!(found[5], json!({ "id": "1700000000008-0", "discard": "a bot" }));
    assert!(fault(6).1.contains("looks like milliseconds"), "{:?}", fault(6));
    assert_eq!(found.len(), 7);

    let piped = project.rules_reading(&events, &["run"]);
    assert_eq!((piped.code, piped.out), (Some(0), told.out));
}

/// What traps is at fault, and nothing else of its batch; what it printed is told.
#[test]
fn a_trap_costs_its_own_entry() {
    let project = Project::new(&guests::hostile("panic"), "");
    let provoking = accepted().replace("\"fields\":{", "\"fields\":{\"provoke\":\"\",");
    let told = project.rules_reading(&[accepted(), provoking, accepted()].join("\n"), &["run"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let found = lines(&told);
    assert_eq!(found[1]["fault"], json!("trapped"));
    let message = found[1]["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("the guest trapped: it said: panicked at tests/guests/hostile/examples/panic.rs:4:")
            && message.contains(": provoked; wasm trap: "),
        "{message}"
    );
    assert!(found[0].get("accept").is_some() && found[2].get("accept").is_some(), "{}", told.out);
    assert!(told.err.contains("guest printed to standard error"), "{}", told.err);
}

#[test]
fn what_does_not_read_is_named_with_its_place() {
    let project = Project::new(&guests::scripted(), "");
    let told = project.rules_reading(&format!("{}\n\n{{\"field\":{{}}}}\n", accepted()), &["run"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(
        told.err.contains("standard input:3: unknown field `field`, expected one of `id`, `fields`"),
        "{}",
        told.err
    );
    assert_eq!(lines(&told).len(), 1, "the entry before it was judged");
    let told = project.rules(&["run", "none.jsonl"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("none.jsonl cannot be read"), "{}", told.err);
}

/// What the service would refuse is refused here, with the line that grants it.
#[test]
fn a_component_that_is_refused_is_another_error() {
    let project = Project::new(&guests::built("guest_enrich.wasm"), "");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("rules.wasm is refused") && told.err.contains("[grants]"), "{}", told.err);
    project.write("rules.wasm", "text");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    project.write("sluicegate.toml", "guest_memory = 7\n");
    let told = project.rules_reading("", &["run"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("GUEST_MEMORY"), "{}", told.err);
}

/// A file that the command line names and that is missing is a wrong command line, whatever the command.
#[test]
fn a_named_file_that_is_missing_is_the_same_exit_code_of_all_commands() {
    let project = Project::new(&guests::scripted(), "");
    project.write("any.json", "{}");
    project.write("events.jsonl", &accepted());
    project.write("tests/a.jsonl", r#"{"fields":{"a":"b"},"expect":{"discard":"x"}}"#);
    for command in [
        "run --config none",
        "doctor --config none",
        "dead-letters list --config none",
        "top --once --config none",
        "top --once --url http://127.0.0.1:1 --token-file none",
        "rules status --config none",
        "rules deploy none",
        "rules check --config none",
        "rules check none",
        "rules run none",
        "rules run --guest none",
        "rules test none",
        "rules bench none",
        "rules bench --guest none --events events.jsonl",
        "rules bench --events none",
        "rules bench --events events.jsonl --baseline none",
        "rules profile none",
        "rules diff none rules.wasm --events events.jsonl",
        "rules diff rules.wasm none --events events.jsonl",
        "rules diff rules.wasm rules.wasm --events none",
        "rules capture --events none",
        "rules capture --events events.jsonl --mask user_id --mask-key-file none",
        "rules coverage --events none",
        "rules from-schema none -o made.wasm",
        "rules from-schema any.json --with none -o made.wasm",
        "rules from-schema any.json --mapping none -o made.wasm",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let output = Launch::new(project.folder()).tool(&arguments).output().unwrap();
        let told =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert_eq!(output.status.code(), Some(2), "{command}: {told}");
        assert!(told.contains("none"), "{command}: {told}");
    }
    // What the settings name is theirs.
    project.write("sluicegate.toml", "guest = \"none.wasm\"\n");
    let told = project.rules(&["check"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.err.contains("none.wasm, which the settings name (GUEST), cannot be read"), "{}", told.err);
}

/// Returns a golden: an entry that the default rules accept, with more fields and what is expected.
fn golden(name: &str, fields: &str, expect: &str) -> String {
    accepted()
        .replace("\"fields\":{", &format!("\"name\":\"{name}\",\"fields\":{{{fields}"))
        .replace("}}}", &format!("}}}},{expect}}}"))
}

#[test]
fn goldens_match_what_they_name() {
    let project = Project::new(&guests::scripted(), "");
    project.write(
        "tests/orders.jsonl",
        &[
            "// what the default rules do".to_owned(),
            golden("a", "", r#""expect":{"accept":{"user_id":"ü","time":"2026-01-18T23:17:34.827+01:00","properties":{"a":1.5}}}"#),
            r#"{"fields":{"data":"{}"},"expect":{"reject":[{"code":"missing"},{"path":"event_type"},{},{"code":"missing","path":"timestamp"}]}}"#.to_owned(),
            r#"{"fields":{"verdict":"expand","count":2},"expect":{"expand":[{},{"user_id":"nobody"}]}}"#.to_owned(),
            r#"{"fields":{"verdict":"discard","reason":"bot"},"expect":{"discard":"bot"}}"#.to_owned(),
            r#"{"fields":{"verdict":"expand","count":0},"expect":{"fault":"bad_verdict","message":"wanted 1 to 1000"}}"#.to_owned(),
        ]
        .join("\n"),
    );
    let told = project.rules(&["test"]);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(told.out.starts_with("5 of 5 as expected, by rules.wasm, version "), "{}", told.out);
    let elsewhere = project.rules(&["test", project.folder().to_str().unwrap()]);
    assert_eq!(elsewhere.code, Some(0), "{}", elsewhere.err);
}

/// A difference tells the line, the name, what was wanted and what came; an update changes that, and nothing else.
#[test]
fn differences_are_told_and_can_be_taken_over() {
    let project = Project::new(&guests::scripted(), "max_event_age = \"40000d\"\n");
    let good = r#"  {"fields" : {"verdict":"discard","reason":"bot"}, "expect" : {"discard":"bot"}}"#;
    let kind = r#"{"name":"no amount","fields":{"verdict":"accept","time":"1768774674827"}, "expect":{"reject":[{"code":"missing"}]} }"#;
    let value = r#"{"expect":{"discard":"human"},"fields":{"verdict":"discard","reason":"bot"}}"#;
    let none = r#"{"fields":{"data":"{}"}}"#;
    let text = format!("// a comment\r\n{good}\n\n{kind}\n{value}\r\n{none}");
    project.write("tests/orders.jsonl", &text);
    project.write(
        "tests/other.jsonl",
        r#"{"name":"of another file","fields":{"data":"{}"},"expect":{"reject":[{},{},{},{}]}}"#,
    );

    let told = project.rules(&["test", "--junit", "junit.xml"]);
    assert_eq!(told.code, Some(1), "{}", told.err);
    for part in [
        "tests/orders.jsonl:4  no amount\n  wanted reject(missing), got accept\n",
        "  time is 1970-01-21T11:19:34.674827Z: it looks like milliseconds; wanted microseconds",
        "tests/orders.jsonl:5\n  discard: wanted \"human\", got \"bot\"\n",
        "tests/orders.jsonl:6\n  wanted an `expect` in the line, found none",
        "2 of 5 as expected",
    ] {
        assert!(told.out.contains(part), "{part:?} is not in:\n{}", told.out);
    }
    let junit = project.read("junit.xml");
    assert!(junit.contains(r#"<testsuite name="tests/orders.jsonl" tests="4" failures="3">"#), "{junit}");
    assert!(junit.contains(r#"<failure message="wanted reject(missing), got accept">"#), "{junit}");

    let told = project.rules(&["test", "--json", "--filter", "amount"]);
    let [golden, summary] = lines(&told).try_into().unwrap();
    assert_eq!((told.code, &summary["goldens"], &summary["as_expected"]), (Some(1), &json!(1), &json!(0)));
    assert_eq!((&golden["line"], &golden["name"]), (&json!(4), &json!("no amount")));
    assert_eq!(golden["got"]["accept"]["user_id"], json!("nobody"));
    assert_eq!(project.rules(&["test", "--filter", "other"]).code, Some(0));
    assert_eq!(project.rules(&["test", "--filter", "nothing"]).code, Some(2));

    let told = project.rules(&["test", "--update"]);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    assert!(told.out.starts_with("5 of 5 as expected, 3 of them updated"), "{}", told.out);
    let updated = project.read("tests/orders.jsonl");
    let lines: Vec<&str> = updated.split('\n').collect();
    assert_eq!((lines[0], lines[1], lines[2]), ("// a comment\r", good, ""));
    assert!(lines[3].starts_with(
        r#"{"name":"no amount","fields":{"verdict":"accept","time":"1768774674827"}, "expect":{"accept":{"#
    ));
    assert!(lines[3].ends_with("}} }"), "{}", lines[3]);
    assert_eq!(lines[4], value.replace("human", "bot") + "\r");
    let missing = |path| format!(r#"{{"code":"missing","path":"{path}"}}"#);
    let all = ["event_id", "event_type", "user_id", "timestamp"].map(missing).join(",");
    assert_eq!(lines[5], format!(r#"{{"fields":{{"data":"{{}}"}},"expect":{{"reject":[{all}]}}}}"#));
    assert_eq!(project.rules(&["test"]).code, Some(0));
}

/// Rules that answer otherwise in another company break invariant 5, and are shown both answers.
#[test]
fn rules_must_answer_the_same_in_any_company() {
    for (guest, wanted) in [
        ("swapped_verdicts", "accept.user_id: alone \"ü\", among"),
        ("clock", "accept.properties.now: alone "),
        ("randomness", "accept.properties.dice[0]: alone "),
    ] {
        let project = Project::new(&guests::hostile(guest), "");
        let file: Vec<String> = (1..=4)
            .map(|i| {
                golden("a", "\"provoke\":\"\",", r#""expect":{"accept":{}}"#)
                    .replace("\"7-1\"", &format!("\"{i}-1\""))
                    .replace('ü', &format!("ü{i}"))
            })
            .collect();
        project.write("tests/a.jsonl", &file.join("\n").replace("ü2", "ü"));
        let told = project.rules(&["test"]);
        assert_eq!(told.code, Some(1), "{guest}: {}", told.err);
        assert!(
            told.out.contains("alone accept, but among the others of its file accept"),
            "{guest}:\n{}",
            told.out
        );
        assert!(
            told.out.contains(wanted) && told.out.contains("rules must answer the same"),
            "{guest}:\n{}",
            told.out
        );
        let update = project.rules(&["test", "--update"]);
        assert_eq!(update.code, Some(1), "{guest}: that is nothing to be taken over");
    }
    // What provokes it is the only one of its file.
    let project = Project::new(&guests::hostile("state"), "");
    project.write(
        "tests/a.jsonl",
        &golden("a", "\"provoke\":\"\",", r#""expect":{"accept":{"properties":{"call":1}}}"#),
    );
    let told = project.rules(&["test"]);
    assert_eq!(told.code, Some(0), "each call has an instance of its own: {}", told.out);
}

#[test]
fn no_golden_is_an_error_and_so_is_one_of_another_form() {
    let project = Project::new(&guests::scripted(), "");
    let said = |arguments: &[&str], wanted: &str| {
        let told = project.rules(arguments);
        assert_eq!(told.code, Some(2), "{}", told.err);
        assert!(told.err.contains(wanted), "{wanted:?} is not in: {}", told.err);
    };
    said(&["test"], "there are no goldens in tests");
    project.write("tests/a.jsonl", "// none\n");
    said(&["test"], "there are no goldens in tests: 1 files");
    project.write("tests/a.jsonl", "\n{\"fields\":{},\"expect\":{\"fault\":\"traped\"}}");
    said(&["test"], "tests/a.jsonl:2: fault is \"traped\"; wanted one of undecodable");
    said(
        &["test", "elsewhere"],
        "there is no elsewhere/sluicegate.toml; wanted the folder of a rules project",
    );
}

/// Rules with capabilities are judged with answers that their author writes.
#[test]
fn capabilities_have_fakes() {
    let project = Project::new(&guests::built("guest_enrich.wasm"), &format!("{GRANTS}{STATEMENTS}"));
    let purchase = |expect: &str| {
        golden("a purchase", "", expect)
            .replace("page_view", "purchase")
            .replace("\"a\": 1.50", "\"amount\": 1.5")
    };
    project.write("tests/a.jsonl", &purchase(r#""expect":{"accept":{}}"#));
    let told = project.rules(&["test"]);
    assert_eq!(told.code, Some(1), "{}", told.err);
    let wanted = r#"the rules run the statement user_plan, for which tests/fakes.toml has no answer; wanted there: [[statements.user_plan]] with parameters = ["ü"]"#;
    assert!(told.out.contains(wanted), "{}", told.out);

    project.write(
        "tests/fakes.toml",
        "[deliveries]\n\"7-1\" = 2\n\n[[statements.user_plan]]\nparameters = [\"ü\"]\nrows = [[\"gold\"]]\n\n[[statements.user_plan]]\nrows = []\n\n\
         [[statements.touch_user]]\nparameters = [\"forbidden\", 2026-01-18T22:17:34.827Z]\nerror = { refused = { code = \"23514\", message = \"no\" } }\n\n\
         [[statements.touch_user]]\nchanged = 1\n",
    );
    let effects = r#""publish":[{"stream":"purchases","fields":{"plan":"gold","amount":"1.5"}}],
        "metrics":[{"name":"redelivered","add":1},{"name":"purchases","labels":{"plan":"gold"}},{"name":"purchase_amount","observe":1.5}]"#;
    let goldens = [
        purchase(&format!(
            r#""expect":{{"accept":{{"properties":{{"plan":"gold"}}}}}},{}"#,
            effects.replace('\n', "")
        )),
        golden("no plan", "", r#""expect":{"accept":{"properties":{"plan":"none"}}},"publish":[]"#)
            .replace('ü', "ada")
            .replace("7-1", "7-2"),
        golden("refused", "", r#""expect":{"reject":[{"code":"not_enriched"}]}"#)
            .replace('ü', "forbidden")
            .replace("7-1", "7-3"),
    ];
    project.write("tests/a.jsonl", &goldens.join("\n"));
    let told = project.rules(&["test"]);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    project.write("tests/a.jsonl", &goldens[0].replace("\"gold\",", "\"free\","));
    let told = project.rules(&["test"]);
    assert!(
        told.out.contains(r#"publish[0].fields.plan: wanted "free", got "gold""#),
        "{}{}",
        told.out,
        told.err
    );
    let told = project.rules_reading(&goldens.join("\n"), &["run"]);
    assert_eq!((told.code, lines(&told).len()), (Some(0), 3), "{}", told.err);
}

#[test]
fn a_check_tells_what_a_component_is_and_costs() {
    let project = Project::new(&guests::built("guest_strict.wasm"), "[guest_settings]\nregion = \"north\"\n");
    let told = project.rules(&["check"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    for part in [
        "component  rules.wasm\ndigest     ",
        "world      validator\n",
        "import     wasi:cli/environment@0.2.6  ok\n",
        "export     sluicegate:guest/handler@0.1.0\n",
        "settings   1 given; it starts with them\n",
        "bytes of native code\nstart      0.",
    ] {
        assert!(told.out.contains(part), "{part:?} is not in:\n{}", told.out);
    }
    let [told] = lines(&project.rules(&["check", "rules.wasm", "--json"])).try_into().unwrap();
    assert_eq!((&told["refused"], &told["grants"]), (&Value::Null, &json!("")));
    assert!(told["code_bytes"].as_u64().unwrap() > told["bytes"].as_u64().unwrap(), "{told}");
    assert!(
        told["memory_bytes"].as_u64().unwrap() >= 1 << 16 && told["start_ms"].as_f64().unwrap() > 0.0,
        "{told}"
    );
}

/// The lines that a check shows are those that the service asks for.
#[test]
fn a_check_shows_the_lines_that_grant_what_lacks() {
    let project = Project::new(&guests::built("guest_enrich.wasm"), "");
    let told = project.rules(&["check"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    for part in [
        "world      pipeline\n",
        "import     sluicegate:guest/store@0.1.0  not granted; under [grants]: `statements = [\"NAME\"]`",
        "[grants]\nstream = true\npublish = { STREAM = 1_000_000 }\nstatements = [\"NAME\"]\nmetrics = true\n\n[statements.NAME]\n",
        "refused    imports that are not granted: sluicegate:guest/stream@0.1.0",
    ] {
        assert!(told.out.contains(part), "{part:?} is not in:\n{}", told.out);
    }
    let [told] = lines(&project.rules(&["check", "--json"])).try_into().unwrap();
    let grants = told["grants"].as_str().unwrap().replace('…', "1");
    project.write("sluicegate.toml", &format!("guest = \"rules.wasm\"\n{grants}"));
    let told = project.rules(&["check"]);
    assert_eq!(told.code, Some(0), "{}{}", told.out, told.err);
    let refused = project.folder().join("other.wasm");
    std::fs::write(&refused, guests::importing(&["wasi:http/types@0.2.0"])).unwrap();
    let told = project.rules(&["check", "other.wasm"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(
        told.out.contains("import     wasi:http/types@0.2.0  refused: no guest is given this\n"),
        "{}",
        told.out
    );
}

/// Fuel is the same in each run, so that CI can hold a bound.
/// The time that a batch takes differs from run to run, and so would the parts into which it is split.
#[test]
fn a_batch_beyond_the_time_limit_takes_the_same_fuel_in_each_run() {
    let project = Project::new(&guests::scripted(), "guest_time_limit = \"10ms\"\n");
    let events: String = (0..5_000).map(|_| accepted() + "\n").collect();
    project.write("events.jsonl", &events);
    let told = project.rules(&["bench", "rules.wasm", "--events", "events.jsonl", "--batch", "5000"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    assert!(told.out.contains("come near the time limit"), "{}", told.out);
}

#[test]
fn a_bench_holds_a_bound_for_fuel() {
    let project = Project::new(&guests::scripted(), "");
    let more = r#"{"fields":{"verdict":"expand","count":0},"expect":{"fault":"bad_verdict"}}"#;
    let less = r#"{"fields":{"verdict":"discard"},"expect":{"discard":"unwanted"}}"#;
    project.write(
        "tests/a.jsonl",
        &format!("{}\n{more}\n{less}\n", golden("a", "", r#""expect":{"accept":{}}"#)),
    );
    let run = |arguments: &[&str]| {
        let told = project.rules(&[&["bench", "--json"], arguments].concat());
        let [results] = lines(&told).try_into().unwrap_or_else(|_| panic!("{}", told.err));
        (told.code, results)
    };
    let (code, first) = run(&["--save", "baseline.json"]);
    assert_eq!(
        (code, &first["entries"], &first["left_out"], &first["batch"]),
        (Some(0), &json!(2), &json!(1), &json!(100))
    );
    for number in [
        "fuel_per_entry",
        "fuel_per_start",
        "micros_per_entry",
        "start_micros",
        "memory_bytes",
        "fitting_batch",
    ] {
        assert!(first[number].as_f64().unwrap() > 0.0, "{number}: {first}");
    }
    let (code, second) = run(&["--baseline", "baseline.json", "--max-regress", "0%"]);
    assert_eq!((code, &second["fuel_per_entry"]), (Some(0), &first["fuel_per_entry"]));

    let halved = first["fuel_per_entry"].as_f64().unwrap() / 2.0;
    let mut cheaper = first.clone();
    cheaper["fuel_per_entry"] = json!(halved);
    project.write("cheaper.json", &cheaper.to_string());
    let told = project.rules(&["bench", "--baseline", "cheaper.json"]);
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.out.contains("fuel +100.00 % against the baseline, more than 2 %"), "{}", told.out);
    assert_eq!(
        project.rules(&["bench", "--baseline", "cheaper.json", "--max-regress", "101%"]).code,
        Some(0)
    );
    let told = project.rules(&["bench", "--baseline", "baseline.json", "--batch", "7"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("in batches of another size"), "{}", told.err);

    project.write("events.jsonl", more);
    let told = project.rules(&["bench", "rules.wasm", "--events", "events.jsonl"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.err.contains("the rules fail for all of the 1 entries"), "{}", told.err);
}

/// A component of Python takes ten seconds to compile, and an author tests it again and again.
#[test]
fn what_a_command_has_compiled_is_there_for_the_next_one() {
    let project = Project::new(&guests::scripted(), "");
    project.write("events.jsonl", &accepted());
    let home = project.folder().join("home");
    fs::create_dir(&home).unwrap();
    let run = || project.rules_at(&home, &["run", "events.jsonl"]);
    let first = run();
    assert_eq!((first.code, first.err.as_str()), (Some(0), ""));
    let cache = home.join(".cache/sluicegate/compiled");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    let long_ago = SystemTime::UNIX_EPOCH;
    fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(run().out, first.out);
    assert!(fs::metadata(file).unwrap().modified().unwrap() > long_ago, "it was used");

    // How long it takes is told all the same.
    let checked = project.rules_at(&home, &["check", "--json"]);
    let compile_ms = serde_json::from_str::<Value>(&checked.out).unwrap()["compile_ms"].as_f64();
    assert!(compile_ms.is_some_and(|took| took > 0.0), "{}", checked.out);
    // No cache is no trouble.
    fs::remove_dir_all(&home).unwrap();
    fs::write(&home, "no folder").unwrap();
    let without = run();
    assert_eq!((without.err.as_str(), without.out), ("", first.out));
}
