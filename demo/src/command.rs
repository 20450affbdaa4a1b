//! Implements `sluicegate-demo servers`: runs a command with private servers in its environment.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::public::public;
use super::servers::{self, Servers};
use super::signals::{Caught, Signals, start_servers, stop_servers};

/// Bounds how long the command may take to end after each signal, before a stronger one is sent.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Servers(#[from] servers::Error),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot run {}: {source}", .command.display())]
    Command {
        command: OsString,
        /// Says why the system did not run it.
        source: io::Error,
    },
}

impl Error {
    /// Returns what a shell returns: 127 when there is no such command, 126 when it cannot be run.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Command { .. } => 126,
            Self::Servers(_) | Self::Signals(_) => 1,
        }
    }
}

/// Starts the servers that the environment does not name, runs the command, stops the servers, and
/// returns the command's exit code.
pub async fn with_servers(command: &OsStr, arguments: &[OsString]) -> Result<u8, Error> {
    let mut signals = Signals::catch().map_err(Error::Signals)?;
    let servers = match start_servers(&mut signals).await? {
        Ok(servers) => servers,
        Err(caught) => return Ok(caught.exit_code()),
    };
    tell(&servers);
    let ended = match start(&servers, command, arguments) {
        Ok(child) => until_ended(child, &mut signals).await,
        Err(source) => Err(source),
    };
    stop_servers(servers).await;
    ended.map(exit_code).map_err(|source| Error::Command { command: command.to_owned(), source })
}

/// Writes to standard error, because standard output belongs to the command.
fn tell(servers: &Servers) {
    let ours = |is_private| if is_private { "private" } else { "as given" };
    let _ = writeln!(
        io::stderr(),
        "servers: {} ({}), {} ({})",
        public(&servers.redis_url),
        ours(servers.redis.is_some()),
        public(&servers.postgres_url),
        ours(servers.postgres.is_some()),
    );
}

fn start(servers: &Servers, command: &OsStr, arguments: &[OsString]) -> io::Result<Child> {
    Command::new(command)
        .args(arguments)
        .env("REDIS_URL", &servers.redis_url)
        .env("POSTGRES_URL", &servers.postgres_url)
        .kill_on_drop(true)
        .spawn()
}

/// Waits until the command ends. After a signal, a command that takes too long is ended.
async fn until_ended(mut child: Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    let caught = tokio::select! {
        status = child.wait() => return status,
        caught = signals.next() => caught,
    };
    // At Ctrl-C the terminal sends SIGINT to the command too. A second one may mean something else.
    if caught != Caught::Interrupt {
        send(&child, caught.signal());
    }
    for stronger in [Signal::TERM, Signal::KILL] {
        if let Ok(status) = timeout(STEP_TIMEOUT, child.wait()).await {
            return status;
        }
        send(&child, stronger);
    }
    child.wait().await
}

fn send(child: &Child, signal: Signal) {
    let process = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let _ = process.map(|process| kill_process(process, signal)); // it may have ended
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
