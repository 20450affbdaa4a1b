//! Of bad entries, slow ones and large ones, each with its outcome.

use std::time::Instant;

use super::*;
use crate::batch::Digest;
use crate::sandbox::Limits;
use parking_lot::Mutex;
use sluicegate_verdicts::{EntryId, UncheckedEvent, Vec1};

/// Without a transaction, so there is none to lose.
fn judged(rules: &dyn Rules, max_deliveries: u64, entries: Vec<Entry>) -> Judgement {
    judge(rules, max_deliveries, entries, &mut HostContext::default()).expect("no transaction")
}

/// What comes of a call, with the time that it took.
fn timed(call: impl FnOnce() -> Result<Vec<Verdict>, Fault>) -> Answer {
    let begun = Instant::now();
    let verdicts = call();
    Answer { verdicts, used: begun.elapsed() }
}

fn value(entry: &TextEntry<'_>) -> String {
    entry.fields.first().map(|(_, value)| (*value).to_owned()).unwrap_or_default()
}

/// The entries of rules that take text.
fn text<'a>(batch: &'a Batch<'_>) -> &'a [TextEntry<'a>] {
    match batch {
        Batch::Text(entries) => entries,
        Batch::Bytes(_) => panic!("entries of another form"),
    }
}

/// Discards what it is given, unless the batch has this fault. May take ten seconds.
struct Faulty<F>(F);

impl<F: Fn(&[TextEntry<'_>]) -> Option<Fault> + Send + Sync> Rules for Faulty<F> {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b""))
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn bounds(&self) -> OutputLimits {
        Limits::default().bounds
    }

    fn process(&self, batch: &Batch<'_>, _: Duration, _: &mut HostContext) -> Answer {
        let batch = text(batch);
        timed(|| match (self.0)(batch) {
            Some(fault) => Err(fault),
            None => Ok(batch.iter().map(|entry| Verdict::Discard(value(entry))).collect()),
        })
    }
}

/// Fails with a batch that holds the poison.
fn poisoned(poison: &'static str) -> impl Rules {
    Faulty(move |batch: &[TextEntry<'_>]| {
        batch.iter().any(|entry| value(entry) == poison).then(|| Fault::Trapped("poison".into()))
    })
}

/// Takes longer than its limit for more entries than this.
fn slow_for(entries: usize) -> impl Rules {
    Faulty(move |batch: &[TextEntry<'_>]| {
        (batch.len() > entries).then_some(Fault::TimedOut { limit_ms: 10_000, place: String::new() })
    })
}

/// Takes all the time that it is given for a batch with a `loop` in it, and as many
/// milliseconds as the other entries say. Remembers what it was given.
struct Slow(Mutex<Vec<(usize, Duration)>>);

impl Rules for Slow {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b""))
    }

    fn time_limit(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn bounds(&self) -> OutputLimits {
        Limits::default().bounds
    }

    fn process(&self, batch: &Batch<'_>, time: Duration, _: &mut HostContext) -> Answer {
        let batch = text(batch);
        timed(|| {
            self.0.lock().push((batch.len(), time));
            if batch.iter().any(|entry| value(entry) == "loop") {
                std::thread::sleep(time); // what is simulated
                return Err(Fault::TimedOut { limit_ms: time.as_millis(), place: String::new() });
            }
            Ok(batch.iter().map(|entry| Verdict::Discard(value(entry))).collect())
        })
    }
}

fn entry(sequence: u64, value: &[u8]) -> Entry {
    let fields = Some(vec![(b"f".to_vec(), value.to_vec())]);
    Entry { id: EntryId { milliseconds: 1, sequence }, fields, deliveries: 1 }
}

#[test]
fn rules_that_are_too_slow_for_a_whole_batch_are_known() {
    let entries = |count| (0..count).map(|i| entry(i, b"fine")).collect::<Vec<_>>();
    let told = |rules: &dyn Rules, count| judged(rules, 5, entries(count)).too_many_at_once;
    assert_eq!(told(&slow_for(100), 100), None);
    assert_eq!(told(&slow_for(50), 100), Some(100));
    assert_eq!(told(&slow_for(30), 100), Some(50), "a quarter is fine");
    assert_eq!(told(&slow_for(0), 8), None, "not even one entry is fine");
    assert_eq!(told(&poisoned("fine"), 8), None, "another fault");
    let mut with_a_loop = entries(7);
    with_a_loop.push(entry(7, b"loop"));
    assert_eq!(
        judged(&Slow(Mutex::default()), 5, with_a_loop).too_many_at_once,
        None,
        "one entry is at fault"
    );
}

#[test]
fn only_the_poison_becomes_a_dead_letter() {
    for at in 0..7 {
        let entries: Vec<Entry> =
            (0..7).map(|i| entry(i, if i == at { b"poison" } else { b"fine" })).collect();
        let judged = judged(&poisoned("poison"), 5, entries.clone()).entries;
        assert_eq!(judged.iter().map(|judged| judged.entry.clone()).collect::<Vec<_>>(), entries);
        for Judged { entry, outcome, .. } in judged {
            match outcome {
                Outcome::DeadLetter(reason, _) => {
                    assert_eq!((entry.id.sequence, reason), (at, Reason::Trapped))
                }
                outcome => assert_eq!(outcome, Outcome::Discard("fine".into())),
            }
        }
    }
}

