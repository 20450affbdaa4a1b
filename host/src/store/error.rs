//! The errors of PostgreSQL, and what is to be done about each.

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::WRITING;
use crate::retry::Retryable;
use crate::text::printable;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings give no URL.
    #[error(transparent)]
    Settings(#[from] crate::config::Error),
    /// The URL cannot be parsed. It may hold a password, so it is not repeated.
    #[error("POSTGRES_URL does not read; wanted postgres://user:password@host:port/database")]
    Url,
    /// The server is older than what the service is tested with.
    #[error("postgres has version {found}; wanted {wanted} or later")]
    ServerTooOld {
        /// The version that the server reports.
        found: String,
        wanted: u32,
    },
    /// The server has no TimescaleDB.
    #[error(
        "the extension timescaledb is not available on this postgres; install it and add it to \
         shared_preload_libraries, or set ALLOW_PLAIN_TABLE=true to run on a plain table"
    )]
    ExtensionMissing,
    /// TimescaleDB is installed but not loaded by the server.
    #[error(
        "the extension timescaledb is installed but not loaded; set shared_preload_libraries = 'timescaledb' \
         in postgresql.conf and restart postgres, or set ALLOW_PLAIN_TABLE=true to run on a plain table ({})", plain(.0)
    )]
    ExtensionNotLoaded(sqlx::Error),
    /// The role may not make what the service needs.
    #[error("the role may not {what} ({}); let an administrator run: {remedy}", plain(source))]
    NoRights {
        what: &'static str,
        /// What the administrator is to run.
        remedy: &'static str,
        source: sqlx::Error,
    },
    /// The table exists, but in another form.
    #[error("the table {table} has another form: {found}; wanted {wanted}")]
    WrongTable {
        table: String,
        /// The table's columns and its key.
        found: String,
        /// The form that the migration makes.
        wanted: String,
    },
    /// A table of another program has the name of one of this program.
    #[error("the table {table} is there already, and is not of this program; {OWN_SCHEMA}")]
    NotOurs { table: &'static str },
    #[error("migrating: {}", plain_migrate(.0))]
    Migrate(#[from] MigrateError),
    /// No answer came: the server, or the network to it, hangs.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        what: &'static str,
        /// How long the service has waited.
        after: std::time::Duration,
    },
    /// The server has ended the session, and no word of it arrived.
    #[error("the session with the database was lost without a word")]
    SessionLost,
    /// A defect of the service.
    #[error("asking the rules panicked: {0}")]
    Panicked(tokio::task::JoinError),
    /// The process is ending.
    #[error("the pool of connections is closed")]
    Closed,
    /// The dead letters of one batch have more fields than an array can count.
    #[error("the dead letters of one batch have more than 2^31 fields")]
    TooManyFields,
    /// Violations did not become JSON, which text always does.
    #[error("writing violations: {0}")]
    Violations(serde_json::Error),
    /// A row of the commit log cannot be read or written.
    #[error("the table decided, or commits, holds a row that is not ours: {0}; delete it")]
    BatchRecord(postcard::Error),
    /// A row of the outbox cannot be read or written.
    #[error("the table replay_outbox holds a row that is not ours: {0}; delete it")]
    Outbox(postcard::Error),
    /// A row of the tables of rules cannot be read.
    #[error("a table of rules holds {0}, which is not ours; delete the row, and deploy again")]
    RulesTable(&'static str),
    /// A row of the table of jobs cannot be read.
    #[error("the table dead_letter_jobs holds {0}, which is not ours; delete the row")]
    JobsTable(&'static str),
    /// The work on a job must not go on, and nothing more of it commits.
    #[error("the job was cancelled, or another replica has taken it over")]
    LeaseLost,
    /// The batch is more than one transaction may have.
    #[error(
        "the batch is more than one transaction is to have, in bytes or in weeks, each of which may be a chunk"
    )]
    TooMuchAtOnce,
    /// Rows were inserted and are not there.
    #[error(
        "the table {table} has dropped the row: a trigger gave NULL before the insert, perhaps (rows: {rows})"
    )]
    Dropped { rows: u64, table: String },
    #[error("{}", plain(.0))]
    Statement(#[from] sqlx::Error),
}

/// Returns what PostgreSQL says, without what sqlx adds. It can repeat values of a row.
fn plain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
            let hint = match code.as_deref() {
                Some(DUPLICATE_STATEMENT | NO_SUCH_STATEMENT) => Some(
                    "a pooler seems to share sessions: set max_prepared_statements of PgBouncer to 200 or more, or \
                     pool_mode to session",
                ),
                _ => hint,
            };
            let hint = hint.map(|hint| format!("; {}", printable(hint))).unwrap_or_default();
            format!(
                "{}{hint} (SQLSTATE {})",
                printable(error.message()),
                code.as_deref().unwrap_or("unknown")
            )
        }
        sqlx::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// The advice if another program has tables of the same names.
