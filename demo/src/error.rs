//! What can go wrong with the demo itself. What goes wrong with the service is the ledger's affair.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::servers;
use sluicegate::stream;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that does not read.
    #[error("{name} is `{found}`; wanted {wanted}")]
    Setting {
        name: &'static str,
        found: String,
        /// What it may be.
        wanted: String,
    },
    #[error(transparent)]
    Servers(#[from] servers::Error),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// A file of the demo's own.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Two demos in one folder would write to the same files.
    #[error(
        "{} is in use: another demo runs in this folder; wait for it, or run in another folder",
        .0.display()
    )]
    Busy(PathBuf),
    /// A URL that does not read. It may hold a password, so it is not repeated.
    #[error("{0} does not read as a URL")]
    Url(&'static str),
    /// Redis, on the producer's side.
    #[error("redis: {what}: {source}")]
    Redis {
        what: &'static str,
        /// What redis-rs says.
        source: redis::RedisError,
    },
    /// Redis, on the observer's side.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL.
    #[error("postgres: {what}: {source}")]
    Postgres { what: &'static str, source: sqlx::Error },
    /// A time limit.
    #[error("{what} took longer than {}s", .after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        after: Duration,
    },
    /// The service ended by itself.
    #[error("the service ended by itself with {status}; the end of its log, {}:\n{tail}", .log.display())]
    ServiceEnded {
        status: ExitStatus,
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The service does not get on.
    #[error(
        "{what} within {}s; the end of the service's log, {}:\n{tail}",
        .after.as_secs(), .log.display()
    )]
    ServiceStuck {
        /// What did not happen.
        what: String,
        after: Duration,
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// The service cannot be waited for.
    #[error("cannot watch the service: {0}")]
    Watching(io::Error),
    /// A defect of the demo.
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Does not wait longer than `after`.
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
