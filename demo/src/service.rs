//! Runs the real service as a child process, with settings by environment and a log file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Error;
use super::place::Workdir;
use super::servers::child::spawn;
use super::settings::Settings;
use sluicegate::batch::Tally;

/// Names the group that the service reads as.
pub(super) const GROUP: &str = "analytics-consumers";
/// Bounds how long the service may take from SIGTERM to its end.
pub(super) const MAX_STOP: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 64 << 10;

/// Holds the log, to which nothing writes at first.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    file: File,
}

/// Holds a process that runs, and kills it when dropped.
#[derive(Debug)]
pub(super) struct Service {
    child: Child,
    log: Log,
    ended: Option<ExitStatus>,
}

impl Log {
    /// Makes an empty log, locked against another demo in the same folder.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let at = |source| Error::File { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(at)?;
        }
        // The file is not emptied before it is locked.
        let file =
            OpenOptions::new().read(true).append(true).create(true).truncate(false).open(path).map_err(at)?;
        match file.try_lock() {
            Ok(()) => file.set_len(0).map_err(at)?,
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Busy(path.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(at(source)),
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Returns the last lines but those of invalid entries, of which the demo makes many.
    fn tail(&self) -> String {
        let text = end_of(&self.path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" entry not stored ")).collect();
        let last = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
        last.map(|line| format!("  {line}\n")).collect::<String>().trim_end().to_owned()
    }
}

/// Reads the end of a file, which may be large.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Service {
    /// Starts `sluicegate run`, the program beside this one, which ends when this process does.
    pub(super) fn start(log: Log, settings: &Settings, place: &Workdir, guest: &Path) -> Result<Self, Error> {
        let at = |source| Error::File { path: PathBuf::from("/proc/self/exe"), source };
        let program = std::env::current_exe().map_err(at)?.with_file_name("sluicegate");
        let at = |source| Error::File { path: log.path.clone(), source };
        let output = log.file.try_clone().map_err(at)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&program)
            .arg("run")
            .env("REDIS_URL", place.redis_url())
            .env("POSTGRES_URL", &place.postgres_url)
            .env("STREAM_NAME", &place.stream)
            .env("CONSUMER_GROUP", GROUP)
            .env("GUEST", guest)
            .env("METRICS_CSV", &settings.metrics_csv)
            .env("ADMIN_LISTEN", "off")
            .env("LOG_FORMAT", "text")
            .env("RUST_LOG", "info")
            .process_group(0) // Ctrl-C is for us: we stop it in order
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(at)?)
            .stderr(output);
        if std::env::var_os("MONITORING_INTERVAL").is_none() {
            command.env("MONITORING_INTERVAL", "1s");
        }
        let child = spawn(command, &program)?;
        Ok(Self { child, log, ended: None })
    }

    /// Returns an error once the service has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(Error::ServiceEnded { status, log: self.log.path.clone(), tail: self.log.tail() })
            }
        }
    }

    /// Makes the error that something did not happen in time.
    pub(super) fn stuck(&self, what: impl Into<String>, after: Duration) -> Error {
        Error::ServiceStuck { what: what.into(), after, log: self.log.path.clone(), tail: self.log.tail() }
    }

    /// Sends SIGTERM, and in the end SIGKILL. Returns how the service ended and how long it took.
    pub(super) async fn stop(&mut self) -> Result<(ExitStatus, Duration), Error> {
        let begin = Instant::now();
        if self.try_wait()?.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok((status, begin.elapsed()));
            }
            // The limit is a little beyond, so as to tell slow from stuck.
            if begin.elapsed() > MAX_STOP + Duration::from_secs(1) {
                self.child.kill().map_err(Error::Watching)?;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Returns the counters of the last metrics line in the log.
    pub(super) fn last_counters(&self) -> Result<Option<Tally>, Error> {
        let at = |source| Error::File { path: self.log.path.clone(), source };
        let file = BufReader::new(File::open(&self.log.path).map_err(at)?);
        let mut last = None;
        for line in file.lines() {
            last = counters(&line.map_err(at)?).or(last);
        }
        Ok(last)
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>, Error> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().map_err(Error::Watching)?;
        }
        Ok(self.ended)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

/// Parses a line like `… metrics processed=9 stored=8 duplicate=1 …`.
fn counters(line: &str) -> Option<Tally> {
    let (_, values) = line.split_once(" metrics ")?;
    let value = |name: &str| {
        let mut pairs = values.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    Some(Tally {
        stored: value("stored")?,
        duplicate: value("duplicate")?,
        rejected: value("rejected")?,
        discarded: value("discarded")?,
        dead_lettered: value("dead_lettered")?,
    })
}

/// Returns `events_processed` and `lag` of the last line of the metrics file.
pub(super) fn last_metrics(path: &Path) -> Result<Option<(String, String)>, Error> {
    let text = end_of(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let last = text.lines().next_back().unwrap_or_default();
    let mut columns = last.split(',').skip(1).map(str::to_owned);
    Ok(columns.next().zip(columns.next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_log() {
        let line = "2026-01-18T22:17:34.827Z  INFO metrics processed=15 stored=1 duplicate=2 rejected=3 \
                    discarded=4 dead_lettered=5 lag=0 pending=0 batches=7 rate=13.59";
        let tally = Tally { stored: 1, duplicate: 2, rejected: 3, discarded: 4, dead_lettered: 5 };
        assert_eq!(counters(line), Some(tally));
        assert_eq!(counters("2026-01-18T22:17:34.827Z  INFO running stored=1"), None);
    }

    #[test]
    fn two_demos_do_not_share_a_log() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/demo.log");
        let first = Log::create(&path).expect("the first");
        assert!(matches!(Log::create(&path), Err(Error::Busy(_))));
        drop(first);
        Log::create(&path).expect("the next");
    }
}
