//! Reads variables of the environment, and behind them those of `.env` in the working directory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::env::VarError;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::settings::{SETTINGS, setting};
use super::{Problem, range};

/// The file, as many tools have it. It is looked for in the working directory only.
pub(super) const FILE: &str = ".env";

/// The largest number of bytes in the file. A larger one holds no settings.
const MAX_BYTES: u64 = 1 << 20;

const ENVIRONMENT: &str = "the environment";

/// All variables that concern the service.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// The settings that are not empty, by their names in the manual.
    pub(super) set: BTreeMap<&'static str, String>,
    /// The names that are nearly those of settings.
    pub(super) misspelt: Vec<Misspelt>,
}

/// A variable that has no effect, and is nearly one that has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} in {place} is not a setting, and has no effect; did you mean {meant}?")]
pub struct Misspelt {
    /// The name as it was found.
    pub found: String,
    /// Where the variable stands: in `.env` or in the environment.
    pub place: String,
    /// The setting that may be meant.
    pub meant: &'static str,
}

impl Environment {
    pub(super) fn read(file: &Path) -> Result<Self, Problem> {
        let mut variables = Self::default();
        for (name, value) in in_file(file)? {
            variables.add(&name, value, FILE);
        }
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str() {
                // A value that is not UTF-8 is reported below, if it is a setting's.
                variables.add(name, value.into_string().unwrap_or_default(), ENVIRONMENT);
            }
        }
        for setting in SETTINGS.iter() {
            if let Err(VarError::NotUnicode(_)) = std::env::var(setting.name) {
                return Err(range(setting.name, "no UTF-8", "text"));
            }
        }
        Ok(variables)
    }

    /// Adds a variable, which replaces those before it. An empty one counts as unset.
    fn add(&mut self, name: &str, value: String, place: &str) {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
            if !value.is_empty() {
                self.set.insert(setting.name, value);
            }
        } else if let Some(meant) = nearest(name) {
            let misspelt = Misspelt { found: name.to_owned(), place: place.to_owned(), meant };
            self.misspelt.retain(|other| other.found != misspelt.found);
            self.misspelt.push(misspelt);
        }
    }
}

/// Reads a file's variables, if it exists. No error repeats a value, which may be a password.
fn in_file(path: &Path) -> Result<Vec<(String, String)>, Problem> {
    let Some(bytes) =
        read(path).map_err(|source| Problem::UnreadableFile { file: path.to_owned(), source })?
    else {
        return Ok(Vec::new());
    };
    let no_form = |line: usize| Problem::NoEnvFile { file: path.to_owned(), line };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        no_form(before.iter().filter(|byte| **byte == b'\n').count() + 1)
    })?;
    let lines_read = Cell::new(0);
    let lines = Lines { rest: text.trim_start_matches('\u{feff}').as_bytes(), count: &lines_read };
    // Its error holds the line, but not the line's number.
    dotenvy::from_read_iter(lines).map(|variable| variable.map_err(|_| no_form(lines_read.get()))).collect()
}

/// Returns `None` if there is no file. A pipe would block, and a large file is there by mistake.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(io::Error::other(format!("wanted a regular file of {MAX_BYTES} bytes at most")));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Returns a line at a time and counts them, so that it is known how far a reader is.
struct Lines<'a> {
    rest: &'a [u8],
    count: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (part, rest) = self.rest.split_at(end.min(buffer.len()));
        let (to, _) = buffer.split_at_mut(part.len());
        to.copy_from_slice(part);
        self.rest = rest;
        if part.ends_with(b"\n") || (rest.is_empty() && !part.is_empty()) {
            self.count.set(self.count.get() + 1);
        }
        Ok(part.len())
    }
}

