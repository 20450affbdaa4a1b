//! Speaks to PostgreSQL: prepares it at the start, and writes each batch in one transaction.
//!
//! - `pool`: the connections that the writers of all tenants share
//! - `migrator`, `table`, `columns`: version, extension, migrations; a tenant's table
//! - `writer`, `rows`, `dead_letter_rows`, `commit_log`: what a transaction consists of
//! - `other_rows`: whether other rows than a refused one can be written
//! - `session`: a transaction that a guest may use
//! - `dead_letter_store`, `replay_page`: dead letters as an operator handles them
//! - `timestamp`: reads times, of which PostgreSQL has more than chrono
//! - `components`, `deployments`: components, versions of the rules, and which of them is wanted
//! - `replicas`: what each replica has in force of them
//! - `jobs`: long work on dead letters, which outlives the process that does it
//! - `audit`: who has asked for a change, and what came of it
//! - `listener`: hears of deployments
//! - `inspect`: looks at the server and changes nothing, for `sluicegate doctor`
//! - `replay_outbox`: keeps what a replay has published and not sent yet
//!
//! A batch takes a connection from the pool. After an error the connection is closed, unless only a
//! row was refused. So the reason why there is none is told as it is, and a connection whose state
//! is in doubt is never used again.

mod audit;
mod columns;
mod commit_log;
mod components;
mod dead_letter_rows;
mod dead_letter_store;
mod deployments;
mod error;
mod inspect;
mod jobs;
mod listener;
mod migrator;
mod other_rows;
mod pool;
mod replay_outbox;
mod replay_page;
mod replicas;
mod rows;
mod session;
mod table;
mod timestamp;
mod writer;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use uuid::Uuid;

pub use audit::{AuditRow, NewAudit};
pub use commit_log::{BatchRecord, CommitLog, Number, StaleRun};
pub use dead_letter_store::{Cause, DeadLetterStore, Filter, Letter, Scope};
pub use deployments::{Action, Deployment, NewVersion, Request, StoredVersion, Wanted};
pub use error::{Error, Remedy};
pub use inspect::{
    Extension, Holders, Hypertable, Migrations, PostgresLook, PostgresServer, RefusedStatement, TableLook,
    TenantTable,
};
pub use jobs::{Job, JobFilter, JobLease, JobProgress, JobState, NewJob, Resumed};
pub use listener::Listener;
pub use other_rows::OtherRows;
pub use replay_outbox::Due;
pub use replay_page::{Replay, ReplayPage};
pub use replicas::{Replica, ReplicaReport, SILENT_AFTER_S};
pub(crate) use session::check_parameters;
pub use session::{Session, Statements};
pub use writer::{Begun, Writer};

use crate::batch::{Ended, Tally};
use crate::capabilities::Publication;
use crate::config::{Config, TableName, Tenant, TenantName, UrlSource};
use commit_log::Numbers;
use migrator::Migrator;
use pool::Pool;
use rows::Inserts;
use sluicegate_verdicts::EntryId;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the database may take for a batch. After that the connection is given up: a network
/// that swallows packets would keep the batch waiting for ever. The largest batch takes a second,
/// so it takes this long only when something is wrong. A shorter time would repeat in vain what
/// only waits for a lock.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server itself goes on with a statement of a batch: not longer than somebody waits
/// for it. While a statement waits for a lock, the server does not see that a client is gone, and
/// each attempt would leave a backend behind until no connection is left. Nor does it see that a
/// silent network has swallowed the next statement of a transaction, whose locks would keep the
/// batch from ever being written again.
const STATEMENT_TIMEOUT_MS: u64 = 25_000;

/// The prepared statements that a connection keeps: two or three for each of a few hundred tenants.
const STATEMENTS_CACHED: usize = 1_000;

/// Names in an error what was waited for, when it is a batch's statement.
const WRITING: &str = "writing a batch";

/// Waits for the database for at most [`WRITE_TIMEOUT`]. This is for one statement or those of one
/// batch, so that many of them are not cut off.
async fn within_timeout<T, E: Into<Error>>(
    what: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    let begun = Instant::now();
    match tokio::time::timeout(WRITE_TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let (error, after): (Error, _) = (error.into(), begun.elapsed());
            match error.is_cancelled() && after >= Duration::from_millis(STATEMENT_TIMEOUT_MS) {
                true => Err(Error::TimedOut { what, after }),
                false => Err(error),
            }
        }
        Err(_) => Err(Error::TimedOut { what, after: WRITE_TIMEOUT }),
    }
}

/// Entries whose outcome is committed. Nothing else can be acknowledged (invariant 1).
///
/// A committed transaction of [`Writer`] makes it, or the [log](CommitLog) that tells of one.
#[derive(Debug)]
#[must_use = "committed entries must be acknowledged"]
pub struct Committed {
    ids: Vec<EntryId>,
    tally: Tally,
    /// How each entry ended, where it is known.
    ends: Vec<Option<Ended>>,
    /// These are sent before the entries are acknowledged.
    publications: Arc<Vec<Publication>>,
    /// Keeps the record until the entries are acknowledged.
    _number: Option<Number>,
}

impl Committed {
    /// Returns the entries' IDs, in the order of the batch.
    pub fn ids(&self) -> &[EntryId] {
        &self.ids
    }

