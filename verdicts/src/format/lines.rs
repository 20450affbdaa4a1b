//! Reads lines of bounded length, and knows where each one stands.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use super::{EntryLine, MAX_LINE_BYTES};
use crate::Entry;

/// Why a file of JSON lines cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file} cannot be read: {source}")]
    Unreadable { file: String, source: io::Error },
    /// What a line holds is not what is wanted.
    #[error("{file}:{line}: {message}")]
    Line { file: String, line: u64, message: String },
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts all lines of the file, from 1.
    pub number: u64,
    /// The text without the end of the line.
    pub text: String,
}

/// Reads a file line by line, and keeps one of them at a time.
pub struct Lines<R> {
    input: R,
    file: String,
    number: u64,
}

impl Lines<BufReader<File>> {
    /// Opens a file, which errors name as it is given here.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        match File::open(path) {
            Ok(opened) => Ok(Self::new(file, BufReader::new(opened))),
            Err(source) => Err(Error::Unreadable { file, source }),
        }
    }
}

impl<R: BufRead + 'static> Lines<R> {
    /// Forgets what is read.
    pub fn boxed(self) -> Lines<Box<dyn BufRead>> {
        Lines { input: Box::new(self.input), file: self.file, number: self.number }
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads what errors call `file`.
    pub fn new(file: String, input: R) -> Self {
        Self { input, file, number: 0 }
    }

    /// Returns the next line that is neither empty nor begins with `//`.
    pub fn next_line(&mut self) -> Result<Option<Line>, Error> {
        loop {
            let Some(text) = self.next_of_all()? else { return Ok(None) };
            let shown = text.trim_ascii();
            if !shown.is_empty() && !shown.starts_with("//") {
                return Ok(Some(Line { number: self.number, text }));
            }
        }
    }

    /// Returns the entry of the next line that holds one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        match EntryLine::read(&line) {
            Ok(read) => Ok(Some(read.entry)),
            Err(message) => Err(self.error(line.number, message)),
        }
    }

    /// Returns the next line, whatever it holds.
    fn next_of_all(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        let mut most = (&mut self.input).take(MAX_LINE_BYTES + 1);
        let unreadable = |source| Error::Unreadable { file: self.file.clone(), source };
        if most.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let is_whole =
            bytes.ends_with(b"\n") || u64::try_from(bytes.len()).is_ok_and(|read| read <= MAX_LINE_BYTES);
        if !is_whole {
            return Err(self.error(
                self.number,
                format!("the line has more than {MAX_LINE_BYTES} bytes; wanted one JSON object in each line"),
            ));
        }
        if bytes.ends_with(b"\n") {
            bytes.pop();
        }
        // Some editors begin a file with it.
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let message = format!("it is not UTF-8 from byte {} on; wanted JSON, with bytes that are no text as {{\"base64\":\"…\"}}", error.utf8_error().valid_up_to());
            self.error(self.number, message)
        })
    }

    /// Returns the error that a line of this file holds something else than what is wanted.
    pub fn error(&self, line: u64, message: String) -> Error {
        Error::Line { file: self.file.clone(), line, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Lines<&[u8]> {
        Lines::new("events.jsonl".to_owned(), bytes)
    }

    #[test]
    fn empty_lines_and_comments_are_counted_and_left_out() {
        let mut lines = lines("\u{feff}{}\n\n  // none\r\n{\"a\":1}\r\n{}".as_bytes());
        let mut found = Vec::new();
        while let Some(line) = lines.next_line().expect("lines") {
            found.push((line.number, line.text.trim_end().to_owned()));
        }
        assert_eq!(found, [(1, "{}".to_owned()), (4, "{\"a\":1}".to_owned()), (5, "{}".to_owned())]);
    }

    #[test]
    fn what_is_no_line_of_text_is_refused_with_its_place() {
        let error = lines(b"{}\n\xff\n").next_line().and_then(|_| lines(b"\n\xff\n").next_line());
        let error = error.expect_err("not UTF-8").to_string();
        assert!(error.starts_with("events.jsonl:2: it is not UTF-8 from byte 0 on"), "{error}");
        let endless = BufReader::new(io::repeat(b'x'));
        let error = Lines::new("-".to_owned(), endless).next_line().expect_err("an endless line").to_string();
        assert!(error.starts_with("-:1: the line has more than 67108864 bytes"), "{error}");
    }
}
