//! Versions of the rules: which one is in force, and how another comes into force.
//!
//! - `manifest`: what a version is
//! - `load`: from components to guests
//! - `start`: the version that a start begins with
//! - `file`: what can be known of a file without reading it
//! - `file_watch`: notices that the component's file changed, and swaps
//! - `deployment_feed`: hears of deployments, once for all tenants
//! - `apply`: does what the last deployment wants
//! - `deploy`: what an operator wants of versions
//! - `view`: these as JSON
//! - `command`, `listing`: `sluicegate rules`
//!
//! A tenant's rules have one source. Where `GUEST` names a file, the file rules: what it holds is
//! recorded as a deployment. Elsewhere the last deployment rules, and before the first one the
//! rules inside the program.

mod apply;
pub mod command;
pub mod deploy;
mod deployment_feed;
mod file;
mod file_watch;
mod listing;
mod load;
mod manifest;
mod start;
pub mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch as channel};
use tokio_util::sync::CancellationToken;

pub use deployment_feed::Feed;
pub(crate) use file::read as read_component;
pub use file_watch::Folders;
pub(crate) use load::{load_component_of, load_version_of};
pub use load::{load_for_replay, try_settings};
pub use manifest::Manifest;

use crate::batch::{Digest, Version};
use crate::config::{Tenant, TenantName};
use crate::judge::Rules;
use crate::metrics::Counters;
use crate::pipeline::RulesInForce;
use crate::retry::Retryable;
use crate::sandbox::{Guest, LoadError, SandboxEngine, World};
use crate::store::{self, Action, Database, NewVersion, ReplicaReport, Request};
pub use file::Stamp;

/// The default rules, inside the program so that it needs no other file.
pub const DEFAULT: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_DEFAULT"));

/// The generic component that judges by JSON Schema, of which others are made.
pub(crate) const SCHEMA: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_SCHEMA"));

/// Why there are no rules to begin with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named by `GUEST`.
    #[error("the guest {file} cannot be read: {source}")]
    Unreadable {
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The default rules do not load: a defect of the program.
    #[error("the default rules inside the program are refused: {0}")]
    Defective(LoadError),
    /// It is no component that can be used.
    #[error("the guest {file} is refused: {}", version.reason)]
    Refused {
        file: PathBuf,
        /// Which, and why.
        version: Box<Refused<Stamp>>,
    },
    /// No version of the database can be used.
    #[error("the version {version} is refused, and there is none before it to go on with: {reason}")]
    Stored { version: Version, reason: Box<Refusal> },
    /// What was to begin with is not wanted any more.
    #[error("another version was deployed during the start")]
    Overtaken,
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The service has a defect.
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Why a version of the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error(
        "it was made with grants that the settings of {whose} do not give tenant {tenant} now: {lacks}; add that there, or deploy \
         its component again with the settings as they are"
    )]
    Grants {
        /// Who has read the settings: a replica, or a command.
        whose: String,
        tenant: TenantName,
        /// The lines to add.
        lacks: String,
    },
    /// The database did not hand over the component, which says nothing of the version.
    #[error("postgres: {0}")]
    Store(store::Error),
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The service has a defect.
    #[error("loading it panicked: {0}")]
    Panicked(tokio::task::JoinError),
}

impl Retryable for Refusal {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Load(error) => error.is_permanent(),
            Self::Store(error) => error.is_permanent(),
            Self::Manifest(_) | Self::Grants { .. } | Self::Sandbox(_) => true,
            Self::Panicked(_) => false,
        }
    }
}

/// A version that was refused for a reason that may pass is tried again after so long, and after twice as long each time
/// until [`MAX_RETRY`]. To compile is work, and a hostile component could keep the compiler busy.
const MIN_RETRY: Duration = Duration::from_secs(60);
/// See [`MIN_RETRY`]. What was refused for its own fault is tried again after so long: the kernel, the settings or the
/// program may be others by then.
const MAX_RETRY: Duration = Duration::from_secs(3_600);
/// A file that changes for longer is not waited for any more.
const MAX_CHANGES: Duration = Duration::from_secs(30);

/// Something that cannot be used: a file as it was at a time, or a version.
#[derive(Clone, Debug)]
pub struct Refused<T> {
    what: T,
    reason: String,
    is_permanent: bool,
    since: Instant,
    /// How often it was tried.
    tries: u32,
}

impl<T: PartialEq> Refused<T> {
    /// Notes a refusal, which stands for longer if the same was refused before.
    fn new(what: T, reason: &impl Retryable, before: Option<&Self>) -> Self {
        let tries = before.filter(|before| before.what == what).map_or(0, |before| before.tries) + 1;
        let is_permanent = reason.is_permanent();
        Self { what, reason: reason.to_string(), is_permanent, since: Instant::now(), tries }
    }

    /// Returns how long it stands.
    fn stands_for(&self) -> Duration {
        let delay = MIN_RETRY.saturating_mul(1 << (self.tries - 1).min(10));
        if self.is_permanent { MAX_RETRY } else { delay.min(MAX_RETRY) }
    }

