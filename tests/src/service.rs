//! Runs the real program, as a child process that never outlives its test.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::admin::Admin;
use crate::wait::until;

const LOG_LINES_SHOWN: usize = 60;

/// Holds the settings of a service to be started, and nothing of the test's own environment.
pub struct Launch {
    program: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

/// Holds a started service, and kills it when dropped. A failing test shows the end of its log.
pub struct Service {
    child: Child,
    log: PathBuf,
}

/// Holds what is left of a service that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Is `None` when a signal killed the service.
    pub code: Option<i32>,
    /// Holds all that the service wrote.
    pub log: String,
    /// Measures from the signal, or from the start, to the end.
    pub took: Duration,
}

/// Finds the program where cargo puts the release build, or where SLUICEGATE_BIN says.
pub(crate) fn program() -> PathBuf {
    let program = std::env::var_os("SLUICEGATE_BIN")
        .map_or_else(|| crate::guests::program("sluicegate"), PathBuf::from);
    assert!(program.is_file(), "{} is missing; run: make build", program.display());
    program
}

impl Launch {
    pub fn new(folder: &Path) -> Self {
        // Each service of a test has a log of its own.
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let log = folder.join(format!("service-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let program = program();
        // Services of several tests run at the same time.
        let variables = BTreeMap::from([("ADMIN_LISTEN".to_owned(), "127.0.0.1:0".to_owned())]);
        Self { program, folder: folder.to_owned(), log, arguments: Vec::new(), variables }
    }

    /// Uses another build of the program, with the failpoints that `FAILPOINTS` sets.
    #[must_use]
    pub fn with_failpoints(mut self, points: &str) -> Self {
        self.program = crate::guests::program("sluicegate-failpoints");
        assert!(self.program.is_file(), "{} is missing; run: make failpoints", self.program.display());
        self.set("FAILPOINTS", points)
    }

    /// Adds an argument to `sluicegate run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Leaves a variable unset that the scene has set.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Starts the service, and waits until it has found both servers.
    pub fn start(self) -> Service {
        let service = self.start_unready();
        service.until_logged(&["running redis="]);
        service
    }

    /// Starts the service without waiting.
    pub fn start_unready(self) -> Service {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        // The kernel ends the service with the thread that started it: the test's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .arg("run")
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("setpriv (of util-linux) starts the service");
        Service { child, log: self.log }
    }

    /// Returns another of the program's commands, with the same settings, to be run or started.
    pub fn tool(self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.program).args(arguments);
        command.current_dir(&self.folder).env_clear().envs(&self.variables).stdin(Stdio::null());
        command
    }

    /// Starts the service, and waits until it ends by itself.
    pub fn run_to_end(self) -> Ended {
        let start = Instant::now();
        self.start_unready().until_ended(start, Duration::from_secs(60))
    }
}

impl Service {
    /// Returns all that the service wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the end of the log, for people.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Waits for a line that contains all of these parts, and returns the first one.
    pub fn until_logged(&self, parts: &[&str]) -> String {
        until(&format!("a line of the log with {parts:?}"), || {
            let log = self.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned).ok_or_else(|| "none".to_owned())
        })
    }

    /// Returns the admin API, at the port that the log tells.
    pub fn admin(&self) -> Admin {
        let line = self.until_logged(&["serving metrics and the admin API"]);
        let address = line.split_once("admin=").and_then(|(_, rest)| rest.split(' ').next());
        Admin::new(address.and_then(|address| address.parse().ok()).expect("an address"))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Returns the most memory that was resident at any time.
    pub fn memory_peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the service is there to be signalled");
    }

    /// Returns whether the service has ended, by itself or by a signal.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Returns the memory that is resident now.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the bytes of the files in memory (memfd) that the service has open, each once.
    pub fn held_in_memory_files(&self) -> u64 {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("linux").flatten();
        let in_memory = files.filter(|file| {
            fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:"))
        });
        let found = in_memory.filter_map(|file| fs::metadata(file.path()).ok());
        let once: BTreeMap<u64, u64> = found.map(|found| (found.ino(), found.blocks() * 512)).collect();
        once.values().sum()
    }

    /// Waits until the process that compiles a component has begun to, and returns it.
    pub fn until_compiler_works(&self) -> Pid {
        until("a process that compiles", || {
            let children = self.children();
            let compiles = |child: &&str| {
                let command = fs::read_to_string(format!("/proc/{child}/cmdline"));
                command.is_ok_and(|command| command.contains("\0compile\0"))
            };
            let child = children.split_whitespace().find(compiles).ok_or("none")?;
            // Before that the process may not have limited itself yet.
            match spent(child, 11) {
                spent if spent >= Duration::from_millis(50) => {
                    child.parse().ok().and_then(Pid::from_raw).ok_or_else(|| child.to_owned())
                }
                spent => Err(format!("{child}, at work for {spent:?}")),
            }
        })
    }

