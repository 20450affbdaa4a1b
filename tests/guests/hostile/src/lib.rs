//! A guest that does what an entry's field `do` says, right or wrong.
//!
//! | `do` | what happens |
//! |---|---|
//! | `accept` | a claim of the fields `event_id`, `time` (microseconds), `event_type`, `user_id`, `properties`, unchecked |
//! | `expand` | so many claims as `count` says, their event IDs counted up from `event_id` |
//! | `reject` | so many violations as `count` says, with the fields `path`, `code`, `message` |
//! | `discard` | with the field `reason` |
//! | `world` | accepts, with all that it could find out about the world as the properties |
//! | `print` | prints `count` bytes, then accepts |
//! | `trap`, `loop`, `grow`, `recurse` | what the names say, for the whole batch |
//! | `amplify` | `count` violations whose messages are all the same mebibyte of memory |
//! | `few`, `many` | a verdict less or more than there are entries |
//!
//! Fields that are missing have values that are in order.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use guest_rules::{Entry, Event, Guest, Verdict, Violation};

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
        Some("print") => {
            print_much(number(entry, "count", 1 << 20));
            Verdict::Accept(claim(entry))
        }
        Some("amplify") => Verdict::Reject(amplify(number(entry, "count", 1))),
        Some("trap") => trap(),
        Some("loop") => spin(),
        Some("grow") => grow(),
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

/// The claim with `i` added to the last twelve digits of its event ID.
fn nth_claim(entry: &Entry, i: u64) -> Event {
    let claim = claim(entry);
    let (start, end) = claim.event_id.split_at_checked(24).unwrap_or((&claim.event_id, ""));
    let number = u64::from_str_radix(end, 16).unwrap_or(0).wrapping_add(i);
    Event { event_id: format!("{start}{number:012x}"), ..claim }
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

fn grow() -> ! {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(black_box(vec![1; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "to overflow the stack is what this guest is for")]
fn recurse(depth: u64) -> u64 {
    let ballast = black_box([depth; 64]);
    black_box(recurse(black_box(depth + 1)).wrapping_add(ballast.iter().sum::<u64>()))
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
