//! Provides a private Redis and a PostgreSQL with TimescaleDB, as values that clean up.
//!
//! The demo, the tests and the benchmark run on them. Each server listens on a free port of
//! 127.0.0.1, has its data in a temporary folder, and is stopped and forgotten when its value is
//! dropped. The kernel ends it when this process dies, however that happens.
//!
//! It needs Linux (`/proc`, `setpriv`) and blocks: asynchronous callers use `spawn_blocking`.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

pub(super) mod child;
mod folder;
mod programs;

use child::{spawn, wait};
use folder::{Folder, processes_in};

/// Names the superuser, and also the database that is made for the caller.
const DATABASE: &str = "sluicegate";
const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
const PORT_ATTEMPTS: usize = 5;

/// Says why a private server is not there, or not in the state asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "found no {what}, neither in {} nor on this system: run tests/setup/servers.sh of sluicegate's sources, \
         or install it (on Debian 13: apt-get install {package}), or set {variable} to a server that runs",
        .cache.display()
    )]
    Missing {
        /// Names the server that was looked for.
        what: &'static str,
        /// Names the cache folder, where the set-up script would have put the server.
        cache: PathBuf,
        /// Names Debian's package of the server.
        package: &'static str,
        /// Names the variable that makes a private server unnecessary.
        variable: &'static str,
    },
    #[error("{} is missing: run tests/setup/servers.sh redis-7.0 of sluicegate's sources", .program.display())]
    MissingRedis70 {
        /// Says where the set-up script would have put the program.
        program: PathBuf,
    },
    /// PostgreSQL refuses to run as root, and there is no other user.
    #[error(
        "servers do not run as root, and /etc/passwd has neither the user postgres nor nobody: add one of them"
    )]
    NoUser,
    #[error("cannot use {}: {source}; TMPDIR sets another place", .path.display())]
    Folder {
        path: PathBuf,
        /// Holds the system's error.
        source: io::Error,
    },
    #[error("cannot start {} by setpriv (of util-linux): {source}", .program.display())]
    Spawn {
        program: PathBuf,
        /// Holds the system's error.
        source: io::Error,
    },
    #[error("the start of the servers was given up")]
    GivenUp,
    #[error("found no free port on 127.0.0.1 between {FIRST_PORT} and {}", FIRST_PORT + PORTS)]
    NoPort,
    /// A program ended, or was silent, when it should have become ready or finished its work.
    #[error("{program} {problem}; the end of its log:\n{log}")]
    Failed {
        program: String,
        /// Says what the program did instead.
        problem: String,
        /// Holds the last lines that the program wrote.
        log: String,
    },
    #[error("{server} still has {processes} processes {}s after SIGKILL", STOP_DEADLINE.as_secs())]
    Immortal {
        server: &'static str,
        /// Counts the processes that are left.
        processes: usize,
    },
    #[error("cannot send a signal to {server}: {source}")]
    Signal {
        server: &'static str,
        /// Holds the system's error.
        source: io::Error,
    },
}

/// Holds what a server is started with besides the project's own choices.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overrides the project's settings of the server by name: `("maxmemory", "64mb")`.
    pub settings: Vec<(String, String)>,
}

/// Runs a private Redis, with an append-only file as in production.
#[derive(Debug)]
pub struct Redis(ServerProcess);

impl Redis {
    /// Starts a new, empty server, and waits until it serves.
    pub fn start(options: &Options) -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new(), options)
    }

    /// Does the same with the oldest Redis that the service supports.
    pub fn start_7_0(options: &Options) -> Result<Self, Error> {
        Self::start_program(programs::redis_7_0()?, &CancellationToken::new(), options)
    }

    fn start_unless(given_up: &CancellationToken, options: &Options) -> Result<Self, Error> {
        Self::start_program(programs::redis_server()?, given_up, options)
    }

    fn start_program(
        program: PathBuf,
        given_up: &CancellationToken,
        options: &Options,
    ) -> Result<Self, Error> {
        let folder = Folder::create("redis")?;
        ServerProcess::start(Kind::Redis, program, folder, options, given_up).map(Self)
    }

    /// Returns `redis://127.0.0.1:PORT`, which stays the same for the whole life of the value.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", Ipv4Addr::LOCALHOST, self.0.port)
    }
}

/// Runs a private PostgreSQL with TimescaleDB, with default settings for durability and speed.
#[derive(Debug)]
pub struct Postgres(ServerProcess);

impl Postgres {
    /// Starts a new cluster with an empty database `sluicegate`, and waits until it serves.
    pub fn start(options: &Options) -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new(), options)
    }

    fn start_unless(given_up: &CancellationToken, options: &Options) -> Result<Self, Error> {
        let programs = programs::postgres()?;
        let folder = Folder::create("postgres")?;
        create_cluster(&programs, &folder, options, given_up)?;
        ServerProcess::start(Kind::Postgres, programs.join("postgres"), folder, options, given_up).map(Self)
    }

    /// Returns the superuser's URL of the database `sluicegate`, which never changes.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// Returns the superuser's URL of another database, such as `postgres`, from which the first
    /// can be created and dropped.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{DATABASE}@{}:{}/{database}", Ipv4Addr::LOCALHOST, self.0.port)
    }
}