/// A call for a part in which the poison must be would be in vain.
#[test]
fn the_poison_is_found_in_few_calls() {
    let calls = |count: u64, at: u64| {
        let sizes = Mutex::new(Vec::new());
        let rules = Faulty(|batch: &[TextEntry<'_>]| {
            sizes.lock().push(batch.len());
            batch.iter().any(|entry| value(entry) == "poison").then(|| Fault::Trapped("poison".into()))
        });
        let entries = (0..count).map(|i| entry(i, if i == at { b"poison" } else { b"fine" })).collect();
        let judged = judged(&rules, 5, entries).entries;
        let dead = judged.iter().filter(|judged| matches!(judged.outcome, Outcome::DeadLetter(..)));
        assert_eq!(dead.map(|judged| judged.entry.id.sequence).collect::<Vec<_>>(), [at]);
        sizes.into_inner()
    };
    assert_eq!(calls(8, 0), [8, 4, 2, 1, 1, 2, 4]);
    assert_eq!(calls(8, 7), [8, 4, 2, 1, 1]);
    assert_eq!(calls(136, 7), [136, 64, 32, 16, 8, 4, 2, 1, 1, 8, 16, 32, 64, 8], "pieces of 64");
    assert_eq!(calls(136, 135), [136, 64, 64, 4, 2, 1, 1], "the last piece is at fault");
}

/// Two limits for each entry would be 400.
#[test]
fn a_batch_of_loops_takes_a_bounded_time() {
    let slow = Slow(Mutex::default());
    let entries = (0..200).map(|i| entry(i, if i % 10 == 9 { b"fine" } else { b"loop" })).collect();
    let judgement = judged(&slow, 5, entries);
    for Judged { entry, outcome, .. } in &judgement.entries {
        match entry.id.sequence % 10 {
            9 => assert_eq!(outcome, &Outcome::Discard("fine".into()), "{}", entry.id),
            _ => assert!(matches!(outcome, Outcome::DeadLetter(Reason::TimedOut, _)), "{}", entry.id),
        }
    }
    let calls = slow.0.into_inner();
    let limit = Duration::from_millis(20);
    let given: Duration = calls.iter().map(|(_, time)| *time).sum();
    // The entries that are in order give back what they were given.
    assert!(given <= limit * 40, "{given:?} for {} calls", calls.len());
    assert!(calls.iter().all(|(_, time)| *time >= limit / MIN_SHARE), "{calls:?}");
    let timed_out = u64::try_from(calls.len()).expect("few") - 20;
    assert_eq!(judgement.breaches.of(Reason::TimedOut), timed_out);
}

/// Takes the whole limit for each call, whatever it is given: as what is not stopped by the clock does, to look at an
/// answer among others.
struct Overstaying(Mutex<usize>);

impl Rules for Overstaying {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b""))
    }

    fn time_limit(&self) -> Duration {
        Duration::from_millis(5)
    }

    fn bounds(&self) -> OutputLimits {
        Limits::default().bounds
    }

    fn process(&self, _: &Batch<'_>, _: Duration, _: &mut HostContext) -> Answer {
        timed(|| {
            *self.0.lock() += 1;
            std::thread::sleep(self.time_limit()); // what is simulated
            Err(Fault::Trapped("late".into()))
        })
    }
}

#[test]
fn a_batch_ends_though_its_rules_overstay() {
    let rules = Overstaying(Mutex::default());
    let judgement = judged(&rules, 5, (0..200).map(|i| entry(i, b"any")).collect());
    let calls = rules.0.into_inner();
    // 48 limits, and two for 200 entries.
    assert!(calls <= 50, "{calls} calls");
    let untried = judgement.entries.iter().filter(|judged| {
        matches!(&judged.outcome, Outcome::DeadLetter(Reason::TimedOut, violations)
            if violations.iter().any(|violation| violation.message.contains("before this one was tried")))
    });
    assert!(untried.count() > 100, "each has an end all the same");
    assert_eq!(judgement.entries.len(), 200);
}

#[test]
fn one_poison_leaves_the_whole_limit_to_each_of_its_neighbours() {
    let slow = Slow(Mutex::default());
    let entries = (0..1_000).map(|i| entry(i, if i == 777 { b"loop" } else { b"fine" })).collect();
    let judgement = judged(&slow, 5, entries);
    let letters = judgement.entries.iter().filter(|judged| matches!(judged.outcome, Outcome::DeadLetter(..)));
    assert_eq!(letters.map(|judged| judged.entry.id.sequence).collect::<Vec<_>>(), [777]);
    let calls = slow.0.into_inner();
    assert!(calls.iter().all(|(_, time)| *time == slow_limit()), "{calls:?}");
}

fn slow_limit() -> Duration {
    Slow(Mutex::default()).time_limit()
}

/// Makes of each entry what its value says: so many rows, or a row of so many bytes.
struct Large;

