use std::collections::BTreeMap;

use super::*;
use crate::batch::{Digest, Version};
use sluicegate_verdicts::{Entry, EntryId, Event, Outcome, Reason, Vec1, Violation};

const ALL_STORED: Option<Ended> = Some(Ended::Stored);

fn tap() -> (Arc<Tap>, CancellationToken) {
    let closed = CancellationToken::new();
    (Arc::new(Tap::new(Places::default(), closed.clone())), closed)
}

fn judged(number: u64, outcome: Outcome, value: &str) -> Judged {
    let fields = Some(vec![(b"data".to_vec(), value.as_bytes().to_vec())]);
    let entry = Entry { id: EntryId { milliseconds: number, sequence: 0 }, fields, deliveries: 1 };
    Judged { entry, outcome, version: Version::of_component(Digest::new(b"rules")) }
}

fn stored(number: u64, value: &str) -> Judged {
    let event = Event {
        event_id: uuid::Uuid::from_u128(number.into()),
        time: chrono::DateTime::UNIX_EPOCH,
        event_type: value.to_owned(),
        user_id: value.to_owned(),
        properties: Some(value.to_owned()),
    };
    judged(number, Outcome::Store(Vec1::One(event)), value)
}

fn rejected(number: u64, code: &str) -> Judged {
    let violation =
        Violation { path: "amount".to_owned(), code: code.to_owned(), message: "hidden".to_owned() };
    judged(number, Outcome::DeadLetter(Reason::Rejected, vec![violation]), "hidden")
}

/// Shows a batch whose rows are all new.
fn show(tap: &Tap, batch: &[Judged]) {
    let ends: Vec<_> = batch.iter().map(|judged| Ended::of(&judged.outcome).or(ALL_STORED)).collect();
    let mut tally = Tally::default();
    ends.iter().flatten().for_each(|ended| tally.count(*ended));
    tap.show(batch, tally, &ends);
}

/// Returns the events that there are: their kind, and what they say.
fn told(watch: &mut Watch) -> Vec<(String, serde_json::Value)> {
    use futures_util::FutureExt as _;
    let mut told = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        let text = String::from_utf8(event.to_vec()).expect("text");
        assert!(text.ends_with("\n\n"), "{text:?}");
        let lines: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(": ")).collect();
        let data = serde_json::from_str(lines["data"]).expect("JSON");
        told.push((lines["event"].to_owned(), data));
    }
    told
}

fn entries(watch: &mut Watch) -> Vec<String> {
    let entries = told(watch).into_iter().filter(|(kind, _)| kind == "entry");
    entries.map(|(_, data)| data["entry"].as_str().expect("an ID").to_owned()).collect()
}

#[tokio::test]
async fn only_what_is_wanted_is_shown() {
    let (tap, _closed) = tap();
    let watch = |selection: Selection| tap.watch(selection).expect("a place");
    let mut all = watch(Selection::default());
    let mut letters = watch(Selection {
        outcomes: enum_map::EnumMap::from_fn(|ended| ended == Ended::Rejected),
        ..Selection::default()
    });
    let mut of_code = watch(Selection { codes: vec!["late".to_owned()], ..Selection::default() });
    let mut one_in = watch(Selection { one_in: 3, ..Selection::default() });
    let mut limited = watch(Selection { limit: 1, ..Selection::default() });
    show(&tap, &[stored(1, "a"), rejected(2, "early"), rejected(3, "late"), stored(4, "b")]);
    show(&tap, &[stored(5, "c")]);
    assert_eq!(entries(&mut all), ["1-0", "2-0", "3-0", "4-0", "5-0"]);
    assert_eq!(entries(&mut letters), ["2-0", "3-0"]);
    assert_eq!(entries(&mut of_code), ["3-0"]);
    assert_eq!(entries(&mut one_in), ["1-0", "4-0"]);
    assert_eq!(entries(&mut limited), ["1-0"]);
    assert_eq!(limited.next().await, None, "that was all");
}