    /// Returns what the entries' rules have published.
    pub fn publications(&self) -> &[Publication] {
        &self.publications
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns how each entry ended, in the order of the batch, where it is known: see
    /// [`Writer::ask_for_new_rows`]. Of entries that were committed before nothing is known.
    pub fn take_ends(&mut self) -> Vec<Option<Ended>> {
        std::mem::take(&mut self.ends)
    }
}

/// The database, which all tenants share. It is cheap to clone, and connects to nothing by itself.
#[derive(Clone)]
pub struct Database(Arc<DatabaseInner>);

pub struct DatabaseInner {
    url: UrlSource,
    /// The options of the URL that was read last.
    options: Mutex<PgConnectOptions>,
    address: String,
    /// The name of this replica in the consumer groups.
    consumer: String,
    /// Tells this run of the service from others of the same name.
    instance: Uuid,
    allow_plain_table: bool,
    pool: Pool,
    /// The number of connections that one tenant may have.
    tenant_permits: usize,
    migrator: Migrator,
    /// Lets one component at a time be stored.
    storing: tokio::sync::Mutex<()>,
    /// The tenants of which the database was told what this replica has in force.
    reported: Mutex<BTreeSet<TenantName>>,
    /// Lets one tenant at a time delete what nobody needs any more.
    housekeeping: Semaphore,
    /// Tells that somebody has asked for a job.
    jobs: Notify,
}

impl Deref for Database {
    type Target = DatabaseInner;

    fn deref(&self) -> &DatabaseInner {
        &self.0
    }
}

impl Database {
    /// Reads the URL.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let url = config.postgres_url();
        let options = options(&url.read()?)?;
        let connections = config.connections_for_writing();
        let database = options.get_database().unwrap_or(options.get_username());
        Ok(Self(Arc::new(DatabaseInner {
            address: format!("{}:{}/{database}", options.get_host(), options.get_port()),
            url,
            options: Mutex::new(options),
            consumer: config.consumer_name.clone(),
            instance: Uuid::new_v4(),
            allow_plain_table: config.allow_plain_table,
            pool: Pool::new(connections),
            tenant_permits: if config.has_named_tenants { connections.div_ceil(2) } else { connections },
            migrator: Migrator::new(),
            storing: tokio::sync::Mutex::default(),
            reported: Mutex::default(),
            housekeeping: Semaphore::new(1),
            jobs: Notify::new(),
        })))
    }

    /// Returns the options of the current URL, or of the last one while its file cannot be read.
    fn options(&self) -> PgConnectOptions {
        let mut last = self.options.lock();
        if self.url.is_file() {
            match self.url.read().map_err(Error::from).and_then(|url| options(&url)) {
                Ok(options) => *last = options,
                Err(error) => {
                    tracing::warn!(%error, "the URL of postgres was not read again; going on with the last one");
                }
            }
        }
        last.clone()
    }

    /// Returns host, port and database, without the password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the name of this replica.
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// Returns what one run of a tenant's pipeline writes to.
    pub fn store(&self, tenant: &Tenant) -> Store {
        Store {
            database: self.clone(),
            tenant: tenant.name.clone(),
            stream: tenant.stream_name.clone(),
            group: tenant.consumer_group.clone(),
            inserts: [false, true].map(|has_version| Inserts::new(&tenant.events_table, has_version)),
            has_version_column: Arc::default(),
            statements: Arc::new(tenant.statements.clone()),
            tenant_permits: Arc::new(Semaphore::new(self.tenant_permits)),
            table: tenant.events_table.clone(),
            drops_rows: Arc::default(),
            run: Uuid::new_v4(),
            numbers: Numbers::default(),
        }
    }

    /// Waits until no other tenant does its housekeeping. None begins while the permit lives.
    pub async fn housekeeping_permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.housekeeping.acquire().await.map_err(|_| Error::Closed)
    }

    async fn connect(&self) -> Result<PgConnection, Error> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.options().connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::TimedOut { what: "connecting", after: CONNECT_TIMEOUT }),
        }
    }
}

fn options(url: &str) -> Result<PgConnectOptions, Error> {
    // sqlx takes any scheme.
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::Url);
    }
    Ok(PgConnectOptions::from_str(url)
        .map_err(|_| Error::Url)? // its message may repeat the password
        .application_name("sluicegate")
        // Each tenant has its own statements: in a smaller cache they would push each other out.
        .statement_cache_capacity(STATEMENTS_CACHED))
}

/// A tenant's part of the database, for one run of its pipeline. It is cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    /// Dead letters have the tenant's name, and the stream's.
    tenant: TenantName,
    /// The commit log has the stream's name too, and the group's.
    stream: String,
    group: String,
    table: TableName,
    /// Whether a trigger of the table can drop rows, as far as it is known.
    drops_rows: Arc<AtomicBool>,
    /// Those for a table without and with a column for the version.
    inserts: [Inserts; 2],
    has_version_column: Arc<AtomicBool>,
    /// The statements that the guest is granted.
    statements: Statements,
    /// Permits for the connections that the tenant may have at the same time.
    tenant_permits: Arc<Semaphore>,
    /// Tells the commits of this run from those of others.
    run: Uuid,
    numbers: Numbers,
}

impl Store {
    pub fn database(&self) -> &Database {
        &self.database
    }

    pub fn writer(&self) -> Writer {
        Writer::new(self.clone())
    }

    pub fn commit_log(&self) -> CommitLog {
        CommitLog::new(self.clone())
    }
}