impl Rules for Large {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b""))
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn bounds(&self) -> OutputLimits {
        OutputLimits { rows: 1_000, output_bytes: 100_000, max_age_days: 100_000, ..Limits::default().bounds }
    }

    fn process(&self, batch: &Batch<'_>, _: Duration, _: &mut HostContext) -> Answer {
        let batch = text(batch);
        timed(|| {
            if batch.len() > 1 && batch.iter().any(|entry| value(entry).starts_with("bytes")) {
                return Err(Fault::TooMuchOutput { limit_bytes: 0 });
            }
            let verdict = |entry: &TextEntry<'_>| {
                let number = |text: &str| text.parse::<usize>().expect("a number");
                let event = UncheckedEvent {
                    event_id: uuid::Uuid::nil().to_string(),
                    time: 0,
                    event_type: String::new(),
                    user_id: String::new(),
                    properties: None,
                };
                match value(entry).split_once(' ') {
                    Some(("rows", count)) => {
                        let row = |time| UncheckedEvent { time, ..event.clone() };
                        Verdict::Expand((0..).map(row).take(number(count)).collect())
                    }
                    Some((_, length)) => {
                        Verdict::Accept(UncheckedEvent { user_id: "x".repeat(number(length)), ..event })
                    }
                    None => Verdict::Accept(event),
                }
            };
            Ok(batch.iter().map(verdict).collect())
        })
    }
}

fn kept(values: &[&str]) -> Vec<bool> {
    let entries = values.iter().zip(0..).map(|(value, i)| entry(i, value.as_bytes())).collect();
    let judgement = judged(&Large, 5, entries);
    let is_kept = |judged: &Judged| match &judged.outcome {
        Outcome::Store(_) => true,
        Outcome::DeadLetter(Reason::TooMuchOutput, _) => false,
        outcome => panic!("{outcome:?}"),
    };
    judgement.entries.iter().map(is_kept).collect()
}

#[test]
fn what_a_batch_becomes_is_bounded_and_the_largest_pay() {
    assert_eq!(kept(&["rows 999", "rows 1"]), [true, true], "at the limit");
    assert_eq!(kept(&["rows 1", "rows 1000", "x", "rows 2"]), [true, false, true, true]);
    assert_eq!(kept(&["rows 400", "rows 900", "rows 700"]), [true, false, false]);
    let bytes = ["x", "bytes 60000", "bytes 300", "bytes 70000", "x"];
    assert_eq!(kept(&bytes), [true, true, true, false, true], "summed over the parts of a batch");
    let brought = format!("bytes {}200000", "0".repeat(200_000)); // an entry as long as its row
    assert_eq!(kept(&["bytes 60000", &brought, "x"]), [true, true, true]);
}

#[test]
fn what_a_guest_cannot_have_is_kept_in_place() {
    let mut deleted = entry(1, b"");
    deleted.fields = None;
    let mut killer = entry(4, b"c");
    killer.deliveries = 6;
    let entries = vec![entry(0, b"a"), deleted, entry(2, b"\xff"), entry(3, b"b"), killer];
    let judgement = judged(&poisoned("-"), 5, entries);
    let outcomes: Vec<Outcome> = judgement.entries.into_iter().map(|judged| judged.outcome).collect();
    assert!(matches!(
        outcomes.as_slice(),
        [
            Outcome::Discard(a),
            Outcome::DeadLetter(Reason::Deleted, _),
            Outcome::DeadLetter(Reason::Undecodable, _),
            Outcome::Discard(b),
            Outcome::DeadLetter(Reason::DeliveredTooOften, _),
        ] if a == "a" && b == "b"
    ));
    assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Store(Vec1::One(_)))));
}

/// Discards each entry with the bytes of its first value as the reason.
struct OfBytes;

impl Rules for OfBytes {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b""))
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn bounds(&self) -> OutputLimits {
        Limits::default().bounds
    }

    fn process(&self, batch: &Batch<'_>, _: Duration, _: &mut HostContext) -> Answer {
        let Batch::Bytes(batch) = batch else { panic!("entries of another form") };
        let reason = |entry: &BytesEntry<'_>| format!("{:?}", entry.fields.first().map(|(_, value)| *value));
        timed(|| Ok(batch.iter().map(|entry| Verdict::Discard(reason(entry))).collect()))
    }

    fn takes_bytes(&self) -> bool {
        true
    }
}

#[test]
fn rules_that_take_bytes_are_asked_about_any_value_but_not_about_any_name() {
    let mut unnamed = entry(2, b"a");
    unnamed.fields = Some(vec![(b"\xff".to_vec(), b"a".to_vec())]);
    let judgement = judged(&OfBytes, 5, vec![entry(0, b"\xff\0"), entry(1, b""), unnamed]);
    let outcomes: Vec<Outcome> = judgement.entries.into_iter().map(|judged| judged.outcome).collect();
    let [Outcome::Discard(any), Outcome::Discard(empty), Outcome::DeadLetter(Reason::Undecodable, why)] =
        outcomes.as_slice()
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!((any.as_str(), empty.as_str()), ("Some([255, 0])", "Some([])"));
    assert!(why.iter().all(|violation| violation.message.contains("the name of the field")), "{why:?}");
}
