//! The columns, as many as there is room for.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr as _;

use super::row::Row;
use crate::admin::MAX_OPEN_LETTERS;
use crate::text::{cut_to_columns, printable};

/// What is between two columns.
const GAP: &str = "  ";

struct Column {
    title: &'static str,
    cell: fn(&Row<'_>) -> String,
    /// Where there is no room for all, those with the greatest number go first, and those with 0 never.
    rank: u8,
    /// Numbers stand on the right.
    is_number: bool,
    /// Longer text may be cut to so much.
    least: usize,
}

const fn number(title: &'static str, rank: u8, cell: fn(&Row<'_>) -> String) -> Column {
    Column { title, cell, rank, is_number: true, least: usize::MAX }
}

const fn text(title: &'static str, rank: u8, least: usize, cell: fn(&Row<'_>) -> String) -> Column {
    Column { title, cell, rank, is_number: false, least }
}

const SERVICE: &str = "SERVICE";

const COLUMNS: [Column; 12] = [
    text("TENANT", 0, 16, |row| row.tenant.name.clone()),
    text(SERVICE, 4, 21, |row| row.service.to_owned()),
    text("STATE", 8, 8, |row| row.tenant.state.clone()),
    number("RATE/S", 2, |row| rate(row.tenant.recent_rate)),
    number("LAG", 1, |row| row.tenant.lag.map_or_else(unknown, count)),
    number("PENDING", 6, |row| row.tenant.pending.map_or_else(unknown, count)),
    number("OLDEST", 5, |row| row.tenant.oldest_age_seconds.map_or_else(unknown, time)),
    number("P50", 7, |row| row.tenant.commit_latency_p50_seconds.map_or_else(none, time)),
    number("P99", 3, |row| row.tenant.commit_latency_p99_seconds.map_or_else(none, time)),
    number("LETTERS", 9, |row| row.tenant.open_dead_letters.map_or_else(unknown, letters)),
    text("RULES", 10, 12, |row| row.tenant.rules_version.clone().unwrap_or_else(none)),
    text("WHAT IS WRONG", 0, 20, |row| row.wrong.clone()),
];

/// Rows as text in columns.
pub(super) struct Table {
    columns: Vec<(&'static Column, usize)>,
    cells: Vec<Vec<String>>,
}

impl Table {
    /// Chooses the columns that fit into this width. Without one, nothing is cut.
    pub(super) fn new(rows: &[Row<'_>], has_services: bool, width: Option<usize>) -> Self {
        let is_shown = |column: &&Column| has_services || column.title != SERVICE;
        let safe = |cell: String| printable(&cell).into_owned();
        let filled = COLUMNS.iter().filter(is_shown).map(|column| {
            let cells: Vec<String> = rows.iter().map(|row| safe((column.cell)(row))).collect();
            let natural = cells.iter().map(|cell| cell.width()).max().unwrap_or(0).max(column.title.len());
            (column, natural, cells)
        });
        let mut filled: Vec<(&Column, usize, Vec<String>)> = filled.collect();
        let least = |filled: &[(&Column, usize, Vec<String>)]| {
            let widths = filled.iter().map(|(column, natural, _)| column.least.min(*natural));
            widths.sum::<usize>() + GAP.len() * filled.len().saturating_sub(1)
        };
        let width = width.unwrap_or(usize::MAX);
        while least(&filled) > width {
            let last = filled.iter().enumerate().max_by_key(|(_, (column, ..))| column.rank);
            let Some((last, (Column { rank: 1.., .. }, ..))) = last else { break };
            filled.remove(last);
        }
        let mut spare = width.saturating_sub(least(&filled));
        let mut table = Self { columns: Vec::new(), cells: Vec::new() };
        for (column, natural, cells) in filled {
            let least = column.least.min(natural);
            let more = spare.min(natural - least);
            spare -= more;
            table.columns.push((column, least + more));
            table.cells.push(cells);
        }
        table
    }

    pub(super) fn title(&self) -> String {
        self.line(self.columns.iter().map(|(column, _)| column.title))
    }

    /// Returns the lines of the rows, in their order.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let count = self.cells.first().map_or(0, Vec::len);
        (0..count)
            .map(|at| self.line(self.cells.iter().filter_map(move |cells| cells.get(at)).map(String::as_str)))
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let cells = cells.zip(&self.columns).map(|(cell, (column, width))| {
            let cell = cut_to_columns(cell, *width);
            let room = " ".repeat(width.saturating_sub(cell.width()));
            if column.is_number { format!("{room}{cell}") } else { format!("{cell}{room}") }
        });
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// Writes all of the rows, as wide as they are.
pub(super) fn write(rows: &[Row<'_>], has_services: bool, out: &mut dyn Write) -> io::Result<()> {
    let table = Table::new(rows, has_services, None);
    writeln!(out, "{}", table.title())?;
    table.lines().try_for_each(|line| writeln!(out, "{line}"))
}

/// Stands for what Redis does not tell.
pub(super) fn unknown() -> String {
    "?".to_owned()
}

/// Stands for what there is not.
pub(super) fn none() -> String {
    "-".to_owned()
}

/// Writes how many dead letters are open, which the service counts up to a bound.
fn letters(open: u64) -> String {
    let more = if open >= u64::from(MAX_OPEN_LETTERS) { "+" } else { "" };
    format!("{}{more}", count(open))
}

/// Writes a count: exactly below a million, and then with three or four digits.
pub(super) fn count(count: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000_000, "P"), (1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M")];
    match UNITS.iter().find(|(unit, _)| count >= *unit) {
        None => count.to_string(),
        Some((unit, name)) => {
            let hundredths = count / (unit / 100);
            format!("{}.{:02}{name}", hundredths / 100, hundredths % 100)
        }
    }
}

pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

/// Writes a time with two or three digits.
pub(super) fn time(seconds: f64) -> String {
    match seconds {
        time if time <= 0.0 => "0 s".to_owned(),
        time if time < 0.01 => format!("{:.1} ms", time * 1e3),
        time if time < 1.0 => format!("{:.0} ms", time * 1e3),
        time if time < 10.0 => format!("{time:.1} s"),
        time if time < 120.0 => format!("{time:.0} s"),
        time if time < 7_200.0 => format!("{:.0} min", time / 60.0),
        time if time < 172_800.0 => format!("{:.0} h", time / 3_600.0),
        time => format!("{:.0} d", time / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (found, wanted) in [
            (count(0), "0"),
            (count(999_999), "999999"),
            (count(1_234_567), "1.23M"),
            (count(u64::MAX), "18446.74P"),
            (rate(0.04), "0.0"),
            (rate(9.95), "9.9"),
            (rate(123_456.7), "123457"),
            (time(0.0), "0 s"),
            (time(0.0012), "1.2 ms"),
            (time(0.25), "250 ms"),
            (time(7.77), "7.8 s"),
            (time(90.0), "90 s"),
            (time(3_600.0), "60 min"),
            (time(86_400.0), "24 h"),
            (time(1e9), "11574 d"),
        ] {
            assert_eq!(found, wanted);
        }
    }
}