const OWN_SCHEMA: &str = "give the service a schema of its own: CREATE SCHEMA sluicegate, and \
                          ALTER ROLE <role> SET search_path = sluicegate, public";

fn plain_migrate(error: &MigrateError) -> String {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
            format!(
                "the table _sqlx_migrations has a migration {version} that is not of this program, as it is; {OWN_SCHEMA}"
            )
        }
        MigrateError::Execute(error) => plain(error),
        MigrateError::ExecuteMigration(error, version) => format!("migration {version}: {}", plain(error)),
        other => other.to_string(),
    }
}

/// The SQLSTATE that a fenced run gets: see `migrations/0006_fencing.sql` and `0008_decided.sql`.
const FENCED: &str = "SGF01";

/// The SQLSTATEs duplicate_prepared_statement and invalid_sql_statement_name.
const DUPLICATE_STATEMENT: &str = "42P05";
const NO_SUCH_STATEMENT: &str = "26000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Tries the same again later: the server is away or busy, or the outcome is unknown.
    Retry,
    /// Tries the same again later, unless other rows can be written: then this one is at fault.
    RetryUnlessRow,
    /// Writes less at once: the server lacks room for the rows, or for the locks of the chunks.
    Split,
    /// Finds the row that is at fault.
    BlameRow,
    /// Stops like [`Self::Stop`], unless other rows can be written: then this one is at fault.
    StopUnlessRow,
    /// Stops, because somebody must change the settings, the schema or the rights.
    Stop,
}

impl Error {
    /// Returns whether the server or the network is at fault, and with it the other connections.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Statement(sqlx::Error::Database(error)) => {
                !is_of_statement(error.as_ref()) || error.message().contains("cached plan")
            }
            Self::Statement(error) => remedy(error) == Remedy::Retry,
            _ => false,
        }
    }

    /// Returns whether somebody else held or wanted the same rows. It may go well the next time.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("40") || code == "55P03")
            }
            _ => false,
        }
    }

    /// Returns whether the writing of a batch ended because it took the server or the service too
    /// long: somebody held a lock, or it was too much at once.
    pub fn is_too_slow(&self) -> bool {
        matches!(self, Self::TimedOut { what, .. } if *what == WRITING)
    }

    /// Returns whether the statement was cancelled, mostly by its time-out.
    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == "57014"),
            _ => false,
        }
    }

    /// Returns whether the server rejects the credentials.
    pub fn is_of_credentials(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                !is_of_statement(error.as_ref()) && error.code().is_some_and(|code| code.starts_with("28"))
            }
            _ => false,
        }
    }

    /// Returns whether a row got as far as the check of its keys and constraints.
    pub(super) fn is_of_keys(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("23") && code != "23502")
            }
            _ => false,
        }
    }

    /// Returns whether another run has taken over what this one had in flight and must not commit.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == FENCED),
            _ => false,
        }
    }

    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Statement(error) => remedy(error),
            Self::Migrate(MigrateError::Execute(error)) => remedy(error),
            Self::Migrate(MigrateError::ExecuteMigration(error, _)) => remedy(error),
            Self::TimedOut { .. } | Self::SessionLost => Remedy::Retry,
            Self::TooMuchAtOnce => Remedy::Split,
            Self::Dropped { .. } => Remedy::BlameRow,
            _ => Remedy::Stop,
        }
    }
}

impl Retryable for Error {
    /// Returns whether the same cannot go well later, if it is not about rows.
    fn is_permanent(&self) -> bool {
        !matches!(self.remedy(), Remedy::Retry | Remedy::RetryUnlessRow | Remedy::Split)
    }
}

fn remedy(error: &sqlx::Error) -> Remedy {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match is_of_statement(error.as_ref()) {
                // The plan is older than a change of the table. sqlx keeps it with the connection.
                true if code == "0A000" && error.message().contains("cached plan") => Remedy::Retry,
                true => by_sqlstate(&code),
                false => of_session(&code),
            }
        }
        // The connection broke, or none was to be had.
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Remedy::Retry,
        _ => Remedy::Stop,
    }
}

