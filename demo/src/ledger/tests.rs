use chrono::DateTime;

use std::collections::BTreeMap;

use super::*;
use crate::generator::Generator;
use sluicegate::batch::Tally;
use sluicegate::stream::GroupStats;
use sluicegate_verdicts::Reason;

const SENT: u64 = 3_000;
/// The strict rules are in force from this entry on.
const SWAP: u64 = 1_500;

fn id(sequence: u64) -> EntryId {
    EntryId { milliseconds: 1, sequence }
}

/// Holds what a faultless service leaves behind, to be spoilt by a test.
#[derive(Clone)]
struct World {
    rows: Vec<Event>,
    letters: Vec<Letter>,
    tally: Tally,
}

fn digest(name: &str) -> Digest {
    Digest::new(name.as_bytes())
}

fn samples() -> Vec<Sample> {
    let mut generator = Generator::new(5);
    (0..SENT)
        .map(|i| generator.sample(DateTime::from_timestamp_millis(i.cast_signed()).expect("a time")))
        .collect()
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(digest("default"), Some(digest("strict")));
    for (i, sample) in (0..).zip(samples()) {
        ledger.sent(sample, id(i));
    }
    ledger
}

fn letter(i: u64, fields: &Fields, refusal: &Refusal) -> Letter {
    Letter {
        entry: id(i).to_string(),
        reason: refusal.reason.as_str().to_owned(),
        violations: refusal
            .violations
            .iter()
            .map(|(path, code)| ((*path).to_owned(), (*code).to_owned()))
            .collect(),
        fields: Some(fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]).collect()),
        component: digest(if i < SWAP { "default" } else { "strict" }).as_bytes().to_vec(),
    }
}

fn world() -> World {
    let mut world = World { rows: Vec::new(), letters: Vec::new(), tally: Tally::default() };
    for (i, Sample { fields, expected }) in (0..).zip(samples()) {
        match expected {
            Expected::DeadLetter(refusal) => {
                world.letters.push(letter(i, &fields, &refusal));
                match refusal.reason {
                    Reason::Rejected => world.tally.rejected += 1,
                    _ => world.tally.dead_lettered += 1,
                }
            }
            Expected::Row(_, Strict::Discard) if i >= SWAP => world.tally.discarded += 1,
            Expected::Row(_, Strict::Reject(refusal)) if i >= SWAP => {
                world.letters.push(letter(i, &fields, &refusal));
                world.tally.rejected += 1;
            }
            Expected::Row(event, _) if world.rows.contains(&event) => world.tally.duplicate += 1,
            Expected::Row(event, _) => {
                world.rows.push(event);
                world.tally.stored += 1;
            }
        }
    }
    world
}

fn audit(ledger: &Ledger, world: &World) -> Report {
    let mut audit = ledger.audit();
    world.rows.iter().for_each(|row| audit.row(row));
    world.letters.iter().for_each(|letter| audit.letter(letter));
    let mut report = audit.finish();
    report.check_swap();
    report.check_counters(world.tally);
    report.check_group(GroupStats { length: SENT, pending: 0, lag: Some(0), lost: 0 });
    report
}

/// Returns the discrepancies of a world that was spoilt, except those of sums.
fn found(spoil: impl FnOnce(&mut World)) -> Vec<Discrepancy> {
    let mut world = world();
    spoil(&mut world);
    let report = audit(&ledger(), &world);
    let found = report.discrepancies.into_iter().filter(|(check, _)| *check != Check::Sums);
    found.flat_map(|(_, found)| found.first).collect()
}

fn position(world: &World, wanted: impl Fn(&str) -> bool) -> usize {
    world.rows.iter().position(|row| wanted(&row.event_type)).expect("an event of the kind")
}

#[test]
fn a_faultless_service_adds_up() {
    let report = audit(&ledger(), &world());
    assert_eq!(report.discrepancies, BTreeMap::new());
    assert_eq!(report.produced, SENT);
    let [stored, discarded] = report.discardable;
    assert!(stored > 50 && discarded > 50 && report.copies > 50, "{report:?}");
}