    /// Returns whether this need not be tried.
    fn stands(&self, what: &T) -> bool {
        self.what == *what && self.since.elapsed() < self.stands_for()
    }
}

/// What the tenants' rules come from.
#[derive(Clone)]
pub struct Sources {
    pub engine: SandboxEngine,
    pub database: Database,
    pub folders: Arc<Folders>,
}

/// The version in force of a tenant, and the means to replace it.
pub struct RulesLoader {
    sources: Sources,
    tenant: Tenant,
    in_force: channel::Sender<Arc<dyn Rules>>,
    is_paused: channel::Sender<bool>,
    /// The digest of the settings that are in force.
    settings: Digest,
    counters: Arc<Counters>,
    last_report: Mutex<LastReport>,
    shutdown: CancellationToken,
}

/// What the database was told last of this replica.
struct LastReport {
    report: ReplicaReport,
    /// Whether the database has it so.
    is_known: bool,
}

/// What a component was loaded as.
struct Loaded {
    guest: Guest,
    made: Made,
}

/// A version that may not be recorded yet.
struct Made {
    component: Digest,
    manifest: Manifest,
    /// Where the component came from.
    source: String,
}

impl Made {
    /// Returns what is to be recorded; `manifest` is the canonical form of its own.
    fn new_version<'a>(&'a self, manifest: &'a str) -> NewVersion<'a> {
        let digest = Digest::new(manifest.as_bytes());
        NewVersion { digest, component: self.component, manifest, source: &self.source }
    }
}

impl RulesLoader {
    /// Returns where the pipeline sees the version in force.
    pub fn in_force(&self) -> RulesInForce {
        self.in_force.subscribe()
    }

    /// Returns where the pipeline sees whether it is to read.
    pub fn is_paused(&self) -> channel::Receiver<bool> {
        self.is_paused.subscribe()
    }

    fn version(&self) -> Version {
        self.in_force.borrow().version()
    }

    /// Puts a guest into force, from the next batch on.
    fn put_in_force(&self, guest: Guest) {
        self.in_force.send_replace(Arc::new(guest));
        self.counters.deployed(false);
    }

    /// Tells the database what is in force and why not what is wanted, if that is news.
    async fn report(&self, change: impl FnOnce(&mut ReplicaReport)) -> Result<(), store::Error> {
        let mut last = self.last_report.lock().await;
        let before = last.report.clone();
        change(&mut last.report);
        last.report.version = Some(self.version().digest);
        self.counters.rules_are_refused(last.report.refused.clone());
        if last.is_known && last.report == before {
            return Ok(());
        }
        last.is_known = false;
        let table = self.tenant.events_table.to_string();
        self.sources.database.report_rules(&self.tenant.name, &last.report, self.settings, &table).await?;
        last.is_known = true;
        Ok(())
    }

    /// Does the same, and leaves it to the next report if the database is away.
    async fn try_report(&self, change: impl FnOnce(&mut ReplicaReport)) {
        if let Err(error) = self.report(change).await {
            tracing::debug!(%error, "what is in force was not reported");
        }
    }
}

/// Where the program's own rules come from.
const OWN: &str = "inside the program";

/// Returns the digest of the settings that are part of a version.
fn settings_digest(tenant: &Tenant) -> Digest {
    Manifest::new(Digest::new(b""), World::Validator, tenant).digest()
}

/// Records a version, and wants it, unless it is wanted already. Returns its name and the number of the deployment.
async fn record(
    database: &Database,
    request: &Request<'_>,
    made: &Made,
    action: Action,
    read: impl Fn() -> Result<Vec<u8>, LoadError>,
) -> Result<(Version, i64), RecordError> {
    database.store_component(made.component, || read().map_err(RecordError::from)).await?;
    let manifest = made.manifest.canonical();
    let new = made.new_version(&manifest);
    let (number, deployment) = database.deploy(request, &new, action).await?;
    Ok((new.numbered(number), deployment))
}

/// Does the same if the version that is wanted is still that of the deployment with this number. Otherwise returns `None`.
async fn record_in_place_of(
    deployment: i64,
    database: &Database,
    request: &Request<'_>,
    made: &Made,
    action: Action,
    read: impl Fn() -> Result<Vec<u8>, LoadError>,
) -> Result<Option<(Version, i64)>, RecordError> {
    database.store_component(made.component, || read().map_err(RecordError::from)).await?;
    let manifest = made.manifest.canonical();
    let new = made.new_version(&manifest);
    let deployed = database.deploy_in_place_of(deployment, request, &new, action).await?;
    Ok(deployed.map(|(number, deployment)| (new.numbered(number), deployment)))
}

/// Stands for the bytes of a component that the database has.
fn stored_component() -> Result<Vec<u8>, LoadError> {
    Err(LoadError::Unreadable("it is not in the database".to_owned()))
}

/// Why a version was not recorded.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    /// The file was changed meanwhile.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Retryable for RecordError {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::Load(_) => true,
        }
    }
}

/// Returns how the history names this replica.
fn author(database: &Database) -> String {
    format!("replica {}", database.consumer())
}
