//! Reads the file with settings. No error repeats a line of it, which may hold a password.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map};
use figment::{Metadata, Profile, Provider};

use super::Problem;

pub(super) struct File {
    path: PathBuf,
    settings: Dict,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        let text = fs::read_to_string(path)
            .map_err(|source| Problem::UnreadableFile { file: path.to_owned(), source })?;
        // The error of figment's own provider would show the line.
        let settings = Toml::from_str(&text).map_err(|error| Problem::NoToml {
            file: path.to_owned(),
            place: error.span().map(|span| place(&text, &span)).unwrap_or_default(),
            message: error.message().trim().replace('\n', ", "),
        })?;
        Ok(Self { path: path.to_owned(), settings })
    }
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.settings.clone())]))
    }
}

/// Describes for people where a span of bytes begins.
fn place(text: &str, span: &Range<usize>) -> String {
    let before = text.get(..span.start).unwrap_or(text);
    let last = before.rsplit('\n').next().unwrap_or_default();
    format!(", line {}, column {}", before.matches('\n').count() + 1, last.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        for (start, found) in [
            (0, "line 1, column 1"),
            (4, "line 2, column 1"),
            (7, "line 2, column 3"),
            (99, "line 3, column 1"),
        ] {
            assert_eq!(place("abc\nbü\n", &(start..start)), format!(", {found}"), "{start}");
        }
    }
}
