//! A guest that does what an entry's field `do` says, right or wrong.
//!
//! | `do` | what happens |
//! |---|---|
//! | `accept` | a claim of the fields `event_id`, `time` (microseconds), `event_type`, `user_id`, `properties`, unchecked |
//! | `expand` | so many claims as `count` says, their event IDs counted up from `event_id`, each `step` microseconds after the other |
//! | `reject` | so many violations as `count` says, with the fields `path`, `code`, `message` |
//! | `discard` | with the field `reason` |
//! | `world` | accepts, with all that it could find out about the world as the properties |
//! | `settings` | accepts, with its settings as the properties |
//! | `print` | prints `count` bytes, then accepts |
//! | `say` | prints the field `text` to standard output and to standard error, then accepts |
//! | `trap`, `loop`, `exit`, `recurse` | what the names say, for the whole batch |
//! | `grow`, `grow_at_once` | takes all memory, step by step or in one step |
//! | `sleep` | sleeps for an hour by the standard library, then accepts |
//! | `poll` | waits for `count` deadlines of an hour each by `wasi:io/poll`, then accepts |
//! | `handles` | holds `count` pollables, then accepts |
//! | `random` | asks for `count` random bytes in one call, then accepts |
//! | `amplify` | `count` violations whose messages are all the same mebibyte of memory |
//! | `few`, `many` | a verdict less or more than there are entries |
//! | `swap` | the verdicts of the batch in the wrong order |
//!
//! Fields that are missing have values that are in order.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_rules::{Entry, Event, Guest, Verdict, Violation};
use host::wasi::clocks::monotonic_clock::subscribe_duration;
use host::wasi::config::store;
use host::wasi::io::poll;
use host::wasi::random::random::get_random_bytes;

/// What the standard library does not show of the host.
mod host {
    #![allow(missing_docs, reason = "generated")]
    wit_bindgen::generate!({ path: "wit", world: "sluicegate:hostile/more", generate_all });
}

/// What the component exports.
pub struct Component;

impl Guest for Component {
    fn process(batch: Vec<Entry>) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = batch.iter().map(judge).collect();
        let has = |what: &str| batch.iter().any(|entry| field(entry, "do") == Some(what));
        if has("few") {
            verdicts.pop();
        }
        if has("many") {
            verdicts.push(Verdict::Discard("one too many".to_owned()));
        }
        if has("swap") {
            verdicts.reverse();
        }
        verdicts
    }
}

guest_rules::export!(Component);

fn field<'a>(entry: &'a Entry, name: &str) -> Option<&'a str> {
    entry.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