/// Returns whether the error ended a statement, and not the session with it. A function in the
/// database can raise no more than that.
fn is_of_statement(error: &dyn sqlx::error::DatabaseError) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_none_or(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Decides about an error that ended a session, or let none begin.
fn of_session(code: &str) -> Remedy {
    match by_sqlstate(code) {
        Remedy::RetryUnlessRow | Remedy::Split => Remedy::Retry,
        Remedy::StopUnlessRow | Remedy::BlameRow => Remedy::Stop,
        remedy => remedy,
    }
}

/// Decides by the five characters of PostgreSQL's Appendix A.
pub(super) fn by_sqlstate(code: &str) -> Remedy {
    match code {
        // A prepared statement is another's or is lost: a pooler changes the session each time.
        FENCED | DUPLICATE_STATEMENT | NO_SUCH_STATEMENT => Remedy::Stop,
        // The disk is full, or there are too many connections, whoever asks.
        "53100" | "53300" => Remedy::Retry,
        // The server lacks memory, or shared memory for locks, which would not pass by itself.
        "53200" => Remedy::Split,
        // Somebody holds a lock, or this process was stopped for too long in a transaction.
        "55P03" | "25P03" => Remedy::Retry,
        // It is duplicate in spite of DO NOTHING: a race in a compressed chunk (timescaledb#5448).
        "23505" => Remedy::RetryUnlessRow,
        // The server is read-only: it is the old primary after a failover.
        "25006" => Remedy::RetryUnlessRow,
        // The server is starting, or the database is being copied or dropped.
        "55000" | "55006" => Remedy::RetryUnlessRow,
        // The service leaves none of its columns empty: somebody gave the table another one.
        "23502" => Remedy::StopUnlessRow,
        _ => match code.get(..2).unwrap_or_default() {
            // The server shuts down, has crashed or takes no connections now.
            "57" if code.starts_with("57P") => Remedy::Retry,
            // Connection, rollback, resources, operator's intervention, system, internal.
            "08" | "40" | "53" | "57" | "58" | "XX" => Remedy::RetryUnlessRow,
            // Cardinality, data, integrity, check option, limits (nesting), a trigger's exception.
            "21" | "22" | "23" | "44" | "54" | "P0" => Remedy::BlameRow,
            _ => Remedy::StopUnlessRow,
        },
    }
}

/// Returns whether the role may not do this.
pub(super) fn is_denied(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42501")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_have_remedies() {
        for (code, wanted) in [
            ("08006", Remedy::RetryUnlessRow), // connection_failure
            ("40001", Remedy::RetryUnlessRow), // serialization_failure
            ("40P01", Remedy::RetryUnlessRow), // deadlock_detected
            ("53200", Remedy::Split),          // out_of_memory
            ("53400", Remedy::RetryUnlessRow), // configuration_limit_exceeded: of what may be decompressed
            ("57014", Remedy::RetryUnlessRow), // query_canceled, before its time was over
            ("23505", Remedy::RetryUnlessRow), // unique_violation
            ("25006", Remedy::RetryUnlessRow), // read_only_sql_transaction
            ("XX000", Remedy::RetryUnlessRow), // internal_error
            ("53100", Remedy::Retry),          // disk_full
            ("53300", Remedy::Retry),          // too_many_connections
            ("55P03", Remedy::Retry),          // lock_not_available
            ("57P01", Remedy::Retry),          // admin_shutdown
            ("25P03", Remedy::Retry),          // idle_in_transaction_session_timeout
            ("57P03", Remedy::Retry),          // cannot_connect_now
            ("22P05", Remedy::BlameRow),       // untranslatable_character
            ("22008", Remedy::BlameRow),       // datetime_field_overflow
            ("23514", Remedy::BlameRow),       // check_violation
            ("54001", Remedy::BlameRow),       // statement_too_complex
            ("0A000", Remedy::StopUnlessRow),  // feature_not_supported: a frozen chunk
            ("23502", Remedy::StopUnlessRow),  // not_null_violation
            ("42P01", Remedy::StopUnlessRow),  // undefined_table
            ("42501", Remedy::StopUnlessRow),  // insufficient_privilege
            ("HV000", Remedy::StopUnlessRow),  // fdw_error
            (FENCED, Remedy::Stop),
            ("", Remedy::StopUnlessRow),
        ] {
            assert_eq!(by_sqlstate(code), wanted, "{code}");
        }
    }

    /// An error that ends a session is never a row's fault.
    #[test]
    fn what_ends_a_session_blames_no_row() {
        for (code, wanted) in [
            ("57P01", Remedy::Retry), // admin_shutdown
            ("53300", Remedy::Retry), // too_many_connections
            ("XX000", Remedy::Retry), // internal_error
            ("28P01", Remedy::Stop),  // invalid_password
            ("3D000", Remedy::Stop),  // invalid_catalog_name
        ] {
            assert_eq!(of_session(code), wanted, "{code}");
        }
    }
}
