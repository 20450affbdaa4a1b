//! Goldens: entries with what must come of them, in files of JSON lines.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;
use serde_json::value::RawValue;

use super::expect;
use crate::author::Error;
use sluicegate_verdicts::Entry;
use sluicegate_verdicts::format::{EntryLine, Line, Lines};

/// The most bytes of all goldens of a project. They are kept in memory, and judged five times.
const MAX_BYTES: u64 = 256 << 20;

/// A file with goldens.
pub(in crate::author) struct GoldenFile {
    pub(in crate::author) path: PathBuf,
    pub(in crate::author) goldens: Vec<Golden>,
}

/// An entry with what must come of it.
pub(in crate::author) struct Golden {
    pub(super) line: Line,
    pub(super) name: Option<String>,
    pub(in crate::author) entry: Entry,
    pub(super) wanted: Wanted,
}

/// What must come of an entry. What is not named is not compared.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) outcome: Option<Value>,
    pub(super) publish: Option<Value>,
    pub(super) metrics: Option<Value>,
}

/// Reads all goldens in this folder, in the order of the files' names. There is at least one.
pub(in crate::author) fn read_all(folder: &Path) -> Result<Vec<GoldenFile>, Error> {
    let none = |found: String| Error::NoGoldens { folder: folder.to_owned(), found };
    let unreadable = |error: io::Error| none(error.to_string());
    let mut paths = Vec::new();
    for found in fs::read_dir(folder).map_err(unreadable)? {
        let path = found.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    let bytes: u64 = paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum();
    if bytes > MAX_BYTES {
        return Err(Error::TooManyGoldens { folder: folder.to_owned(), bytes, most: MAX_BYTES });
    }
    let files = paths.into_iter().map(GoldenFile::read).collect::<Result<Vec<_>, _>>()?;
    match files.iter().map(|file| file.goldens.len()).sum::<usize>() {
        0 => Err(none(format!("{} files named *.jsonl", files.len()))),
        _ => Ok(files),
    }
}

impl GoldenFile {
    pub(super) fn file_name(&self) -> Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    fn read(path: PathBuf) -> Result<Self, Error> {
        let mut lines = Lines::open(&path)?;
        let mut goldens = Vec::new();
        while let Some(line) = lines.next_line()? {
            let number = line.number;
            goldens.push(Golden::read(line).map_err(|message| lines.error(number, message))?);
        }
        Ok(Self { path, goldens })
    }
}

impl Golden {
    fn read(line: Line) -> Result<Self, String> {
        let EntryLine { entry, name, expect, publish, metrics } = EntryLine::read(&line)?;
        let read = |raw: Option<&RawValue>, check: fn(&mut Value) -> Result<(), String>| {
            raw.map(|raw| {
                let mut value = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
                check(&mut value).map(|()| value)
            })
            .transpose()
        };
        let wanted = Wanted {
            outcome: read(expect, expect::check_outcome)?,
            publish: read(publish, expect::check_publications)?,
            metrics: read(metrics, expect::check_samples)?,
        };
        Ok(Self { name, entry, wanted, line })
    }
}
