//! Writes to standard output, which no other module does, and formats numbers for it.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::time::Duration;

/// Writes to standard output, with colours where a person reads it.
#[derive(Debug)]
pub(super) struct Terminal {
    out: Stdout,
    is_terminal: bool,
    has_colours: bool,
    /// Is true after [`Self::begin`], until the line is ended.
    is_within_line: bool,
}

/// Says how a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Bold,
    Dim,
    Good,
    Bad,
    News,
}

impl Terminal {
    pub(super) fn stdout() -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        let is_set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            out,
            is_terminal,
            has_colours: is_terminal && !is_dumb && !is_set("NO_COLOR"),
            is_within_line: false,
        }
    }

    pub(super) fn line(&mut self, text: impl Display) -> io::Result<()> {
        self.is_within_line = false;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes the beginning of a line that [`Self::line`] ends.
    pub(super) fn begin(&mut self, text: impl Display) -> io::Result<()> {
        self.is_within_line = true;
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Ends a line that [`Self::begin`] began and nothing ended, and ignores an error.
    pub(super) fn give_up(&mut self) {
        if self.is_within_line {
            let _ = self.line("failed");
        }
    }

    /// Writes a line of its own, in place of the `^C` that a terminal shows.
    pub(super) fn break_in(&mut self, text: impl Display) -> io::Result<()> {
        match (self.is_terminal, self.is_within_line) {
            (true, _) => self.line(format_args!("\r\x1b[K{text}")),
            (false, true) => self.line(format_args!("\n{text}")),
            (false, false) => self.line(text),
        }
    }

    pub(super) fn paint(&self, ink: Ink, text: impl Display) -> String {
        let code = match ink {
            _ if !self.has_colours => return text.to_string(),
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Good => 32,
            Ink::Bad => 31,
            Ink::News => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Formats a number like `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a time like `12 ms` or `1.2 s`.
pub(super) fn short(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ ..1_000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