/// Implements the life of a server, which is the same for both.
macro_rules! life {
    ($server:ty) => {
        impl $server {
            /// Returns the port on 127.0.0.1.
            #[must_use]
            pub fn port(&self) -> u16 {
                self.0.port
            }

            /// Stops it as an operator would, within 10 s, and keeps its data for `start_again`.
            pub fn stop(&mut self) -> Result<(), Error> {
                self.0.stop()
            }

            /// Kills every process of the server, as a crash would, and keeps what it had on disk.
            pub fn kill(&mut self) -> Result<(), Error> {
                self.0.kill()
            }

            /// Starts on the same port and data, after [`Self::stop`], [`Self::kill`] or a crash,
            /// and waits until it serves. A server that still runs is killed first.
            pub fn start_again(&mut self) -> Result<(), Error> {
                self.0.kill()?;
                self.0.launch(&CancellationToken::new())
            }

            /// Freezes the server: its connections stay open, and nothing answers on them.
            pub fn pause(&self) -> Result<(), Error> {
                self.0.signal_all(Signal::STOP)
            }

            /// Ends a [`Self::pause`].
            pub fn resume(&self) -> Result<(), Error> {
                self.0.signal_all(Signal::CONT)
            }
        }
    };
}
life!(Redis);
life!(Postgres);

/// Holds both servers, or the URLs of those that `REDIS_URL` and `POSTGRES_URL` name instead.
#[derive(Debug)]
pub struct Servers {
    /// Is `None` when `REDIS_URL` names a given server.
    pub redis: Option<Redis>,
    /// Is `None` when `POSTGRES_URL` names a given server.
    pub postgres: Option<Postgres>,
    pub redis_url: String,
    pub postgres_url: String,
}

impl Servers {
    /// Starts the servers that the environment does not name.
    pub fn start() -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new())
    }

    /// Does the same, but soon ends with [`Error::GivenUp`] if cancelled, leaving nothing behind.
    pub fn start_unless(given_up: &CancellationToken) -> Result<Self, Error> {
        let (redis, redis_url) = match given("REDIS_URL") {
            Some(url) => (None, url),
            None => {
                let redis = Redis::start_unless(given_up, &Options::default())?;
                let url = redis.url();
                (Some(redis), url)
            }
        };
        let (postgres, postgres_url) = match given("POSTGRES_URL") {
            Some(url) => (None, url),
            None => {
                let postgres = Postgres::start_unless(given_up, &Options::default())?;
                let url = postgres.url();
                (Some(postgres), url)
            }
        };
        Ok(Self { redis, postgres, redis_url, postgres_url })
    }
}

fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Runs `initdb`, makes the database and writes the settings, while no server runs yet.
fn create_cluster(
    programs: &Path,
    folder: &Folder,
    options: &Options,
    given_up: &CancellationToken,
) -> Result<(), Error> {
    let data = folder.data();
    let initdb = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-U", DATABASE, "-D"];
    let mut arguments: Vec<&OsStr> = initdb.iter().map(OsStr::new).collect();
    arguments.push(data.as_os_str());
    folder.run(&programs.join("initdb"), &arguments, Stdio::null(), given_up)?;

    let statement = folder.path.join("create.sql");
    let at = |source| Error::Folder { path: statement.clone(), source };
    fs::write(&statement, format!("CREATE DATABASE {DATABASE}\n")).map_err(at)?;
    let input = File::open(&statement).map_err(at)?;
    let arguments = [OsStr::new("--single"), OsStr::new("-D"), data.as_os_str(), OsStr::new("postgres")];
    folder.run(&programs.join("postgres"), &arguments, input.into(), given_up)?;

    let path = data.join("postgresql.conf");
    let at = |source| Error::Folder { path: path.clone(), source };
    let mut file = OpenOptions::new().append(true).open(&path).map_err(at)?;
    let ours = [
        ("shared_preload_libraries", "timescaledb"),
        ("timescaledb.telemetry_level", "off"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("track_commit_timestamp", "on"),
        ("max_connections", "200"),
    ];
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in ours.into_iter().chain(given) {
        writeln!(file, "{name} = '{}'", value.replace('\'', "''")).map_err(at)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Redis,
    Postgres,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }

    /// Returns what the log says after the server has bound its port and loaded its data.
    fn ready(self) -> &'static str {
        match self {
            Self::Redis => "Ready to accept connections",
            Self::Postgres => "database system is ready to accept connections",
        }
    }

    fn stop_signal(self) -> Signal {
        match self {
            Self::Redis => Signal::TERM,
            Self::Postgres => Signal::INT, // "fast": ends sessions, writes a checkpoint
        }
    }

    /// Returns the signal for a server whose data is not wanted any more. PostgreSQL gives shared
    /// memory back on SIGQUIT, and not on SIGKILL.
    fn discard_signal(self) -> (Signal, &'static str) {
        match self {
            Self::Redis => (Signal::KILL, "KILL"),
            Self::Postgres => (Signal::QUIT, "QUIT"),
        }
    }
}

