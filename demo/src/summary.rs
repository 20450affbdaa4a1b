//! Tells the end of the story as a page of text.

use std::time::Duration;

use super::ledger::{Check, Report};
use super::observer::Measured;
use super::settings::Settings;
use super::terminal::{Ink, Terminal, grouped, short};
use sluicegate::batch::{Digest, Tally};

pub(super) struct Summary<'a> {
    pub(super) settings: &'a Settings,
    pub(super) report: &'a Report,
    pub(super) measured: &'a Measured,
    /// Holds the service's own counters, if it logged any.
    pub(super) tally: Option<Tally>,
    pub(super) rules: Rules,
    /// Measures from the first entry until the last one was acknowledged.
    pub(super) took: Duration,
    /// Measures from the file's replacement to the first entry that the new rules judged, roughly.
    pub(super) swap: Option<Duration>,
    /// Measures from SIGTERM to the end.
    pub(super) stop: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) default: Digest,
    pub(super) strict: Digest,
}

impl Rules {
    /// Formats a version like `strict 9cb1e27d01aa`.
    pub(super) fn name(self, component: &[u8]) -> String {
        match component {
            _ if component == self.default.as_bytes() => format!("default {}", self.default),
            _ if component == self.strict.as_bytes() => format!("strict {}", self.strict),
            _ => "unknown".to_owned(),
        }
    }
}

/// Sets the width of the first column, and `NUMBER` that of a number after it.
const LABEL: usize = 29;
const NUMBER: usize = 9;
/// Sets the width of the page.
const PAGE: usize = 80;
/// Bounds the discrepancies shown of each check.
const SHOWN: usize = 5;

