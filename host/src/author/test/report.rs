//! Tells what is not as expected, to people, as JSON and as JUnit's XML.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::company::{Answer, InCompany};
use super::expect::{Difference, kind};
use super::goldens::{Golden, GoldenFile};
use crate::batch::Version;
use crate::text::{cut_to_columns, printable};
use sluicegate_verdicts::format::time_of;

/// The columns of a value, of which people see the beginning.
const MAX_COLUMNS: usize = 300;
/// The columns of a fault's message, which says what the rules said, the cause and the place. A dead letter has as many.
const MAX_MESSAGE_COLUMNS: usize = 1_000;
/// Microseconds of a year.
const YEAR: i64 = 366 * 86_400 * 1_000_000;

/// What is not as expected of a golden.
pub(super) enum Problem {
    Differs(Difference),
    /// Other answers in another company.
    InCompany(InCompany),
    /// It does not say what must come.
    NoExpectation,
    /// There is no answer, for this reason.
    Undecided(String),
}

/// What came of a golden.
pub(super) struct Report {
    file: String,
    pub(super) line: u64,
    name: Option<String>,
    pub(super) answer: Option<Answer>,
    pub(super) problems: Vec<Problem>,
    pub(super) is_updated: bool,
}

impl Report {
    pub(super) fn new(
        file: &GoldenFile,
        golden: &Golden,
        answer: Option<Answer>,
        problems: Vec<Problem>,
    ) -> Self {
        let file = file.path.display().to_string();
        Self {
            file,
            line: golden.line.number,
            name: golden.name.clone(),
            answer,
            problems,
            is_updated: false,
        }
    }

    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    fn is_as_expected(&self) -> bool {
        self.problems.is_empty()
    }

    /// Tells people what is not as expected, and nothing of the rest.
    pub(super) fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.is_as_expected() {
            return Ok(());
        }
        let name = self.name.as_deref().map(|name| format!("  {}", shown(name))).unwrap_or_default();
        writeln!(out, "{}{name}", shown(&self.place()))?;
        self.lines().iter().try_for_each(|line| writeln!(out, "  {line}"))
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.problems.iter().flat_map(Problem::lines).collect();
        let differs = |problem: &Problem| matches!(problem, Problem::Differs(_));
        if self.problems.iter().any(differs)
            && let Some(answer) = &self.answer
        {
            lines.extend(other_unit(&answer.outcome));
        }
        lines
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "file": self.file,
            "line": self.line,
            "name": self.name,
            "as_expected": self.is_as_expected(),
            "updated": self.is_updated,
            "got": self.answer.as_ref().map(|answer| &answer.outcome),
            "problems": self.problems.iter().map(Problem::as_json).collect::<Vec<_>>(),
        })
    }
}

impl Problem {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Differs(difference) => difference_lines(difference, ["wanted", "got"]),
            Self::InCompany(InCompany { company, alone, other, differences, cause }) => {
                let heading = format!("alone {}, but {company} {}", summary(alone), summary(other));
                let differs = differences
                    .iter()
                    .flat_map(|difference| difference_lines(difference, ["alone", company]));
                let differs = differs.filter(|_| kind(alone) == kind(other)).map(|line| format!("  {line}"));
                [heading].into_iter().chain(differs).chain([(*cause).to_owned()]).collect()
            }
            Self::NoExpectation => {
                vec!["wanted an `expect` in the line, found none; --update writes what came".to_owned()]
            }
            Self::Undecided(message) => vec![shown(message)],
        }
    }

    fn as_json(&self) -> Value {
        match self {
            Self::Differs(difference) => as_json("difference", difference),
            Self::InCompany(InCompany { company, alone, other, cause, .. }) => {
                json!({ "kind": "company", "company": company, "alone": alone, "other": other, "cause": cause })
            }
            Self::NoExpectation => json!({ "kind": "no_expectation" }),
            Self::Undecided(message) => json!({ "kind": "undecided", "message": message }),
        }
    }
}