/// Without the content, nothing is told that an entry holds.
#[tokio::test]
async fn the_content_is_shown_only_to_those_who_may_see_it() {
    let (tap, _closed) = tap();
    let mut may_not = tap.watch(Selection::default()).expect("a place");
    let mut may = tap.watch(Selection { with_payload: true, ..Selection::default() }).expect("a place");
    show(&tap, &[stored(1, "hidden"), rejected(2, "late")]);
    let (shown, payload) = (told(&mut may_not), told(&mut may));
    assert_eq!(shown[1].1["violations"], serde_json::json!([{ "path": "amount", "code": "late" }]));
    assert!(!format!("{shown:?}").contains("hidden"), "{shown:?}");
    assert_eq!(payload[0].1["fields"], serde_json::json!([["data", "hidden"]]));
    assert_eq!(payload[0].1["events"][0]["user_id"], "hidden");
    assert_eq!(payload[1].1["violations"][0]["message"], "hidden");
    assert_eq!(payload[1].1["truncated"], false);
}

/// A second has a bound for each watcher, and what is beyond it is told.
#[tokio::test]
async fn more_than_the_rate_is_counted() {
    let (tap, _closed) = tap();
    let mut watch = tap.watch(Selection { rate: 5, ..Selection::default() }).expect("a place");
    let batch: Vec<Judged> = (0..100).map(|number| stored(number, "a")).collect();
    assert!(tap.wants_new_rows());
    show(&tap, &batch);
    assert!(!tap.wants_new_rows(), "nothing more is shown in this second");
    show(&tap, &batch);
    let told = told(&mut watch);
    assert_eq!(told[0], ("dropped".to_owned(), serde_json::json!({ "slow": 0, "rate": 195 })));
    assert_eq!(told.len(), 6);
}

/// Where it is not known which rows were new, no entry with a row is shown as one or the other.
#[tokio::test]
async fn what_is_not_known_is_not_told() {
    let (tap, _closed) = tap();
    let mut watch = tap.watch(Selection::default()).expect("a place");
    let tally = Tally { stored: 1, duplicate: 1, rejected: 1, ..Tally::default() };
    tap.show(
        &[stored(1, "a"), stored(2, "b"), rejected(3, "late")],
        tally,
        &[None, None, Some(Ended::Rejected)],
    );
    let told = told(&mut watch);
    assert_eq!(told[0].1, serde_json::json!({ "slow": 0, "rate": 2 }));
    assert_eq!((&told[1].1["entry"], told.len()), (&serde_json::json!("3-0"), 2));
}

/// All places are taken by those who read nothing, and each entry is as large as can be.
#[tokio::test]
async fn the_memory_has_a_bound() {
    let (tap, closed) = tap();
    let selection = Selection { rate: MAX_RATE, with_payload: true, ..Selection::default() };
    let mut watches: Vec<Watch> = std::iter::from_fn(|| tap.watch(selection.clone())).collect();
    assert_eq!(watches.len(), MAX_WATCHERS);
    let large = ["x", "\u{1}", "\u{202e}", "\u{e0041}", "\""].map(|text| text.repeat(100_000));
    for text in &large {
        let event = event::entry(&stored(1, text), Ended::Stored, true);
        assert!(event.len() <= event::MAX_BYTES && event.len() > 2_000, "{}", event.len());
    }
    let [x, ..] = &large;
    for second in 0..20 {
        let batch: Vec<Judged> = (0..10).map(|number| stored(second * 10 + number, x)).collect();
        show(&tap, &batch);
        tap.watchers.read().iter().for_each(|watcher| watcher.begin_second());
    }
    let held: usize = watches.iter().map(|watch| watch.watcher.bytes()).sum();
    assert!(held <= MAX_WATCHERS * watcher::QUEUE_BYTES && held > 4 << 20, "{held}");
    let first = watches.first_mut().expect("a watcher");
    let told = told(first);
    assert_eq!(told[0].0, "dropped");
    let left_out = ["slow", "rate"].map(|why| told[0].1[why].as_u64().expect("a number"));
    assert_eq!(left_out.iter().sum::<u64>() + told.len() as u64 - 1, 200, "none is forgotten");
    assert!(told[1].1["truncated"] == true);
    closed.cancel();
    assert_eq!(first.next().await, None);
    drop(watches);
    assert!(!tap.is_watched() && tap.watch(selection).is_some(), "the places are free again");
}