#[test]
fn spaces_and_the_order_of_members_do_not_matter() {
    let respell = |row: &mut Event| {
        row.properties = row.properties.take().map(|json| json.replace(':', " : "));
    };
    let views = |row: &&mut Event| row.event_type == "heartbeat";
    assert_eq!(found(|world| world.rows.iter_mut().filter(views).for_each(respell)), []);
}

#[test]
fn a_lost_event_is_found() {
    let found = found(|world| {
        let lost = position(world, |event_type| event_type == "click");
        world.rows.remove(lost);
    });
    assert!(matches!(found.as_slice(), [Discrepancy::Lost { .. }]), "{found:?}");
}

#[test]
fn a_doubled_event_is_found() {
    let found = found(|world| {
        let copy = world.rows[10].clone();
        world.rows.push(Event { time: copy.time + chrono::TimeDelta::microseconds(1), ..copy });
    });
    assert!(matches!(found.as_slice(), [Discrepancy::Doubled { .. }]), "{found:?}");
}

#[test]
fn an_invented_row_is_found() {
    let invented = Uuid::from_u128(1);
    let found = found(|world| {
        let row = Event { event_id: invented, ..world.rows[0].clone() };
        world.rows.push(row);
    });
    assert_eq!(found, [Discrepancy::InventedRow { event: invented }]);
}