fn as_json(kind: &str, Difference { path, wanted, got }: &Difference) -> Value {
    json!({ "kind": kind, "path": path, "wanted": wanted, "got": got })
}

/// Returns the difference in one line, and what was told of the outcome that came, if it is another kind.
fn difference_lines(
    Difference { path, wanted, got }: &Difference,
    [first, second]: [&str; 2],
) -> Vec<String> {
    let value = |value: &Option<Value>| {
        value.as_ref().map_or("nothing".to_owned(), |value| shown(&value.to_string()))
    };
    match (path.as_str(), wanted, got) {
        ("", Some(wanted), Some(got)) => {
            let mut lines = vec![format!("{first} {}, {second} {}", summary(wanted), summary(got))];
            if let Some(message) = got.get("message").and_then(Value::as_str) {
                lines.push(cut_to_columns(&printable(message), MAX_MESSAGE_COLUMNS).into_owned());
            }
            let messages = got.get("reject").and_then(Value::as_array).into_iter().flatten();
            lines.extend(
                messages.filter_map(|violation| violation.get("message")?.as_str()).take(5).map(shown),
            );
            lines
        }
        (path, Some(Value::Array(wanted)), Some(Value::Array(got))) if wanted.len() != got.len() => {
            let items = shown(&json!(got).to_string());
            vec![format!("{}: {first} {} items, {second} {}: {items}", shown(path), wanted.len(), got.len())]
        }
        (path, wanted, got) => {
            vec![format!("{}: {first} {}, {second} {}", shown(path), value(wanted), value(got))]
        }
    }
}

/// Returns an outcome in a few words.
fn summary(outcome: &Value) -> String {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let summary = match kind(outcome) {
        kind @ "expand" => {
            let rows = outcome.get(kind).and_then(Value::as_array).map_or(0, Vec::len);
            format!("expand to {rows} rows")
        }
        kind @ "reject" => {
            let violation = |violation: &Value| match (text(violation, "path"), text(violation, "code")) {
                (path, code) if path.is_empty() => code,
                (path, code) => format!("{path}: {code}"),
            };
            let violations = outcome.get(kind).and_then(Value::as_array).into_iter().flatten().map(violation);
            format!("reject({})", violations.collect::<Vec<_>>().join(", "))
        }
        kind @ "discard" => format!("discard({})", outcome.get(kind).unwrap_or(&Value::Null)),
        kind @ "fault" => format!("fault {}", text(outcome, kind)),
        kind => kind.to_owned(),
    };
    shown(&summary)
}

/// Tells of times that are in another unit than microseconds: `Date.now()` is in milliseconds, and lands in 1970.
fn other_unit(outcome: &Value) -> Option<String> {
    let rows = match outcome.get("expand") {
        Some(Value::Array(rows)) => rows.iter().collect(),
        _ => vec![outcome.get("accept")?],
    };
    let time = rows
        .into_iter()
        .find_map(|row| row.get("time")?.as_str().filter(|text| time_of(text).is_some_and(is_of_1970)))?;
    let micros = time_of(time)?;
    let is_time = |factor: i64| {
        micros.checked_mul(factor).is_some_and(|scaled| (20 * YEAR..150 * YEAR).contains(&scaled))
    };
    let unit = match () {
        () if is_time(1_000) => "milliseconds",
        () if is_time(1_000_000) => "seconds",
        () => return None,
    };
    Some(format!("time is {time}: it looks like {unit}; wanted microseconds since the Unix epoch"))
}

fn is_of_1970(micros: i64) -> bool {
    (0..YEAR).contains(&micros)
}

/// Returns text that may be a guest's, for a terminal.
fn shown(text: &str) -> String {
    cut_to_columns(&printable(text), MAX_COLUMNS).into_owned()
}

/// What came of all goldens.
pub(super) struct Summary {
    component: String,
    version: Version,
    goldens: usize,
    as_expected: usize,
    pub(super) updated: usize,
}

