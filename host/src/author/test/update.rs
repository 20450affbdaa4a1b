//! Writes what came into the goldens that expect something else. All else of the files stays as it is.

use std::fs;
use std::ops::Range;

use serde_json::{Value, json};

use super::goldens::GoldenFile;
use super::report::{Problem, Report};
use crate::author::Error;
use sluicegate_verdicts::format::{EntryLine, Line};

/// Updates a file, and takes from the reports what is as expected now. Returns how many goldens were changed.
pub(super) fn update(file: &GoldenFile, reports: &mut [Report]) -> Result<usize, Error> {
    let mut changed = Vec::new();
    for report in reports {
        let is_old = |problem: &Problem| matches!(problem, Problem::Differs(_) | Problem::NoExpectation);
        let Some(golden) = file.goldens.iter().find(|golden| golden.line.number == report.line) else {
            continue;
        };
        if report.answer.is_none() || !report.problems.iter().any(is_old) {
            continue;
        }
        let Ok(text) = updated(&golden.line, report) else { continue };
        changed.push((golden.line.number, text));
        report.problems.retain(|problem| !is_old(problem));
        report.is_updated = true;
    }
    if changed.is_empty() {
        return Ok(0);
    }
    let unwritable = |source| Error::Unwritable { file: file.path.clone(), source };
    let text = fs::read_to_string(&file.path).map_err(unwritable)?;
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    for (number, new) in &changed {
        let at = usize::try_from(*number).unwrap_or(usize::MAX).saturating_sub(1);
        if let Some(line) = lines.get_mut(at) {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            let mark = if at == 0 && line.starts_with('\u{feff}') { "\u{feff}" } else { "" };
            *line = format!("{mark}{new}{end}");
        }
    }
    fs::write(&file.path, lines.concat()).map_err(unwritable)?;
    Ok(changed.len())
}

/// Returns the line with what came in the place of what was expected.
fn updated(line: &Line, report: &Report) -> Result<String, String> {
    let read = EntryLine::read(line)?;
    let Some(answer) = &report.answer else { return Err("there is no answer".to_owned()) };
    let differs = |place: &str| {
        report.problems.iter().any(
            |problem| matches!(problem, Problem::Differs(difference) if difference.path.starts_with(place)),
        )
    };
    let is_outcome = report.problems.iter().any(|problem| match problem {
        Problem::Differs(difference) => {
            !["publish", "metrics"].iter().any(|place| difference.path.starts_with(place))
        }
        problem => matches!(problem, Problem::NoExpectation),
    });
    // From the end, so that each place is still where it was.
    let mut places = Vec::new();
    for (name, raw, is_new, value) in [
        (
            "expect",
            read.expect,
            is_outcome,
            expectation(&answer.outcome, read.expect.map_or("", |raw| raw.get())),
        ),
        ("publish", read.publish, differs("publish"), answer.published.clone()),
        ("metrics", read.metrics, differs("metrics"), answer.counted.clone()),
    ] {
        match raw {
            _ if !is_new => {}
            Some(raw) => places.push((span(&line.text, raw.get()), value.to_string())),
            None => {
                let end = line.text.rfind('}').unwrap_or(line.text.len());
                places.push((end..end, format!(",\"{name}\":{value}")));
            }
        }
    }
    places.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = line.text.clone();
    for (place, new) in places {
        text.replace_range(place, &new);
    }
    Ok(text)
}

/// Returns what a golden expects of an outcome like this. Messages are for people: they stay out unless they were there.
fn expectation(outcome: &Value, before: &str) -> Value {
    let mut expected = outcome.clone();
    let has_messages = before.contains("\"message\"");
    if let Some(violations) = expected.get_mut("reject").and_then(Value::as_array_mut)
        && !has_messages
    {
        violations
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(|violation| drop(violation.remove("message")));
    }
    match expected.get("fault") {
        // It names functions and numbers, which differ from build to build.
        Some(reason) => json!({ "fault": reason }),
        None => expected,
    }
}

/// Returns where a part of a text is, which was borrowed from it.
fn span(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_where_it_is() {
        let text = "ab{\"a\":1}c";
        assert_eq!(span(text, &text[2..9]), 2..9);
    }

    #[test]
    fn messages_stay_out_unless_they_were_there() {
        let rejected = json!({ "reject": [{ "path": "p", "code": "c", "message": "m" }] });
        assert_eq!(expectation(&rejected, "{}"), json!({ "reject": [{ "path": "p", "code": "c" }] }));
        assert_eq!(expectation(&rejected, r#"{"reject":[{"message":"x"}]}"#), rejected);
        let trapped = json!({ "fault": "trapped", "message": "at 0x1f" });
        assert_eq!(expectation(&trapped, ""), json!({ "fault": "trapped" }));
    }
}
