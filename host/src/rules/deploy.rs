//! What an operator wants of versions: deploy one, go back to one, stop and start the reading, and see where each replica is.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::load::load_bytes;
use super::{Made, Manifest, RecordError, Refusal, record, stored_component};
use crate::batch::{Digest, Version};
use crate::config::{Config, Tenant, TenantName};
use crate::sandbox::{LoadError, SandboxEngine};
use crate::store::{
    self, Action, Database, Deployment, Replica, ReplicaReport, Request, SILENT_AFTER_S, StoredVersion,
    Wanted,
};

/// How often to look whether a deployment has arrived everywhere.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A replica that was not heard of for so long is none any more.
const GONE_AFTER_S: f64 = 600.0;
/// How many deployments are looked through for the version before the present one.
const LOOKED_THROUGH: u32 = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    #[error("there is no tenant {found:?} in the settings; wanted one of: {known}")]
    UnknownTenant { found: String, known: String },
    #[error("the settings have several tenants; wanted --tenant with one of: {known}")]
    WhichTenant { known: String },
    #[error(
        "the rules of the tenant {tenant} come from the file {file} (GUEST): replace that file, or unset GUEST to deploy \
         versions instead"
    )]
    FileRules { tenant: TenantName, file: String },
    #[error("refused: {0}")]
    Refused(Box<Refusal>),
    #[error("the tenant {tenant} has no version {digits}; `sluicegate rules list` shows which there are")]
    Unknown { tenant: TenantName, digits: String },
    #[error("{digits} is the beginning of more than one version; wanted more of its digits")]
    Ambiguous { digits: String },
    #[error("the tenant {tenant} has had no other version to go back to")]
    NoneBefore { tenant: TenantName },
    /// The service has a defect.
    #[error("loading it panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Error {
    fn refused(reason: impl Into<Refusal>) -> Self {
        Self::Refused(Box::new(reason.into()))
    }

    /// Returns whether the request itself cannot be fulfilled, whatever the servers do.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Store(_) | Self::Sandbox(_) | Self::Panicked(_) => false,
            Self::UnknownTenant { .. }
            | Self::WhichTenant { .. }
            | Self::FileRules { .. }
            | Self::Refused(_)
            | Self::Unknown { .. }
            | Self::Ambiguous { .. }
            | Self::NoneBefore { .. } => true,
        }
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Store(error) => Self::Store(error),
            RecordError::Load(error) => Self::refused(error),
        }
    }
}

/// What a deployment has made of a request.
#[derive(Clone, Copy, Debug)]
pub struct Deployed {
    pub version: Version,
    /// The number of the deployment.
    pub deployment: i64,
    /// Whether the version was wanted already.
    pub is_known: bool,
}

/// Where a tenant's rules are.
#[derive(Clone, Debug)]
pub struct Status {
    pub wanted: Wanted,
    /// The file that rules, if one does.
    pub file: Option<String>,
    pub replicas: Vec<Replica>,
}

/// How a replica stands to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Standing {
    #[strum(serialize = "in force")]
    InForce,
    /// It has not come to the last deployment yet.
    Behind,
    /// It cannot use the version that is wanted.
    Refused,
    /// It has another version by a file of its own.
    Differs,
    /// It has not been heard of lately.
    Silent,
}

impl Status {
    pub fn standing(&self, replica: &Replica) -> Standing {
        let wanted = self.wanted.version.as_ref().map(|stored| stored.version.digest);
        match &replica.report {
            _ if replica.silent_s > SILENT_AFTER_S => Standing::Silent,
            ReplicaReport { deployment, is_paused, .. }
                if *deployment < self.wanted.deployment || *is_paused != self.wanted.is_paused =>
            {
                Standing::Behind
            }
            ReplicaReport { refused: Some(_), .. } => Standing::Refused,
            ReplicaReport { version, .. } if *version == wanted => Standing::InForce,
            ReplicaReport { .. } if self.file.is_some() => Standing::Differs,
            ReplicaReport { .. } => Standing::Behind,
        }
    }

    /// Returns how many replicas there are, and how many of them have in force what is wanted.
    pub fn counts(&self) -> (usize, usize) {
        let there = self.replicas.iter().filter(|replica| self.standing(replica) != Standing::Silent);
        let in_force = there.clone().filter(|replica| self.standing(replica) == Standing::InForce);
        (there.count(), in_force.count())
    }

    /// Returns whether all replicas have in force what is wanted, and there is one.
    pub fn is_everywhere(&self) -> bool {
        let (there, in_force) = self.counts();
        there > 0 && there == in_force
    }

    /// Returns since when that is so.
    pub fn since(&self) -> Option<DateTime<Utc>> {
        let there = self.replicas.iter().filter(|replica| self.standing(replica) == Standing::InForce);
        there.map(|replica| replica.since).max().max(self.wanted.since)
    }
}

/// Somebody who handles the versions of a tenant.
pub struct Operator<'a> {
    pub database: &'a Database,
    pub tenant: &'a Tenant,
    /// Who it is.
    pub author: String,
    /// Why.
    pub message: String,
}

/// Returns the tenant of this name, or the only one.
pub fn tenant<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Tenant, Error> {
    let known = || {
        let names: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        names.join(", ")
    };
    match (name, config.tenants.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::WhichTenant { known: known() }),
        (Some(name), tenants) => tenants
            .iter()
            .find(|tenant| tenant.name.as_str() == name)
            .ok_or_else(|| Error::UnknownTenant { found: name.to_owned(), known: known() }),
    }
}