impl Summary {
    pub(super) fn new(component: String, version: Version) -> Self {
        Self { component, version, goldens: 0, as_expected: 0, updated: 0 }
    }

    pub(super) fn count(&mut self, report: &Report) {
        self.goldens += 1;
        self.as_expected += usize::from(report.is_as_expected());
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.as_expected == self.goldens
    }

    pub(super) fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { component, version, goldens, as_expected, updated } = self;
        let updated = if *updated > 0 { format!(", {updated} of them updated") } else { String::new() };
        let component = shown(component);
        writeln!(out, "{as_expected} of {goldens} as expected{updated}, by {component}, version {version}")
    }

    pub(super) fn as_json(&self) -> Value {
        let Self { component, version, goldens, as_expected, updated } = self;
        json!({
            "goldens": goldens,
            "as_expected": as_expected,
            "updated": updated,
            "component": component,
            "version": version.digest.to_hex(),
        })
    }
}

/// Returns the results as CI servers read them: a suite for each file, a case for each golden.
pub(super) fn junit(reports: &[Report]) -> String {
    let failures = |reports: &[Report]| reports.iter().filter(|report| !report.is_as_expected()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites tests=\"{}\" failures=\"{}\">\n",
        reports.len(),
        failures(reports)
    );
    for suite in reports.chunk_by(|one, other| one.file == other.file) {
        let name = suite.first().map(|report| escaped(&report.file)).unwrap_or_default();
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\">",
            suite.len(),
            failures(suite)
        );
        for report in suite {
            let place = report.place();
            let case = escaped(&report.name.as_ref().map_or(place.clone(), |name| format!("{place} {name}")));
            let _ = write!(xml, "    <testcase classname=\"{name}\" name=\"{case}\"");
            let lines = report.lines();
            match lines.first().filter(|_| !report.is_as_expected()) {
                None => xml.push_str("/>\n"),
                Some(first) => {
                    let (first, all) = (escaped(first), escaped(&lines.join("\n")));
                    let _ = writeln!(xml, "><failure message=\"{first}\">{all}</failure></testcase>");
                }
            }
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

/// Returns text for XML, in which control characters can have no place at all.
fn escaped(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_in_a_few_words() {
        for (outcome, words) in [
            (json!({ "accept": {} }), "accept"),
            (json!({ "expand": [{}, {}] }), "expand to 2 rows"),
            (
                json!({ "reject": [{ "path": "a.b", "code": "missing" }, { "code": "odd" }] }),
                "reject(a.b: missing, odd)",
            ),
            (json!({ "discard": "a \u{1b}[31m bot" }), "discard(\"a \\u001b[31m bot\")"),
            (json!({ "fault": "trapped", "message": "m" }), "fault trapped"),
        ] {
            assert_eq!(summary(&outcome), words);
        }
    }

    #[test]
    fn a_time_in_another_unit_is_told() {
        let unit = |micros: i64| {
            let time = sluicegate_verdicts::format::time_text(micros).expect("a time");
            other_unit(&json!({ "expand": [{ "time": "2026-01-18T22:17:54Z" }, { "time": time }] }))
        };
        assert!(
            unit(1_768_774_674_827)
                .is_some_and(|told| told.contains("1970-01-21T11:19:34.674827Z: it looks like milliseconds"))
        );
        assert!(unit(1_768_774_674).is_some_and(|told| told.contains("looks like seconds")));
        for time in [1_768_774_674_827_000, 0, 7, -1_768_774_674_827] {
            assert_eq!(unit(time), None, "{time}");
        }
    }

    #[test]
    fn what_a_guest_says_cannot_leave_its_place_in_the_xml() {
        assert_eq!(escaped("<a b=\"&\">\u{1b}\nnext"), "&lt;a b=&quot;&amp;&quot;&gt;\\u{1b}\nnext");
    }
}
