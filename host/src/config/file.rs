//! Reads the file with settings. No error repeats a line of it, which may hold a password.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::settings::setting;
use super::{Problem, TENANTS};

pub(super) struct File {
    path: PathBuf,
    settings: Dict,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        let text = fs::read_to_string(path)
            .map_err(|source| Problem::UnreadableFile { file: path.to_owned(), source })?;
        // The error of figment's own provider would show the line.
        let mut settings: Dict = Toml::from_str(&text).map_err(|error| Problem::NoToml {
            file: path.to_owned(),
            place: error.span().map(|span| place(&text, &span)).unwrap_or_default(),
            message: error.message().trim().replace('\n', ", "),
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        resolve(&mut settings, folder);
        if let Some(Value::Dict(_, tenants)) = settings.get_mut(TENANTS) {
            for tenant in tenants.values_mut() {
                if let Value::Dict(_, settings) = tenant {
                    resolve(settings, folder);
                }
            }
        }
        Ok(Self { path: path.to_owned(), settings })
    }
}

/// Makes paths of the file's own folder of those that are relative to it. One that is empty is left to the checks.
fn resolve(settings: &mut Dict, folder: &Path) {
    for (name, value) in settings {
        if let Value::String(_, path) = value
            && !path.is_empty()
            && setting(name).is_some_and(|setting| setting.is_path)
        {
            *path = folder.join(&*path).display().to_string();
        }
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
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("settings.toml");
        let text = "stream_name = 'a'\nmetrics_csv = 'b'\nguest = '/c'\n[tenants.d]\nguest = 'e/f'\nstream_name = 'g'";
        fs::write(&path, text).expect("written");
        let settings = File::read(&path).expect("it is TOML").settings;
        let of = |name: &str| settings.get(name).and_then(Value::as_str).map(PathBuf::from);
        assert_eq!(of("stream_name"), Some("a".into()));
        assert_eq!(of("metrics_csv"), Some(folder.path().join("b")));
        assert_eq!(of("guest"), Some("/c".into()));
        let tenant =
            settings[TENANTS].as_dict().and_then(|tenants| tenants["d"].as_dict()).expect("a tenant");
        assert_eq!(tenant["guest"].as_str().map(PathBuf::from), Some(folder.path().join("e/f")));
        assert_eq!(tenant["stream_name"].as_str(), Some("g"));
    }

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
