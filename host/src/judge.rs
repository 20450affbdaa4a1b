//! From entries to fates: the rules are asked, and whatever they do, every entry gets one.

use std::borrow::Cow;

use crate::batch::{Digest, Entry, Fate, Judged, Readable, Reason, Verdict, Violation};
use crate::screen::{cut, quoted, screen};

/// A version of the rules: a component in its sandbox; in the benchmark, also
/// the same rules as native code.
pub trait Rules: Send + Sync {
    /// The version's name.
    fn digest(&self) -> Digest;

    /// One verdict for each entry, in the order of the batch. May block.
    fn process(&self, batch: &[Readable<'_>]) -> Result<Vec<Verdict>, Fault>;
}

/// How a call ended that gave no verdicts. The entries are unharmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A trap: a panic, a division by zero, a stack overflow, a breach of the contract's types.
    #[error("the guest trapped: {0}")]
    Trapped(String),
    /// The time limit.
    #[error("the guest took longer than {limit_ms} ms")]
    TimedOut {
        /// `GUEST_TIME_LIMIT_MS`.
        limit_ms: u64,
    },
    /// The memory limit.
    #[error("the guest wanted more than {limit_bytes} bytes of memory")]
    OutOfMemory {
        /// `GUEST_MEMORY_BYTES`.
        limit_bytes: usize,
    },
    /// Too many or too few verdicts: nobody can tell which belongs to which entry.
    #[error("the guest returned {found} verdicts for {wanted} entries")]
    WrongCount {
        /// What it returned.
        found: usize,
        /// The entries in the batch.
        wanted: usize,
    },
}

/// Judges a batch. Every entry gets exactly one fate, in the order of the batch (invariant 2).
///
/// Blocks while the rules run.
pub fn judge(rules: &dyn Rules, deliveries_max: u64, entries: Vec<Entry>) -> Vec<Judged> {
    let mut readable = Vec::with_capacity(entries.len());
    // `None` for an entry that the rules are asked about.
    let settled: Vec<Option<Fate>> = entries
        .iter()
        .map(|entry| match read(entry, deliveries_max) {
            Ok(entry) => {
                readable.push(entry);
                None
            }
            Err(fate) => Some(fate),
        })
        .collect();
    let mut fates = Vec::with_capacity(readable.len());
    ask(rules, &readable, &mut fates);
    drop(readable);

    let mut fates = fates.into_iter();
    let digest = rules.digest();
    let fates = settled.into_iter().map_while(|fate| fate.or_else(|| fates.next()));
    entries.into_iter().zip(fates).map(|(entry, fate)| Judged { entry, fate, digest }).collect()
}

/// Asks the rules for a batch and, after a fault, for each half of it, until
/// the entry at fault is alone: the others are judged as if it were not there.
fn ask(rules: &dyn Rules, batch: &[Readable<'_>], fates: &mut Vec<Fate>) {
    match (rules.process(batch), batch) {
        (Ok(verdicts), _) => fates.extend(verdicts.into_iter().map(screen)),
        (Err(fault), [only]) => {
            tracing::warn!(entry = %only.id, guest = %rules.digest(), reason = reason(&fault).as_str(), "poison entry");
            fates.push(dead_letter(reason(&fault), fault.to_string()));
        }
        (Err(fault), batch) => {
            let entries = batch.len();
            tracing::warn!(entries, guest = %rules.digest(), reason = reason(&fault).as_str(), "guest failed; splitting the batch");
            let (left, right) = batch.split_at(entries / 2);
            ask(rules, left, fates);
            ask(rules, right, fates);
        }
    }
}

fn reason(fault: &Fault) -> Reason {
    match fault {
        Fault::Trapped(_) => Reason::Trapped,
        Fault::TimedOut { .. } => Reason::TimedOut,
        Fault::OutOfMemory { .. } => Reason::OutOfMemory,
        Fault::WrongCount { .. } => Reason::BadVerdict,
    }
}

fn dead_letter(reason: Reason, message: String) -> Fate {
    let violation =
        Violation { path: String::new(), code: reason.as_str().to_owned(), message: cut(message) };
    Fate::DeadLetter(reason, vec![violation])
}

/// The entry as a guest can have it, or what becomes of it without being asked about.
fn read(entry: &Entry, deliveries_max: u64) -> Result<Readable<'_>, Fate> {
    let Some(fields) = &entry.fields else {
        let message = "the entry was deleted from the stream while it was pending; its content is lost";
        return Err(dead_letter(Reason::Deleted, message.to_owned()));
    };
    if entry.deliveries > deliveries_max {
        let message =
            format!("delivered {} times without an end, wanted at most {deliveries_max}", entry.deliveries);
        return Err(dead_letter(Reason::DeliveredTooOften, message));
    }
    let fields: Result<Vec<(&str, &str)>, Violation> = fields
        .iter()
        .map(|(name, value)| match (std::str::from_utf8(name), std::str::from_utf8(value)) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Err(error), _) => Err(undecodable(&String::from_utf8_lossy(name), "name", error)),
            (Ok(name), Err(error)) => Err(undecodable(&Cow::Borrowed(name), "value", error)),
        })
        .collect();
    match fields {
        Ok(fields) => Ok(Readable { id: entry.id, fields }),
        Err(violation) => Err(Fate::DeadLetter(Reason::Undecodable, vec![violation])),
    }
}