#[derive(Debug)]
struct ServerProcess {
    kind: Kind,
    program: PathBuf,
    folder: Folder,
    port: u16,
    /// Holds the settings. Redis takes them on the command line; PostgreSQL has them in its file.
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl ServerProcess {
    /// Starts the server for the first time, on another port if someone takes the chosen one first.
    fn start(
        kind: Kind,
        program: PathBuf,
        folder: Folder,
        options: &Options,
        given_up: &CancellationToken,
    ) -> Result<Self, Error> {
        let settings = options.settings.clone();
        let mut server = Self { kind, program, folder, port: 0, settings, child: None };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port()?;
            match server.launch(given_up) {
                Ok(()) => return Ok(server),
                Err(Error::Failed { log, .. }) if log.contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoPort)
    }

    fn launch(&mut self, given_up: &CancellationToken) -> Result<(), Error> {
        let offset = self.folder.log_size();
        let mut command = self.folder.command(&self.program, self.kind.discard_signal().1)?;
        let port = self.port.to_string();
        match self.kind {
            Kind::Redis => {
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
                command
                    .args(["--appendonly", "yes", "--appendfsync", "everysec", "--dir"])
                    .arg(self.folder.data());
                for (name, value) in &self.settings {
                    command.arg(format!("--{name}")).arg(value);
                }
            }
            Kind::Postgres => {
                command.args(["-p", &port, "-D"]).arg(self.folder.data());
            }
        }
        let mut child = spawn(command, &self.program)?;
        let result = self.until_ready(&mut child, offset, given_up);
        self.child = Some(child);
        if result.is_err() {
            self.kill()?;
        }
        result
    }

    /// Waits until the log says ready. An answer on the port might come from another's server.
    fn until_ready(&self, child: &mut Child, offset: u64, given_up: &CancellationToken) -> Result<(), Error> {
        let deadline = Instant::now() + READY_DEADLINE;
        let failed = |problem| self.folder.failed(self.kind.name(), problem, offset);
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Err(failed(format!("ended with {status} before it was ready"))),
                Err(error) => return Err(failed(format!("could not be waited for: {error}"))),
            }
            if self.folder.log_since(offset).contains(self.kind.ready()) {
                return Ok(());
            }
            if given_up.is_cancelled() {
                return Err(Error::GivenUp);
            }
            sleep(POLL);
        }
        Err(failed(format!("was not ready after {}s", READY_DEADLINE.as_secs())))
    }

    fn stop(&mut self) -> Result<(), Error> {
        self.end(self.kind.stop_signal())
    }

    fn kill(&mut self) -> Result<(), Error> {
        self.end(Signal::KILL)
    }

    /// Sends the signal to the first process, which ends the others, and kills what is left.
    fn end(&mut self, signal: Signal) -> Result<(), Error> {
        let server = self.kind.name();
        if let Some(mut child) = self.child.take() {
            if matches!(child.try_wait(), Ok(None)) {
                let sent = kill_process(Pid::from_child(&child), signal);
                sent.map_err(|error| Error::Signal { server, source: error.into() })?;
            }
            if signal != Signal::KILL {
                self.signal_all(Signal::CONT)?; // it may be paused, and then deaf to any other signal
                let _ = wait(&mut child, STOP_DEADLINE, &CancellationToken::new());
            }
            let _ = child.kill().and_then(|()| child.wait());
        }
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            let left = processes_in(&self.folder.path);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Immortal { server, processes: left.len() });
            }
            self.signal_all(Signal::KILL)?;
            sleep(POLL);
        }
    }

    /// Signals the first process before the others, because it could start more meanwhile.
    fn signal_all(&self, signal: Signal) -> Result<(), Error> {
        let first = self.child.as_ref().map(Pid::from_child);
        for process in first.into_iter().chain(processes_in(&self.folder.path)) {
            match kill_process(process, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(Error::Signal { server: self.kind.name(), source: error.into() }),
            }
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.end(self.kind.discard_signal().0);
    }
}

/// Lies below the ports that the kernel gives to clients. On one of those, a client that keeps
/// trying to reach a stopped server would one day be connected to itself, and hold the port.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

fn free_port() -> Result<u16, Error> {
    let free = |_| {
        let drawn = RandomState::new().hash_one(()) % u64::from(PORTS);
        let port = FIRST_PORT + u16::try_from(drawn).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    };
    (0..100).find_map(free).ok_or(Error::NoPort)
}