impl Operator<'_> {
    /// Checks a component as the service does, and has every replica put it into force: with these settings, or those of
    /// the tenant, and with the tenant's grants and limits.
    pub async fn deploy(
        &self,
        engine: &SandboxEngine,
        bytes: Vec<u8>,
        source: String,
        settings: Option<BTreeMap<String, String>>,
    ) -> Result<Deployed, Error> {
        self.check_source()?;
        let mut tenant = self.tenant.clone();
        if let Some(settings) = settings {
            tenant.guest_settings = settings;
        }
        let component = Digest::new(&bytes);
        let engine = engine.clone();
        let load = move || (load_bytes(&engine, &tenant, &bytes, source), bytes);
        let (loaded, bytes) = tokio::task::spawn_blocking(load).await?;
        match loaded {
            Ok(loaded) => self.record(&loaded.made, Action::Deploy, || Ok(bytes.clone())).await,
            Err(reason) => {
                let request = Request { message: &reason.to_string(), ..self.request() };
                self.database.note_deployment(&request, Action::Refused, Some(component)).await?;
                Err(Error::refused(reason))
            }
        }
    }

    /// Has every replica put an earlier version into force again: this one, or the one before the present one. Grants are
    /// those that the settings give now. If they were others, this makes another version.
    pub async fn rollback(&self, digits: Option<&str>) -> Result<Deployed, Error> {
        self.check_source()?;
        let stored = match digits {
            Some(digits) => self.version(digits).await?,
            None => self.before().await?,
        };
        let manifest = Manifest::parse(&stored.manifest, stored.version.digest);
        let manifest = manifest.map_err(Error::refused)?;
        let made = Made {
            component: stored.version.component,
            manifest: manifest.with_grants_of(self.tenant),
            source: stored.source,
        };
        self.record(&made, Action::Rollback, stored_component).await
    }

    /// Has every replica stop reading, or go on.
    pub async fn pause(&self, is_to_pause: bool) -> Result<i64, Error> {
        let action = if is_to_pause { Action::Pause } else { Action::Resume };
        if self.wanted().await?.is_paused != is_to_pause {
            self.database.note_deployment(&self.request(), action, None).await?;
        }
        Ok(self.wanted().await?.deployment)
    }

    /// Returns where the tenant's rules are.
    pub async fn status(&self) -> Result<Status, Error> {
        let wanted = self.wanted().await?;
        let mut replicas = self.database.replicas(&self.tenant.name).await?;
        replicas.retain(|replica| replica.silent_s < GONE_AFTER_S);
        let file = self.tenant.guest.as_ref().map(|file| file.display().to_string());
        Ok(Status { wanted, file, replicas })
    }

    /// Waits until all replicas have in force what is wanted, until one of them refuses it, or for so long.
    pub async fn wait(&self, wait: Duration) -> Result<Status, Error> {
        let deadline = Instant::now() + wait;
        loop {
            let status = self.status().await?;
            let standings: Vec<Standing> =
                status.replicas.iter().map(|replica| status.standing(replica)).collect();
            let is_settled = !standings.contains(&Standing::Behind);
            if status.is_everywhere()
                || (is_settled && standings.contains(&Standing::Refused))
                || Instant::now() >= deadline
            {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub async fn versions(&self, limit: u32) -> Result<Vec<StoredVersion>, Error> {
        Ok(self.database.versions(&self.tenant.name, limit).await?)
    }

    pub async fn history(&self, limit: u32) -> Result<Vec<Deployment>, Error> {
        Ok(self.database.deployments(&self.tenant.name, limit).await?)
    }

    /// Returns the version whose digest begins with these digits.
    pub async fn version(&self, digits: &str) -> Result<StoredVersion, Error> {
        let mut found = self.database.versions_like(&self.tenant.name, digits).await?;
        match (found.pop(), found.is_empty()) {
            (Some(version), true) => Ok(version),
            (Some(_), false) => Err(Error::Ambiguous { digits: digits.to_owned() }),
            (None, _) => Err(Error::Unknown { tenant: self.tenant.name.clone(), digits: digits.to_owned() }),
        }
    }

    /// Returns the version that was in force before the present one.
    async fn before(&self) -> Result<StoredVersion, Error> {
        let none = || Error::NoneBefore { tenant: self.tenant.name.clone() };
        let wanted = self.wanted().await?.version.ok_or_else(none)?;
        let history = self.history(LOOKED_THROUGH).await?;
        let mut versions = history.iter().filter(|row| row.action != Action::Refused.as_str());
        let before = versions.find_map(|row| row.version.filter(|version| *version != wanted.version.digest));
        self.version(&before.ok_or_else(none)?.to_hex()).await
    }

    async fn wanted(&self) -> Result<Wanted, Error> {
        Ok(self.database.wanted(&self.tenant.name, self.tenant.guest.is_some()).await?)
    }

    async fn record(
        &self,
        made: &Made,
        action: Action,
        read: impl Fn() -> Result<Vec<u8>, LoadError>,
    ) -> Result<Deployed, Error> {
        let before = self.wanted().await?.deployment;
        let (version, deployment) = record(self.database, &self.request(), made, action, read).await?;
        Ok(Deployed { version, deployment, is_known: deployment <= before })
    }

    fn check_source(&self) -> Result<(), Error> {
        match &self.tenant.guest {
            None => Ok(()),
            Some(file) => {
                Err(Error::FileRules { tenant: self.tenant.name.clone(), file: file.display().to_string() })
            }
        }
    }

    fn request(&self) -> Request<'_> {
        Request { tenant: &self.tenant.name, author: &self.author, message: &self.message }
    }
}