    /// Returns the processes in which guests run now.
    pub fn workers(&self) -> Vec<Pid> {
        let is_worker = |pid: &&str| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            command.is_ok_and(|command| command.contains("\0worker\0"))
        };
        let children = self.children();
        let workers = children.split_whitespace().filter(is_worker);
        workers.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    fn children(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("linux");
        let children = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")));
        children.map(Result::unwrap_or_default).collect()
    }

    /// Returns the processor time of the processes that the service has started and waited for.
    pub fn children_spent(&self) -> Duration {
        spent(&self.child.id().to_string(), 13)
    }

    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("linux");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a size");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }

    /// Sends a signal, and waits until the service has ended: within 5 s, of which 3 are for what is in flight.
    pub fn end(self, signal: Signal) -> Ended {
        let start = Instant::now();
        self.signal(signal);
        self.until_ended(start, Duration::from_secs(5))
    }

    /// Sends a signal, and waits up to a minute until the service has ended.
    pub fn end_with(self, signal: Signal) -> Ended {
        let start = Instant::now();
        self.signal(signal);
        self.until_ended(start, Duration::from_secs(60))
    }

    /// Ends the service as an operator would, and expects it to end well.
    pub fn stop(self) -> Ended {
        let ended = self.end(Signal::TERM);
        assert_eq!(ended.code, Some(0), "exit code after SIGTERM; the log:\n{}", ended.log);
        ended
    }

    /// Ends the service as a crash would.
    pub fn crash(self) {
        drop(self);
    }

    fn until_ended(mut self, start: Instant, deadline: Duration) -> Ended {
        loop {
            if let Some(status) = self.child.try_wait().expect("the service is our child") {
                return Ended { code: status.code(), log: self.log(), took: start.elapsed() };
            }
            assert!(start.elapsed() <= deadline, "the service has not ended after {deadline:?}");
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the end of {}:\n{}", self.log.display(), tail(&self.log()));
        }
    }
}

/// Returns processor time of a process that is there, by proc(5). Fields 14 and 15 are its own
/// time, 16 and 17 that of its children that have ended. Field 2 is the name, in brackets;
/// `skipped` fields between it and the two are skipped.
fn spent(process: &str, skipped: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let (_, after_name) = stat.rsplit_once(") ").unwrap_or_default();
    // The ticks are hundredths of a second.
    let ticks =
        after_name.split(' ').skip(skipped).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Returns the last lines, each cut to a readable length.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(LOG_LINES_SHOWN));
    shown.map(|line| format!("  {}\n", line.chars().take(400).collect::<String>())).collect()
}

#[derive(Clone, Debug)]
pub struct Metrics(BTreeMap<String, String>);

impl Metrics {
    /// Returns the last line, if there is any.
    pub fn last(log: &str) -> Option<Self> {
        Self::all(log).pop()
    }

    /// Returns all lines, in the order of the log.
    pub fn all(log: &str) -> Vec<Self> {
        Self::all_with("", log)
    }

    /// Returns all lines of this tenant, where there are several.
    pub fn all_of(tenant: &str, log: &str) -> Vec<Self> {
        Self::all_with(&format!("{{tenant={tenant}}}"), log)
    }

    fn all_with(part: &str, log: &str) -> Vec<Self> {
        log.lines()
            .filter(|line| line.contains(part))
            .filter_map(|line| line.split_once(" metrics state="))
            .map(|(_, rest)| Self::read(rest))
            .collect()
    }

    /// Reads the state's value, which may contain spaces, and then pairs without any.
    fn read(line: &str) -> Self {
        let (state, rest) =
            line.strip_prefix('"').and_then(|line| line.split_once('"')).expect("a quoted state");
        let pairs = rest.split(' ').filter_map(|part| part.split_once('='));
        let pairs = pairs.chain([("state", state)]).map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(pairs.collect())
    }

    pub fn get(&self, name: &str) -> u64 {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name} is no number in {self:?}"))
    }

    /// Returns what the service was doing, or waiting for.
    pub fn state(&self) -> &str {
        &self.0["state"]
    }

    /// Returns stored, duplicate, rejected, discarded, dead-lettered. They must add up to what was
    /// processed, and with what is in flight to what was delivered.
    pub fn tally(&self) -> [u64; 5] {
        let tally =
            ["stored", "duplicate", "rejected", "discarded", "dead_lettered"].map(|name| self.get(name));
        assert_eq!(tally.iter().sum::<u64>(), self.get("processed"), "the five ways add up: {self:?}");
        assert_eq!(
            self.get("processed") + self.get("in_flight"),
            self.get("delivered"),
            "nothing that was delivered is forgotten: {self:?}"
        );
        tally
    }
}

impl Ended {
    /// Returns the last metrics line. A service that ends well has written one.
    pub fn metrics(&self) -> Metrics {
        Metrics::last(&self.log)
            .unwrap_or_else(|| panic!("no metrics line; the log ends:\n{}", tail(&self.log)))
    }
}