fn undecodable(name: &str, part: &str, error: std::str::Utf8Error) -> Violation {
    Violation {
        path: cut(name.to_owned()),
        code: "not_utf8".to_owned(),
        message: format!(
            "the {part} of the field {} is not UTF-8 from byte {} on",
            quoted(name),
            error.valid_up_to()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{EntryId, Vec1};

    /// Discards what it is given, and fails with a batch that holds the poison.
    struct Poisoned(&'static str);

    impl Rules for Poisoned {
        fn digest(&self) -> Digest {
            Digest::of(b"")
        }

        fn process(&self, batch: &[Readable<'_>]) -> Result<Vec<Verdict>, Fault> {
            let value = |entry: &Readable<'_>| entry.fields.first().map(|(_, value)| (*value).to_owned());
            match batch.iter().any(|entry| value(entry).as_deref() == Some(self.0)) {
                true => Err(Fault::Trapped("poison".into())),
                false => {
                    Ok(batch.iter().map(|entry| Verdict::Discard(value(entry).unwrap_or_default())).collect())
                }
            }
        }
    }

    fn entry(sequence: u64, value: &[u8]) -> Entry {
        let fields = Some(vec![(b"f".to_vec(), value.to_vec())]);
        Entry { id: EntryId { milliseconds: 1, sequence }, fields, deliveries: 1 }
    }

    #[test]
    fn only_the_poison_becomes_a_dead_letter() {
        for poisoned in 0..7 {
            let entries: Vec<Entry> =
                (0..7).map(|i| entry(i, if i == poisoned { b"poison" } else { b"fine" })).collect();
            let judged = judge(&Poisoned("poison"), 5, entries.clone());
            assert_eq!(judged.iter().map(|judged| judged.entry.clone()).collect::<Vec<_>>(), entries);
            for Judged { entry, fate, .. } in judged {
                match fate {
                    Fate::DeadLetter(reason, _) => {
                        assert_eq!((entry.id.sequence, reason), (poisoned, Reason::Trapped))
                    }
                    fate => assert_eq!(fate, Fate::Discard("fine".into())),
                }
            }
        }
    }

    #[test]
    fn what_a_guest_cannot_have_is_kept_in_place() {
        let mut deleted = entry(1, b"");
        deleted.fields = None;
        let mut killer = entry(4, b"c");
        killer.deliveries = 6;
        let entries = vec![entry(0, b"a"), deleted, entry(2, b"\xff"), entry(3, b"b"), killer];
        let fates: Vec<Fate> =
            judge(&Poisoned("-"), 5, entries).into_iter().map(|judged| judged.fate).collect();
        assert!(matches!(
            fates.as_slice(),
            [
                Fate::Discard(a),
                Fate::DeadLetter(Reason::Deleted, _),
                Fate::DeadLetter(Reason::Undecodable, _),
                Fate::Discard(b),
                Fate::DeadLetter(Reason::DeliveredTooOften, _),
            ] if a == "a" && b == "b"
        ));
        assert!(!fates.iter().any(|fate| matches!(fate, Fate::Store(Vec1::One(_)))));
    }
}