impl Summary<'_> {
    pub(super) fn lines(&self, terminal: &Terminal) -> Vec<String> {
        let mut lines = Vec::new();
        for (title, part) in [
            (String::from("How the entries ended"), self.entries()),
            (String::from("What was wrong, by code"), self.codes()),
            (self.swap_title(), self.swap_rows()),
            (String::from("In numbers"), self.numbers()),
        ] {
            lines.extend([String::new(), terminal.paint(Ink::Bold, title)]);
            lines.extend(part);
        }
        lines.extend([
            String::new(),
            terminal.paint(Ink::Bold, "The ledger: what was sent against what is there"),
        ]);
        lines.extend(self.checks(terminal));
        lines
    }

    fn entries(&self) -> Vec<String> {
        let Report { produced, copies, invalid, rows, .. } = *self.report;
        let told =
            |count: fn(Tally) -> u64| self.tally.map_or("unknown".to_owned(), |tally| grouped(count(tally)));
        let other = self.report.letters.iter().filter(|(reason, _)| *reason != "rejected");
        let other: Vec<String> =
            other.map(|(reason, count)| format!("{reason} {}, by the host", grouped(*count))).collect();
        let rejected = self.report.letters.get("rejected").copied().unwrap_or(0);
        let text = |text: &str| [text.to_owned()];
        let kinds =
            [format!("{} events once more", grouped(copies)), format!("{} invalid", grouped(invalid))];
        vec![
            row("produced", &grouped(produced), &kinds),
            row("stored", &grouped(rows), &text("a row each")),
            row("duplicates", &told(|tally| tally.duplicate), &text("no row: the event has one")),
            row("rejected", &grouped(rejected), &text("by the rules; kept as dead letters")),
            row("discarded", &told(|tally| tally.discarded), &text("by the rules, on purpose")),
            row("other dead letters", &grouped(self.report.all_letters() - rejected), &other),
        ]
    }

    fn codes(&self) -> Vec<String> {
        let codes = self.report.codes.iter();
        codes
            .map(|(code, paths)| {
                let name = |path: &str| if path.is_empty() { "the whole entry" } else { path }.to_owned();
                let count: u64 = paths.values().sum();
                let paths: Vec<String> = match paths.len() {
                    1 => paths.keys().map(|path| name(path)).collect(),
                    _ => paths
                        .iter()
                        .map(|(path, count)| format!("{} {}", name(path), grouped(*count)))
                        .collect(),
                };
                row(code, &grouped(count), &paths)
            })
            .collect()
    }

    fn swap_title(&self) -> String {
        let Rules { default, strict } = self.rules;
        let names = [format!("default {default}"), format!("strict {strict}")];
        format!("{:<LABEL$} {:>23} {:>23}", "Before and after the swap", names[0], names[1])
    }

    fn swap_rows(&self) -> Vec<String> {
        let Report { discardable, rejectable, letters_by_version, .. } = self.report;
        let row = |label: &str, counts: &[u64; 2], ways: [&str; 2]| {
            let [before, after] = counts;
            let [early, late] = ways;
            let cell = |count: &u64, way: &str| format!("{} {way:<9}", grouped(*count));
            let row = format!("  {label:<27} {:>23} {:>23}", cell(before, early), cell(after, late));
            row.trim_end().to_owned()
        };
        let mut lines = vec![
            row("heartbeats", discardable, ["stored", "discarded"]),
            row("purchases without an amount", rejectable, ["stored", "rejected"]),
            row("all dead letters", letters_by_version, ["", ""]),
        ];
        if let Some(swap) = self.swap {
            lines.push(format!("  in force {} after the file was replaced, without a restart", short(swap)));
        }
        lines
    }

    fn numbers(&self) -> Vec<String> {
        let ended = self.report.produced;
        let rate = ended.saturating_mul(1_000) / u64::try_from(self.took.as_millis()).unwrap_or(1).max(1);
        let latency = match (self.measured.percentile(50), self.measured.percentile(99)) {
            (Some(p50), Some(p99)) => {
                format!("p50 {}, p99 {} (batching pause included)", short(p50), short(p99))
            }
            _ if self.measured.latencies.is_none() => {
                "not available (track_commit_timestamp is off)".to_owned()
            }
            _ => "not available (no rows)".to_owned(),
        };
        let written = self.report.rows + self.report.all_letters();
        let transactions = self.measured.transactions;
        let saved = written.saturating_sub(transactions).saturating_mul(1_000) / written.max(1);
        let transactions = format!(
            "{} for {} rows and dead letters: {}.{} % saved",
            grouped(transactions),
            grouped(written),
            saved / 10,
            saved % 10
        );
        let line = |label: &str, value: &str| format!("  {label:<27} {value}");
        vec![
            line("events a second", &format!("{}: the generator's pace, not the limit", grouped(rate))),
            line("XADD to commit", &latency),
            line("database transactions", &transactions),
            line("metrics", &self.settings.metrics_csv.display().to_string()),
            line("log of the service", &self.settings.log.display().to_string()),
        ]
    }

    /// Returns the figure that is shown for a check that holds, mostly how much it has looked at.
    fn checked(&self, check: Check) -> String {
        let report = self.report;
        match check {
            Check::Rows => grouped(report.rows),
            Check::Duplicates => grouped(report.copies),
            Check::Letters => grouped(report.all_letters()),
            Check::Invented => grouped(report.rows + report.all_letters()),
            Check::Swap | Check::Sums => grouped(report.produced),
            Check::Drained => grouped(0),
            Check::Ending => short(self.stop),
        }
    }

    fn checks(&self, terminal: &Terminal) -> Vec<String> {
        let mut lines = Vec::new();
        for check in Check::ALL {
            let Some(found) = self.report.discrepancies.get(&check) else {
                let mark = terminal.paint(Ink::Good, "✓");
                lines.push(format!("  {mark} {:<66} {:>9}", check.claim(), self.checked(check)));
                continue;
            };
            let mark = terminal.paint(Ink::Bad, "✗");
            let wrong = format!("{} wrong", grouped(found.count));
            lines.push(format!("  {mark} {:<64} {wrong:>11}", check.claim()));
            lines.extend(found.first.iter().take(SHOWN).map(|discrepancy| format!("      {discrepancy}")));
            let more = found.count.saturating_sub(u64::try_from(SHOWN).unwrap_or(0));
            if more > 0 {
                lines.push(format!("      and {} more", grouped(more)));
            }
        }
        lines.push(String::new());
        lines.push(match self.report.adds_up() {
            true => terminal.paint(Ink::Good, "The ledger adds up."),
            false => terminal.paint(Ink::Bad, "The ledger does not add up."),
        });
        lines
    }
}

/// Formats a label, a number and remarks, on as many lines as they need.
fn row(label: &str, number: &str, remarks: &[String]) -> String {
    let mut row = format!("  {label:<27} {number:>NUMBER$}   ");
    let margin = row.chars().count();
    let mut column = margin;
    for (i, remark) in remarks.iter().enumerate() {
        let comma = if i + 1 < remarks.len() { "," } else { "" };
        let length = remark.chars().count() + comma.len();
        if column > margin && column + 1 + length > PAGE {
            row.push_str(&format!("\n{:margin$}", ""));
            column = margin;
        } else if column > margin {
            row.push(' ');
            column += 1;
        }
        row.push_str(remark);
        row.push_str(comma);
        column += length;
    }
    row.truncate(row.trim_end().len());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_stay_on_the_page() {
        let remarks = ["the whole entry 71", "properties.amount 164", "user_id 97"].map(str::to_owned);
        assert_eq!(
            row("missing", "332", &remarks),
            "  missing                           332   the whole entry 71,\n                                          \
             properties.amount 164, user_id 97"
        );
        assert_eq!(row("none", "0", &[]), "  none                                0");
    }
}
