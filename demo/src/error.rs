//! Defines the errors that leave the demo without a result.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::servers;
use sluicegate::stream;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value of an environment variable cannot be used.
    #[error("{name} is `{found}`; wanted {wanted}")]
    Setting {
        name: &'static str,
        found: String,
        /// Says which values are possible.
        wanted: String,
    },
    #[error(transparent)]
    Servers(#[from] servers::Error),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// A file of the demo's own cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        path: PathBuf,
        /// Holds the system's error.
        source: io::Error,
    },
    /// Two demos in one folder would write to the same files.
    #[error(
        "{} is in use: another demo runs in this folder; wait for it, or run in another folder",
        .0.display()
    )]
    Busy(PathBuf),
    /// A URL does not parse. It may hold a password, so the error does not repeat it.
    #[error("{0} does not read as a URL")]
    Url(&'static str),
    /// The demo's own work with Redis failed.
    #[error("redis: {what}: {source}")]
    Redis {
        what: &'static str,
        /// Holds the error of redis-rs.
        source: redis::RedisError,
    },
    /// The observer's work with Redis failed.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error("postgres: {what}: {source}")]
    Postgres { what: &'static str, source: sqlx::Error },
    #[error("{what} took longer than {}s", .after.as_secs())]
    TimedOut {
        /// Names the step that took too long.
        what: &'static str,
        after: Duration,
    },
    #[error("the service ended by itself with {status}; the end of its log, {}:\n{tail}", .log.display())]
    ServiceEnded {
        status: ExitStatus,
        log: PathBuf,
        /// Holds the last lines of the log.
        tail: String,
    },
    #[error(
        "{what} within {}s; the end of the service's log, {}:\n{tail}",
        .after.as_secs(), .log.display()
    )]
    ServiceStuck {
        /// Says what did not happen.
        what: String,
        after: Duration,
        log: PathBuf,
        tail: String,
    },
    #[error("cannot watch the service: {0}")]
    Watching(io::Error),
    /// A defect of the demo made a task panic.
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Runs the work, and fails if it takes longer than `after`.
pub(super) async fn within<T, E: Into<Error>>(
    what: &'static str,
    after: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Error::TimedOut { what, after }),
    }
}