/// Returns the setting whose name is nearly this: a letter or two are wrong, or an underscore.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    if setting(&upper).is_some_and(|setting| setting.name == name) {
        return None;
    }
    // Values have units here, and names have none.
    let units = ["_MS", "_S", "_DAYS", "_BYTES"];
    let upper = units.iter().find_map(|unit| upper.strip_suffix(unit)).unwrap_or(&upper);
    let joined = |name: &str| name.replace(['_', '-', '.'], "");
    let distance = |setting: &'static str| match joined(setting) == joined(upper) {
        true => 0,
        false => strsim::damerau_levenshtein(setting, upper),
    };
    let allowed = |setting: &str| if setting.len() < 8 { 1 } else { 2 };
    let near = SETTINGS.iter().map(|setting| (distance(setting.name), setting.name));
    near.filter(|(distance, setting)| *distance <= allowed(setting)).min().map(|(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_are_known() {
        for (name, meant) in [
            ("GEUST", "GUEST"),
            ("GUEST_TIMELIMIT", "GUEST_TIME_LIMIT"),
            ("GUEST_TIME_LIMIT_MS", "GUEST_TIME_LIMIT"),
            ("GUEST_MEMORY_BYTES", "GUEST_MEMORY"),
            ("REDIS_ULR", "REDIS_URL"),
            ("REDIS_URI", "REDIS_URL"),
            ("POSTGRESURL", "POSTGRES_URL"),
            ("POSTGRESQL_URL", "POSTGRES_URL"),
            ("BATCHSIZE", "BATCH_SIZE"),
            ("batch_size", "BATCH_SIZE"),
            ("CONSUMER_GRUOP", "CONSUMER_GROUP"),
            ("METRICS_CVS", "METRICS_CSV"),
        ] {
            assert_eq!(nearest(name), Some(meant), "{name}");
        }
    }

    #[test]
    fn names_of_others_are_left_alone() {
        for name in [
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "PWD",
            "SHLVL",
            "TERM",
            "HOSTNAME",
            "TZ",
            "RUST_LOG",
            "NO_COLOR",
            "POSTGRES_USER",
            "POSTGRES_PASSWORD",
            "POSTGRES_DB",
            "POSTGRES_HOST",
            "POSTGRES_PORT",
            "PGHOST",
            "PGUSER",
            "REDIS_HOST",
            "REDIS_PORT",
            "REDIS_PASSWORD",
            "REDIS_DB",
            "DATABASE_URL",
            "LOG_LEVEL",
            "DEMO_SECONDS",
            "DEMO_SEED",
            "SSL_CERT_FILE",
            "FAILPOINTS",
            "STREAM_URL",
            "BLOCK_SIZE",
            "QUEUE_NAME",
            "KUBERNETES_SERVICE_HOST",
            "REDIS_SERVICE_HOST",
            "REDIS_PORT_6379_TCP",
            "CUSTOMER_NAME",
            "GUEST_NAME",
        ] {
            assert_eq!(nearest(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_is_read_and_no_value_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(FILE);
        assert!(in_file(&file).expect("none is fine").is_empty());
        fs::write(&file, "# a comment\nexport BATCH_SIZE=7\nSTREAM_NAME=\"a b\"\nOTHER='x'\n\n")
            .expect("written");
        let wanted = [("BATCH_SIZE", "7"), ("STREAM_NAME", "a b"), ("OTHER", "x")];
        assert_eq!(
            in_file(&file).expect("in order"),
            wanted.map(|(name, value)| (name.into(), value.into()))
        );
        for (bytes, place) in [
            (&b"A=1\nPOSTGRES_URL=hunter2 hunter2\n"[..], ", line 2: "),
            (b"A=1\n\nREDIS_URL=\"hunter2\n", ", line 3: "),
            (b"# hunter2 hunter2\nA=1\nREDIS_URL=hunter2 hunter2", ", line 3: "),
            (b"export A=1\n# x y\nB=\"1\n2\"\nx\nC=1\n", ", line 5: "),
            (b"A=1\nhunter2\n", ", line 2: "),
            (b"A=1\nB=hunter2\xff\n", ", line 2: "),
        ] {
            fs::write(&file, bytes).expect("written");
            let error = in_file(&file).expect_err("no such form").to_string();
            assert!(
                error.contains(place) && error.contains("wanted") && !error.contains("hunter2"),
                "{error}"
            );
        }
        fs::write(&file, "\u{feff}A=1\n").expect("written");
        assert_eq!(in_file(&file).expect("in order"), [("A".into(), "1".into())]);
        fs::write(&file, vec![b'#'; (1 << 20) + 1]).expect("written");
        assert!(in_file(&file).expect_err("too large").to_string().contains("1048576 bytes at most"));
        fs::remove_file(&file).expect("removed");
        let fifo = rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0);
        fifo.expect("a pipe");
        assert!(in_file(&file).expect_err("a pipe").to_string().contains("wanted a regular file"));
        fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).expect("a folder");
        assert!(in_file(&file).expect_err("a folder").to_string().contains("cannot be read"));
    }
}
