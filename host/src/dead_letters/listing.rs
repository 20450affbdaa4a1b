//! Letters as text, for people, and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::view::{CauseView, Disclosure, LetterView};
use crate::rules::view::second;
use crate::store::{Cause, Letter};
use crate::text::{grouped, printable, printable_json};

/// The newest, a line each, with their tenant where there are several.
pub(super) fn table(
    letters: &[Letter],
    in_total: u64,
    has_tenants: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if letters.is_empty() {
        return writeln!(out, "no dead letters");
    }
    let tenants = std::iter::once("TENANT").chain(letters.iter().map(|letter| letter.tenant.as_str()));
    let width = tenants.map(|name| name.chars().count()).max().unwrap_or(0);
    let of_tenant = |name: &str| match has_tenants {
        true => format!("{:<width$}  ", printable(name)),
        false => String::new(),
    };
    writeln!(
        out,
        "{:>8}  {:<20}  {}{:<19}  {:<21}  VIOLATION",
        "ID",
        "RECORDED",
        of_tenant("TENANT"),
        "REASON",
        "ENTRY"
    )?;
    for letter in letters {
        let violation = letter.violations.first().map(|first| match first.path.is_empty() {
            true => first.code.clone(),
            false => format!("{}: {}", first.path, first.code),
        });
        let more = match letter.violations.len() {
            0 | 1 => String::new(),
            more => format!(" (and {})", more - 1),
        };
        let replayed = letter
            .replay_outcome
            .as_deref()
            .map(|outcome| format!(" [replayed: {outcome}]"))
            .unwrap_or_default();
        writeln!(
            out,
            "{:>8}  {:<20}  {}{:<19}  {:<21}  {}{more}{replayed}",
            letter.id,
            second(letter.recorded_at),
            of_tenant(&letter.tenant),
            printable(&letter.reason),
            printable(&letter.entry_id),
            printable(&violation.unwrap_or_default()),
        )?;
    }
    let shown = u64::try_from(letters.len()).unwrap_or(u64::MAX);
    if in_total > shown {
        writeln!(out, "the newest {} of {}; --limit shows more", grouped(shown), grouped(in_total))?;
    }
    Ok(())
}

/// Why there are letters, a line a cause.
pub(super) fn causes(causes: &[Cause], out: &mut dyn Write) -> io::Result<()> {
    if causes.is_empty() {
        return writeln!(out, "no dead letters");
    }
    writeln!(
        out,
        "{:>8}  {:<20}  {:<20}  {:<12}  {:<16}  {:<19}  {:<12}  VIOLATION",
        "LETTERS", "FIRST", "LAST", "TENANT", "STREAM", "REASON", "RULES"
    )?;
    causes.iter().try_for_each(|cause| {
        let violation = match (cause.path.as_deref(), cause.code.as_deref()) {
            (None | Some(""), code) => code.unwrap_or_default().to_owned(),
            (Some(path), code) => format!("{path}: {}", code.unwrap_or_default()),
        };
        writeln!(
            out,
            "{:>8}  {:<20}  {:<20}  {:<12}  {:<16}  {:<19}  {:<12}  {}",
            grouped(u64::try_from(cause.letters).unwrap_or(0)),
            second(cause.first),
            second(cause.last),
            printable(&cause.tenant),
            printable(&cause.stream),
            printable(&cause.reason),
            cause.version.as_ref().unwrap_or(&cause.component),
            printable(&violation),
        )
    })
}

/// The same for programs, in a line.
pub(super) fn cause_as_json(cause: &Cause) -> String {
    line(&CauseView::new(cause))
}

/// One, with everything.
pub(super) fn show(letter: &Letter, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "dead letter {}", letter.id)?;
    let replayed = match (&letter.replay_outcome, letter.replayed_at) {
        (Some(outcome), Some(at)) => format!("{outcome}, {}", second(at)),
        _ => "never".to_owned(),
    };
    for (name, value) in [
        ("reason", letter.reason.clone()),
        ("tenant", letter.tenant.clone()),
        ("stream", letter.stream.clone()),
        ("entry", letter.entry_id.clone()),
        ("deliveries", letter.deliveries.to_string()),
        ("component", letter.component.clone()),
        ("version", letter.version.clone().unwrap_or_else(|| "unknown".to_owned())),
        ("recorded", second(letter.recorded_at)),
        ("replayed", replayed),
    ] {
        writeln!(out, "  {name:<10}  {}", printable(&value))?;
    }
    writeln!(out, "violations")?;
    for violation in &letter.violations {
        let path = if violation.path.is_empty() { "(entry)" } else { &violation.path };
        writeln!(
            out,
            "  {}: {}: {}",
            printable(path),
            printable(&violation.code),
            printable(&violation.message)
        )?;
    }
    writeln!(out, "fields")?;
    match &letter.fields {
        None => writeln!(out, "  (the entry was deleted before it was read)"),
        Some(fields) => fields.chunks(2).try_for_each(|pair| match pair {
            [name, value] => writeln!(out, "  {} = {}", readable(name), readable(value)),
            _ => Ok(()),
        }),
    }
}

/// What came of a replay.
pub(super) fn summary(outcomes: &BTreeMap<String, u64>, verb: &str, out: &mut dyn Write) -> io::Result<()> {
    if outcomes.is_empty() {
        return writeln!(out, "no dead letters to replay");
    }
    for (outcome, count) in outcomes {
        let count = grouped(*count);
        match outcome.as_str() {
            "stored" | "duplicate" | "discarded" => writeln!(out, "{count:>8}  {verb} {outcome}")?,
            open => writeln!(
                out,
                "{count:>8}  {} dead letters still: {}",
                if verb == "are" { "are" } else { "would be" },
                printable(open)
            )?,
        }
    }
    Ok(())
}

/// Everything but the fields, in a line.
pub(super) fn as_json(letter: &Letter) -> String {
    line(&LetterView::new(letter, Disclosure::Messages))
}

/// Everything, in a line.
pub(super) fn as_json_with_fields(letter: &Letter) -> String {
    line(&LetterView::new(letter, Disclosure::All))
}

fn line(value: &impl Serialize) -> String {
    printable_json(&serde_json::to_string(value).unwrap_or_default()).into_owned()
}

/// UTF-8 as text, other bytes escaped.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text).into_owned(),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_cannot_write_to_the_terminal() {
        assert_eq!(readable(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(readable(b"\xff\n"), "b\"\\xff\\n\"");
    }
}
