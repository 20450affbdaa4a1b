//! Private servers: a Redis, and a PostgreSQL with TimescaleDB, as values that clean up after themselves.
//!
//! The demo, the tests and the benchmark run on them. Each server listens on a free port of 127.0.0.1, keeps its data in
//! a temporary folder, and is stopped and forgotten when its value is dropped. It cannot outlive this process either: the
//! kernel ends it when we die, however we die.
//!
//! Linux only (`/proc`, `setpriv`), and blocking: asynchronous callers use `spawn_blocking`.

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

/// The superuser's name, and the name of the database made for us.
const DATABASE: &str = "sluicegate";
const READY_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
const PORT_ATTEMPTS: usize = 5;

/// Why a private server is not there, or not in the state asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No program to start.
    #[error(
        "found no {what}, neither in {} nor on this system: run tests/setup/servers.sh of sluicegate's sources, \
         or install it (on Debian 13: apt-get install {package}), or set {variable} to a server that runs",
        .cache.display()
    )]
    Missing {
        /// The server looked for.
        what: &'static str,
        /// Where the set-up script would have put it.
        cache: PathBuf,
        /// Debian's package of it.
        package: &'static str,
        /// The variable that makes a private server unnecessary.
        variable: &'static str,
    },
    /// No Redis 7.0 to start.
    #[error("{} is missing: run tests/setup/servers.sh redis-7.0 of sluicegate's sources", .program.display())]
    MissingRedis70 {
        /// Where the set-up script would have put it.
        program: PathBuf,
    },
    /// PostgreSQL refuses to run as root, and there is nobody else.
    #[error(
        "servers do not run as root, and /etc/passwd has neither the user postgres nor nobody: add one of them"
    )]
    NoUser,
    /// The data folder, or a file in it.
    #[error("cannot use {}: {source}; TMPDIR sets another place", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot start {} by setpriv (of util-linux): {source}", .program.display())]
    Spawn {
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The start was cancelled.
    #[error("the start of the servers was given up")]
    GivenUp,
    /// No port of 127.0.0.1 could be had.
    #[error("found no free port on 127.0.0.1 between {FIRST_PORT} and {}", FIRST_PORT + PORTS)]
    NoPort,
    /// A program ended, or said nothing, where it was to become ready or to finish its work.
    #[error("{program} {problem}; the end of its log:\n{log}")]
    Failed {
        program: String,
        /// What it did instead.
        problem: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// Processes of the server are there after SIGKILL.
    #[error("{server} still has {processes} processes {}s after SIGKILL", STOP_DEADLINE.as_secs())]
    Immortal {
        server: &'static str,
        /// How many processes it has.
        processes: usize,
    },
    /// A signal could not be sent.
    #[error("cannot send a signal to {server}: {source}")]
    Signal {
        server: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What a server is started with besides the project's own choices.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The server's own settings by name, after ours and so stronger: `("maxmemory", "64mb")`.
    pub settings: Vec<(String, String)>,
}

/// A private Redis, with an append-only file as in production.
#[derive(Debug)]
pub struct Redis(ServerProcess);

impl Redis {
    /// Starts a new, empty server, and waits until it serves.
    pub fn start(options: &Options) -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new(), options)
    }

    /// The same with the oldest Redis that the service supports.
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

    /// `redis://127.0.0.1:PORT`, the same for the whole life of the value.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", Ipv4Addr::LOCALHOST, self.0.port)
    }
}

/// A private PostgreSQL with TimescaleDB preloaded. Whatever bears on durability and speed is at its default.
#[derive(Debug)]
pub struct Postgres(ServerProcess);

impl Postgres {
    /// Makes a new cluster with an empty database `sluicegate`, starts it, and waits until it serves.
    pub fn start(options: &Options) -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new(), options)
    }

    fn start_unless(given_up: &CancellationToken, options: &Options) -> Result<Self, Error> {
        let programs = programs::postgres()?;
        let folder = Folder::create("postgres")?;
        create_cluster(&programs, &folder, options, given_up)?;
        ServerProcess::start(Kind::Postgres, programs.join("postgres"), folder, options, given_up).map(Self)
    }

    /// The superuser's connection string to the database `sluicegate`, the same for the whole life of the value.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    /// The superuser's connection string to another database, such as `postgres`, to create and drop the first from.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{DATABASE}@{}:{}/{database}", Ipv4Addr::LOCALHOST, self.0.port)
    }
}

/// The life of a server is the same for both.
macro_rules! life {
    ($server:ty) => {
        impl $server {
            /// The port on 127.0.0.1.
            #[must_use]
            pub fn port(&self) -> u16 {
                self.0.port
            }

            /// Stops the server as an operator would, within 10 s, and keeps its data for [`Self::start_again`].
            pub fn stop(&mut self) -> Result<(), Error> {
                self.0.stop()
            }

            /// Ends every process of the server by SIGKILL, as a crash would, and keeps what it had on disk.
            pub fn kill(&mut self) -> Result<(), Error> {
                self.0.kill()
            }

            /// Starts on the same port and data, after [`Self::stop`], [`Self::kill`] or a crash, and waits until it
            /// serves. A server that still runs is killed first.
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

/// Both servers, or those that `REDIS_URL` and `POSTGRES_URL` name instead.
#[derive(Debug)]
pub struct Servers {
    /// None when `REDIS_URL` names a server that is not ours.
    pub redis: Option<Redis>,
    /// None when `POSTGRES_URL` names a server that is not ours.
    pub postgres: Option<Postgres>,
    /// The Redis to use.
    pub redis_url: String,
    /// The database to use.
    pub postgres_url: String,
}

impl Servers {
    /// Starts what the environment does not name.
    pub fn start() -> Result<Self, Error> {
        Self::start_unless(&CancellationToken::new())
    }

    /// The same, but once `given_up` is called it ends soon with [`Error::GivenUp`], and leaves nothing behind.
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

/// `initdb`, the settings, and the database, while no server runs yet.
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

    /// In the log after the server has bound its port and loaded its data.
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

    /// When the data is not wanted any more. PostgreSQL gives shared memory back on SIGQUIT, and not on SIGKILL.
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
    /// Redis takes them on the command line, PostgreSQL has them in its file.
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl ServerProcess {
    /// The first start: on another port if someone takes the one chosen before the server does.
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

    /// The log decides, not an answer on the port: that might be another's server.
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

    /// Sends the signal to the server's first process, which ends the others, and SIGKILL to what is left in the end.
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

    /// The first process comes first: it could start others meanwhile.
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

/// Below the ports that the kernel gives to clients. From among those, a client that tries again and again to reach a
/// stopped server would one day be connected to itself, and hold the port.
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
