//! What goes wrong with PostgreSQL, and what is to be done about it.

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::WRITING;
use crate::text::printable;

/// What goes wrong with PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No URL.
    #[error(transparent)]
    Settings(#[from] crate::config::Error),
    /// The URL does not read. It may hold a password, so it is not repeated.
    #[error("POSTGRES_URL does not read; wanted postgres://user:password@host:port/database")]
    Url,
    /// The server is older than what the service is tested with.
    #[error("postgres has version {found}; wanted {wanted} or later")]
    ServerTooOld {
        /// As the server says it.
        found: String,
        wanted: u32,
    },
    /// No TimescaleDB on this server.
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
        /// SQL for the administrator.
        remedy: &'static str,
        /// What PostgreSQL says.
        source: sqlx::Error,
    },
    /// The table is there, but it is another.
    #[error("the table {table} has another form: {found}; wanted {wanted}")]
    WrongTable {
        table: String,
        /// Its columns and its key.
        found: String,
        /// As the migration makes it.
        wanted: &'static str,
    },
    /// A table of another program has the name of one of ours.
    #[error("the table {table} is there already, and is not of this program; {OWN_SCHEMA}")]
    NotOurs { table: &'static str },
    /// A migration failed.
    #[error("migrating: {}", plain_migrate(.0))]
    Migrate(#[from] MigrateError),
    /// No answer: the server, or the network to it, hangs.
    #[error("no answer to {what} within {after:?}")]
    TimedOut {
        what: &'static str,
        /// How long was waited.
        after: std::time::Duration,
    },
    /// The server has ended the session, and no word of it arrived.
    #[error("the session with the database was lost without a word")]
    SessionLost,
    /// The process is ending.
    #[error("the pool of connections is closed")]
    Closed,
    /// More fields in one batch's dead letters than an array can count.
    #[error("the dead letters of one batch have more than 2^31 fields")]
    TooManyFields,
    /// Violations that do not become JSON, which text always does.
    #[error("writing violations: {0}")]
    Violations(serde_json::Error),
    /// A row of the record of commits that does not read, or cannot be written.
    #[error("the table decided, or commits, holds a row that is not ours: {0}; delete it")]
    BatchRecord(postcard::Error),
    /// The same of what replays have published.
    #[error("the table replay_outbox holds a row that is not ours: {0}; delete it")]
    Outbox(postcard::Error),
    /// More than one transaction is to have.
    #[error(
        "the batch is more than one transaction is to have, in bytes or in weeks, each of which may be a chunk"
    )]
    TooMuchAtOnce,
    /// Rows that were inserted and are not there.
    #[error(
        "the table {table} has dropped the row: a trigger gave NULL before the insert, perhaps (rows: {rows})"
    )]
    Dropped { rows: u64, table: String },
    /// A statement failed, or the connection did.
    #[error("{}", plain(.0))]
    Statement(#[from] sqlx::Error),
}

/// What PostgreSQL says, without the decoration of sqlx. It can repeat values of a row.
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

/// What helps where another program has tables of the same names.
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

/// The SQLSTATE that the trigger of the table `commits` raises: see `migrations/0006_fencing.sql`.
const FENCED: &str = "SGF01";

/// The SQLSTATEs duplicate_prepared_statement and invalid_sql_statement_name.
const DUPLICATE_STATEMENT: &str = "42P05";
const NO_SUCH_STATEMENT: &str = "26000";

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The same again, later: the server is away, busy, or the outcome is unknown.
    Retry,
    /// The same again, later, unless other rows can be written: then this one is at fault.
    RetryUnlessRow,
    /// Less at once: the server has no room for so many rows, or for the locks of so many chunks.
    Split,
    /// A row is at fault: find it.
    BlameRow,
    /// Somebody must change something, unless other rows can be written: then this one is at fault.
    StopUnlessRow,
    /// Somebody must change something: the settings, the schema, the rights.
    Stop,
}

impl Error {
    /// Whether the server or the network is at fault, and other connections with this one.
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

    /// Whether somebody else held a row for too long, or wanted ours: it may go well the next time.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("40") || code == "55P03")
            }
            _ => false,
        }
    }

    /// Whether the server, or our patience, has ended the writing of a batch because it took too long: somebody's lock, or
    /// too much at once.
    pub fn is_too_slow(&self) -> bool {
        matches!(self, Self::TimedOut { what, .. } if *what == WRITING)
    }

    /// Whether somebody or something cancelled the statement: its time-out, mostly.
    pub(super) fn is_cancelled(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == "57014"),
            _ => false,
        }
    }

    /// Whether the server does not let us in.
    pub fn is_of_credentials(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                !is_of_statement(error.as_ref()) && error.code().is_some_and(|code| code.starts_with("28"))
            }
            _ => false,
        }
    }

    /// Whether a row was taken as far as its keys and checks.
    pub(super) fn is_of_keys(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.starts_with("23") && code != "23502")
            }
            _ => false,
        }
    }

    /// Whether another run has taken over what this one had in flight, which must not commit any more.
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Statement(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == FENCED),
            _ => false,
        }
    }

    /// Whether the same may go well later, when it is not about rows.
    pub fn may_pass(&self) -> bool {
        matches!(self.remedy(), Remedy::Retry | Remedy::RetryUnlessRow | Remedy::Split)
    }

    /// What is to be done.
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

fn remedy(error: &sqlx::Error) -> Remedy {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match is_of_statement(error.as_ref()) {
                // A plan of before the table was changed, which sqlx keeps as long as the connection.
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

/// Whether it ended a statement, and not the session with it. A function in the database can raise no more than that.
fn is_of_statement(error: &dyn sqlx::error::DatabaseError) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_none_or(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// What is to be done about an error that ended the session, or let none begin.
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
        // A statement that was prepared is another's, or nowhere: a pooler hands out another session each time.
        FENCED | DUPLICATE_STATEMENT | NO_SUCH_STATEMENT => Remedy::Stop,
        // The disk is full, or there are too many connections: of the server, whoever asks.
        "53100" | "53300" => Remedy::Retry,
        // Out of memory, out of shared memory: the latter, for locks, would not pass by itself.
        "53200" => Remedy::Split,
        // A lock that somebody holds; it took us too long to go on with a transaction: we were stopped meanwhile.
        "55P03" | "25P03" => Remedy::Retry,
        // Duplicate key in spite of DO NOTHING: a race in a compressed chunk (timescaledb#5448).
        "23505" => Remedy::RetryUnlessRow,
        // A read-only server: the old primary after a failover.
        "25006" => Remedy::RetryUnlessRow,
        // The server is starting, or the database is being copied or dropped.
        "55000" | "55006" => Remedy::RetryUnlessRow,
        // We leave no column of ours empty: somebody gave the table another one.
        "23502" => Remedy::StopUnlessRow,
        _ => match code.get(..2).unwrap_or_default() {
            // Shutdown, crash, no connections now.
            "57" if code.starts_with("57P") => Remedy::Retry,
            // Connection, transaction rollback, resources, operator's intervention, system, internal.
            "08" | "40" | "53" | "57" | "58" | "XX" => Remedy::RetryUnlessRow,
            // Cardinality, data, integrity, check option, program limits (nesting), a trigger's own exception.
            "21" | "22" | "23" | "44" | "54" | "P0" => Remedy::BlameRow,
            _ => Remedy::StopUnlessRow,
        },
    }
}

/// Whether the role may not do this.
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

    /// Such an error is none of a row's.
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