fn number<T: std::str::FromStr>(entry: &Entry, name: &str, default: T) -> T {
    field(entry, name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn judge(entry: &Entry) -> Verdict {
    match field(entry, "do") {
        Some("expand") => {
            Verdict::Expand((0..number(entry, "count", 3)).map(|i| nth_claim(entry, i)).collect())
        }
        Some("reject") => Verdict::Reject(vec![violation(entry); number(entry, "count", 1)]),
        Some("discard") => Verdict::Discard(field(entry, "reason").unwrap_or("unwanted").to_owned()),
        Some("world") => Verdict::Accept(Event { properties: Some(world()), ..claim(entry) }),
        Some("settings") => Verdict::Accept(Event { properties: Some(settings()), ..claim(entry) }),
        Some("say") => {
            say(field(entry, "text").unwrap_or_default());
            Verdict::Accept(claim(entry))
        }
        Some("sleep") => {
            std::thread::sleep(HOUR);
            Verdict::Accept(claim(entry))
        }
        Some("poll") => {
            let deadlines = deadlines(number(entry, "count", 1));
            poll::poll(&deadlines.iter().collect::<Vec<_>>());
            Verdict::Accept(claim(entry))
        }
        Some("handles") => {
            let held = deadlines(number(entry, "count", 1));
            Verdict::Discard(held.len().to_string())
        }
        Some("random") => Verdict::Discard(get_random_bytes(number(entry, "count", 8)).len().to_string()),
        Some("print") => {
            print_much(number(entry, "count", 1 << 20));
            Verdict::Accept(claim(entry))
        }
        Some("amplify") => Verdict::Reject(amplify(number(entry, "count", 1))),
        Some("trap") => trap(),
        Some("loop") => spin(),
        Some("exit") => std::process::exit(0),
        Some("grow") => grow(1 << 20),
        Some("grow_at_once") => grow(1 << 30),
        Some("recurse") => Verdict::Discard(recurse(1).to_string()),
        _ => Verdict::Accept(claim(entry)),
    }
}

fn claim(entry: &Entry) -> Event {
    let text = |name: &str, default: &str| field(entry, name).unwrap_or(default).to_owned();
    Event {
        event_id: text("event_id", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11"),
        time: number(entry, "time", 1_768_774_674_827_000),
        event_type: text("event_type", "test"),
        user_id: text("user_id", "nobody"),
        properties: field(entry, "properties").map(str::to_owned),
    }
}

/// The claim with `i` added to the last twelve digits of its event ID, and `i` steps to its time.
fn nth_claim(entry: &Entry, i: u64) -> Event {
    let claim = claim(entry);
    let (start, end) = claim.event_id.split_at_checked(24).unwrap_or((&claim.event_id, ""));
    let number = u64::from_str_radix(end, 16).unwrap_or(0).wrapping_add(i);
    let time = claim.time.wrapping_add_unsigned(i.wrapping_mul(self::number(entry, "step", 0)));
    Event { event_id: format!("{start}{number:012x}"), time, ..claim }
}

fn violation(entry: &Entry) -> Violation {
    let text = |name: &str| field(entry, name).unwrap_or(name).to_owned();
    Violation { path: text("path"), code: text("code"), message: text("message") }
}

/// Small here, large for a host that copies each of them.
fn amplify(count: usize) -> Vec<Violation> {
    let text = "x".repeat(1 << 20).leak();
    let message = || {
        #[expect(
            unsafe_code,
            reason = "an honest guest cannot do this; nobody lives to free the memory twice"
        )]
        unsafe {
            String::from_raw_parts(text.as_ptr().cast_mut(), text.len(), text.len())
        }
    };
    (0..count).map(|_| Violation { path: String::new(), code: String::new(), message: message() }).collect()
}

#[expect(clippy::panic, reason = "to trap is what this guest is for")]
fn trap() -> ! {
    panic!("told to trap")
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}

fn grow(step: usize) -> ! {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(black_box(vec![1; step]));
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

fn deadlines(count: usize) -> Vec<poll::Pollable> {
    let hour = u64::try_from(HOUR.as_nanos()).unwrap_or(u64::MAX);
    (0..count).map(|_| subscribe_duration(hour)).collect()
}

/// A JSON object of the settings, in the order in which the host gives them.
fn settings() -> String {
    let all = store::get_all().unwrap_or_default();
    let one_by_one =
        all.iter().all(|(name, value)| store::get(name).is_ok_and(|found| found.as_ref() == Some(value)));
    let pairs: Vec<String> = all.iter().map(|(name, value)| format!("{name:?}:{value:?}")).collect();
    let names: Vec<String> = all.iter().map(|(name, _)| format!("{name:?}")).collect();
    format!(
        r#"{{"settings":{{{}}},"order":[{}],"one_by_one":{one_by_one}}}"#,
        pairs.join(","),
        names.join(",")
    )
}

#[expect(unconditional_recursion, reason = "to overflow the stack is what this guest is for")]
fn recurse(depth: u64) -> u64 {
    let ballast = black_box([depth; 64]);
    black_box(recurse(black_box(depth + 1)).wrapping_add(ballast.iter().sum::<u64>()))
}

#[expect(clippy::print_stdout, reason = "to print is what this guest is for")]
fn say(text: &str) {
    println!("{text}");
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "to print is what this guest is for")]
fn print_much(bytes: usize) {
    println!("told to print\x1b[2J");
    for _ in 0..bytes / 64 {
        println!("{:63}", "x");
    }
}

thread_local! {
    /// How often this instance has been asked: once, if every batch has an instance of its own.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// A JSON object with all that differs from run to run on an ordinary machine.
fn world() -> String {
    CALLS.set(CALLS.get() + 1);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    let start = Instant::now();
    let random: Vec<u64> = (0..3).map(|_| RandomState::new().hash_one(0)).collect();
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let arguments: Vec<String> = std::env::args().collect();
    let files = std::fs::read_dir("/").map_or(0, Iterator::count);
    let network = std::net::TcpStream::connect(("127.0.0.1", 16_379)).is_ok();
    format!(
        r#"{{"clock":{since_epoch},"elapsed":{},"random":{random:?},"environment":{},"arguments":{},"files":{files},"network":{network},"calls":{}}}"#,
        start.elapsed().as_micros(),
        environment.len(),
        arguments.len(),
        CALLS.get(),
    )
}