#[test]
fn every_changed_column_is_found() {
    let found = found(|world| {
        let row = &mut world.rows[0];
        row.time += chrono::TimeDelta::microseconds(1);
        row.event_type.push('x');
        row.user_id.push('x');
        row.properties = Some(r#"{"changed":true}"#.to_owned());
    });
    let columns: Vec<&str> = found
        .iter()
        .map(|found| match found {
            Discrepancy::Changed { column, .. } => *column,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(columns, ["time", "event_type", "user_id", "properties"]);
}

#[test]
fn a_missing_dead_letter_is_found() {
    let found = found(|world| drop(world.letters.remove(0)));
    assert!(matches!(found.as_slice(), [Discrepancy::MissingLetter { .. }]), "{found:?}");
}

#[test]
fn a_dead_letter_that_says_something_else_is_found() {
    let what = |spoil: fn(&mut Letter)| {
        let found = found(|world| spoil(&mut world.letters[0]));
        match found.as_slice() {
            [Discrepancy::WrongLetter { what, .. }] => *what,
            [Discrepancy::UnknownRules { .. }] => "unknown rules",
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(what(|letter| letter.reason = "trapped".to_owned()), "the reasons");
    assert_eq!(what(|letter| letter.violations[0].1 = "other".to_owned()), "the reasons");
    assert_eq!(what(|letter| letter.fields = None), "the fields");
    assert_eq!(what(|letter| letter.component[0] ^= 1), "unknown rules");
}

#[test]
fn a_dead_letter_of_a_valid_or_an_unknown_entry_is_found() {
    let refusal = Refusal { reason: Reason::Rejected, violations: vec![("", "missing")] };
    let valid =
        (0..).zip(samples()).find(|(_, sample)| matches!(sample.expected, Expected::Row(_, Strict::Accept)));
    let (valid, _) = valid.expect("a valid entry");
    let found = found(|world| {
        world.letters.push(letter(valid, &Vec::new(), &refusal));
        world.letters.push(letter(SENT + 1, &Vec::new(), &refusal));
        world.letters.push(world.letters[0].clone());
    });
    let [refused, doubled, invented] = found.as_slice() else { panic!("{found:?}") };
    assert!(matches!(refused, Discrepancy::WronglyRefused { .. }), "{refused:?}");
    assert!(matches!(doubled, Discrepancy::DoubledLetter { .. }), "{doubled:?}");
    assert!(matches!(invented, Discrepancy::InventedLetter { .. }), "{invented:?}");
}

/// The audit excuses such an entry only where that may be, and for no other reason than this one.
#[test]
fn an_entry_that_was_given_up_is_excused() {
    let too_often = Refusal { reason: Reason::DeliveredTooOften, violations: Vec::new() };
    let mut world = world();
    let row = position(&world, |event_type| event_type == "page_view");
    let lost = world.rows.remove(row).event_id;
    let of_lost =
        |sample: &Sample| matches!(&sample.expected, Expected::Row(event, _) if event.event_id == lost);
    let entries: Vec<u64> =
        (0..).zip(samples()).filter(|(_, sample)| of_lost(sample)).map(|(i, _)| i).collect();
    world.letters.extend(entries.iter().map(|&i| letter(i, &Vec::new(), &too_often)));
    let invalid = &mut world.letters[0];
    invalid.reason = too_often.reason.as_str().to_owned();

    let ledger = ledger();
    let audited = |world: &World, may_give_up: bool| {
        let mut audit = ledger.audit();
        if may_give_up {
            audit.allow_giving_up();
        }
        world.rows.iter().for_each(|row| audit.row(row));
        world.letters.iter().for_each(|letter| audit.letter(letter));
        audit.finish()
    };
    let report = audited(&world, true);
    assert!(report.adds_up(), "{:?}", report.discrepancies);
    assert_eq!(usize::try_from(report.given_up), Ok(entries.len() + 1));
    assert!(!audited(&world, false).adds_up());
    world.letters.pop(); // an entry that is nowhere is lost all the same
    assert!(!audited(&world, true).adds_up());
}

#[test]
fn an_event_must_end_in_one_of_two_ways() {
    let rejectable = (0..SWAP).zip(samples()).find_map(|(i, sample)| match &sample.expected {
        Expected::Row(_, Strict::Reject(refusal)) => Some(letter(i, &sample.fields, refusal)),
        _ => None,
    });
    let letter = rejectable.expect("a purchase without an amount");
    let entry = EntryId::parse(letter.entry.as_bytes()).expect("an ID");
    let event = match &samples()[usize::try_from(entry.sequence).expect("small")].expected {
        Expected::Row(event, _) => event.event_id,
        Expected::DeadLetter(_) => panic!("valid"),
    };
    let both = found(|world| {
        world.letters.push(Letter { component: digest("strict").as_bytes().to_vec(), ..letter })
    });
    assert!(both.contains(&Discrepancy::BothWays { event }), "{both:?}");
    let neither = found(|world| world.rows.retain(|row| row.event_id != event));
    assert!(matches!(neither.as_slice(), [Discrepancy::Lost { .. }]), "{neither:?}");
}

#[test]
fn old_rules_that_come_back_are_found() {
    let back = found(|world| {
        if let Some(last) = world.letters.iter_mut().rev().find(|letter| letter.reason == "undecodable") {
            last.component = digest("default").as_bytes().to_vec();
        }
    });
    assert!(matches!(back.as_slice(), [Discrepancy::OutOfOrder { .. }]), "{back:?}");
}

#[test]
fn counters_that_disagree_are_found() {
    let mut world = world();
    world.tally.stored -= 1;
    world.tally.duplicate += 1;
    let report = audit(&ledger(), &world);
    let [(Check::Sums, found)] = report.discrepancies.iter().collect::<Vec<_>>()[..] else {
        panic!("{report:?}")
    };
    assert!(found.count >= 1, "{found:?}");
}

#[test]
fn what_is_left_in_the_stream_is_found() {
    let mut report = Report::default();
    report.check_group(GroupStats { length: 9, pending: 1, lag: None, lost: 0 });
    assert_eq!(report.discrepancies[&Check::Drained].count, 2);
}

#[test]
fn an_entry_without_an_answer_may_be_there_or_not() {
    let mut ledger = ledger();
    let mut generator = Generator::new(6);
    let mut world = world();
    for i in SENT..SENT + 500 {
        let sample = generator.sample(DateTime::from_timestamp_millis(i.cast_signed()).expect("a time"));
        ledger.unanswered(&sample);
        // Every second XADD happened.
        match (i % 2, &sample.expected) {
            (0, Expected::Row(event, Strict::Accept)) if !world.rows.contains(event) => {
                world.rows.push(event.clone());
                world.tally.stored += 1;
            }
            (0, Expected::DeadLetter(refusal)) => {
                world.letters.push(letter(i, &sample.fields, refusal));
                match refusal.reason {
                    Reason::Rejected => world.tally.rejected += 1,
                    _ => world.tally.dead_lettered += 1,
                }
            }
            _ => {}
        }
    }
    assert_eq!(audit(&ledger, &world).discrepancies, BTreeMap::new());
}
