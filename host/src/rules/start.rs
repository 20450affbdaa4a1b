//! Finds the version that a tenant begins with: that of its file, the one that was deployed last, the program's own, or,
//! when that is refused, the last one that was in force.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch as channel};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::file::Stamp;
use super::load::{load_again, load_default, load_file, load_stored, read_file};
use super::{
    DEFAULT, Error, LastReport, Loaded, OWN, RecordError, Refusal, Refused, RulesLoader, Sources, author,
    record, record_in_place_of, settings_digest, stored_component,
};
use crate::batch::Digest;
use crate::config::Tenant;
use crate::failpoint::failpoint;
use crate::judge::Rules as _;
use crate::metrics::{Counters, Dependency};
use crate::retry::Retry;
use crate::sandbox::{Guest, LoadError};
use crate::store::{self, Action, NewVersion, ReplicaReport, Request, StoredVersion};

/// How many versions of the history are tried when the last one is refused.
const MAX_STEPS_BACK: usize = 5;
/// How many deployments are looked through for them.
const LOOKED_THROUGH: u32 = 100;

/// How often a start loads a file again that was replaced before it could be recorded.
const MAX_RELOADS: u32 = 100;

/// How long a start waits until the database knows what is in force.
const TELLING: Duration = Duration::from_secs(2);

/// The first version, and what is known besides.
struct Started {
    guest: Guest,
    /// Why this is not what is wanted.
    refused: Option<String>,
    /// Whether the settings as they are now are part of it, or are known to other replicas.
    has_settings: bool,
}

/// The start of a tenant.
struct Startup<'a> {
    sources: &'a Sources,
    tenant: &'a Tenant,
    counters: &'a Arc<Counters>,
}

impl RulesLoader {
    /// Loads the version to begin with, and records it. Waits for the database for as long as it is away. A file that is
    /// refused is remembered in `refused`; then the version that was in force last goes on, if there is one.
    pub async fn start(
        sources: Sources,
        tenant: &Tenant,
        refused: &mut Option<Refused<Stamp>>,
        counters: &Arc<Counters>,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let startup = Startup { sources: &sources, tenant, counters };
        let Started { guest, refused: reason, has_settings } = match &tenant.guest {
            Some(file) => startup.with_file(file, refused).await?,
            // What is wanted may become another deployment during the start, and a start takes none back.
            None => loop {
                match startup.with_deployments().await {
                    Err(Error::Overtaken) => {}
                    started => break started?,
                }
            },
        };
        let is_of_file = tenant.guest.is_some();
        let wanted = startup.ask(|| sources.database.wanted(&tenant.name, is_of_file)).await?;
        let version = guest.version();
        counters.deployed(false);
        tracing::info!(
            guest = %version.component,
            %version,
            file = tenant.guest.as_ref().map(|file| tracing::field::display(file.display())),
            "guest loaded"
        );
        let loader = Self {
            tenant: tenant.clone(),
            in_force: channel::Sender::new(Arc::new(guest)),
            is_paused: channel::Sender::new(wanted.is_paused),
            last_report: Mutex::new(LastReport {
                report: ReplicaReport { deployment: 0, version: None, refused: None, is_paused: false },
                is_known: false,
            }),
            // Without them in force, the next start tries them again.
            settings: if has_settings { settings_digest(tenant) } else { Digest::new(b"") },
            counters: Arc::clone(counters),
            shutdown,
            sources: sources.clone(),
        };
        // It is told at once, so that a replay knows. `apply` tells it again, so a failure is not waited for.
        let told = loader.try_report(|report| {
            (report.deployment, report.is_paused, report.refused) =
                (wanted.deployment, wanted.is_paused, reason);
        });
        let _ = tokio::time::timeout(TELLING, told).await;
        Ok(loader)
    }
}

impl Startup<'_> {
    /// Loads the file, and records what it holds. A file that is replaced meanwhile is loaded again.
    async fn with_file(&self, file: &Path, refused: &mut Option<Refused<Stamp>>) -> Result<Started, Error> {
        let mut before = refused.take();
        let mut replaced = 0;
        let error = loop {
            let (sources, tenant, path) = (self.sources.clone(), self.tenant.clone(), file.to_owned());
            let known = before.take();
            let load = move || load_file(&sources.engine, &tenant, &sources.folders, &path, known.as_ref());
            let loaded = self.blocking(load).await?;
            self.prepare().await?;
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(error) => break error,
            };
            let component = loaded.guest.version().component;
            let read = || read_file(file, self.tenant.guest_component.bytes(), component);
            match self.record(loaded, Action::File, None, read).await {
                Err(Error::Stored { .. }) if replaced < MAX_RELOADS => replaced += 1,
                recorded => return recorded,
            }
        };
        if let Error::Refused { version, .. } = &error {
            *refused = Some(Refused::clone(version));
        }
        self.note_refused(&error.to_string()).await?;
        let Some(guest) = self.go_back(None).await? else { return Err(error) };
        tracing::error!(
            %error, version = %guest.version(),
            "the guest's file cannot be used; going on with the version that was in force last"
        );
        Ok(Started { guest, refused: Some(error.to_string()), has_settings: false })
    }

    /// Loads what was deployed last, or the program's own rules before any deployment.
    async fn with_deployments(&self) -> Result<Started, Error> {
        self.prepare().await?;
        let (name, database) = (&self.tenant.name, &self.sources.database);
        let wanted = self.ask(|| database.wanted(name, false)).await?;
        let Some(stored) = wanted.version else {
            return self.record_default(wanted.row).await;
        };
        let last = self.ask(|| database.wanted(name, true)).await?;
        let row = match last.row == wanted.row {
            true => wanted.row,
            // GUEST was unset: the history is to say that its file does not rule any more.
            false => self.deploy_again(&stored, wanted.row).await?,
        };
        // A newer program brings newer rules; an older one beside it does not bring back its own.
        let is_own =
            stored.source == OWN && matches!(wanted.action, Some(Action::Default | Action::Settings));
        if is_own && stored.version.component != Digest::new(DEFAULT) {
            let default = Digest::new(DEFAULT);
            if !self.ask(|| database.has_version_of(name, default)).await? {
                return self.record_default(row).await;
            }
        }
        let settings = settings_digest(self.tenant);
        let mut refused = None;
        if !self.ask(|| database.knows_settings(name, settings)).await? {
            match self.load_again(&stored).await? {
                Ok(loaded) => {
                    return self.record(loaded, Action::Settings, Some(row), stored_component).await;
                }
                Err(reason) => {
                    let reason = reason.to_string();
                    self.note_refused(&reason).await?;
                    tracing::error!(
                        error = reason, version = %stored.version,
                        "the rules are refused with the settings as they are now; going on with those of before"
                    );
                    refused = Some(reason);
                }
            }
        }
        let reason = match self.load_stored(stored.clone()).await? {
            Ok(guest) => {
                let has_settings = refused.is_none();
                return Ok(Started { guest, refused, has_settings });
            }
            Err(reason) => reason,
        };
        let version = stored.version;
        self.note_refused(&format!("version {version}: {reason}")).await?;
        let Some(guest) = self.go_back(Some(version.digest)).await? else {
            return Err(Error::Stored { version, reason: Box::new(reason) });
        };
        tracing::error!(
            error = %reason, wanted = %version, version = %guest.version(),
            "the version that is wanted is refused; going on with one that was in force before"
        );
        Ok(Started { guest, refused: Some(reason.to_string()), has_settings: false })
    }

    /// Wants a version of the database once more, in the place of the deployment with this number. Returns the number of the
    /// deployment by which it is wanted then: the same one if the file held that version too.
    async fn deploy_again(&self, stored: &StoredVersion, in_place_of: i64) -> Result<i64, Error> {
        let author = author(&self.sources.database);
        let request = Request { tenant: &self.tenant.name, author: &author, message: "" };
        let new = NewVersion {
            digest: stored.version.digest,
            component: stored.version.component,
            manifest: &stored.manifest,
            source: &stored.source,
        };
        let database = &self.sources.database;
        self.ask(|| database.deploy_in_place_of(in_place_of, &request, &new, Action::Settings)).await?;
        let wanted = self.ask(|| database.wanted(&self.tenant.name, false)).await?;
        match wanted.version {
            Some(version) if version.version.digest == stored.version.digest => Ok(wanted.row),
            _ => Err(Error::Overtaken),
        }
    }

    async fn record_default(&self, in_place_of: i64) -> Result<Started, Error> {
        let (sources, tenant) = (self.sources.clone(), self.tenant.clone());
        let loaded = self.blocking(move || load_default(&sources.engine, &tenant)).await??;
        self.record(loaded, Action::Default, Some(in_place_of), || Ok(DEFAULT.to_vec())).await
    }

    /// Records what was loaded, in the place of the deployment with this number, if there is one.
    async fn record(
        &self,
        loaded: Loaded,
        action: Action,
        in_place_of: Option<i64>,
        read: impl Fn() -> Result<Vec<u8>, LoadError>,
    ) -> Result<Started, Error> {
        let author = author(&self.sources.database);
        let request = Request { tenant: &self.tenant.name, author: &author, message: "" };
        let mut retry = self.retry();
        failpoint!("before_record", Error::Overtaken);
        loop {
            let (database, made) = (&self.sources.database, &loaded.made);
            let recorded = match in_place_of {
                None => record(database, &request, made, action, &read).await.map(Some),
                Some(other) => record_in_place_of(other, database, &request, made, action, &read).await,
            };
            match retry.after(recorded).await {
                Ok(Some(None)) => return Err(Error::Overtaken),
                Ok(Some(Some((version, _)))) => {
                    let guest = loaded.guest.with_version(version);
                    return Ok(Started { guest, refused: None, has_settings: true });
                }
                Ok(None) => {}
                Err(RecordError::Store(error)) => return Err(error.into()),
                Err(RecordError::Load(reason)) => {
                    return Err(Error::Stored {
                        version: loaded.guest.version(),
                        reason: Box::new(reason.into()),
                    });
                }
            }
        }
    }

    /// Takes into the history that the rules of the settings were refused.
    async fn note_refused(&self, reason: &str) -> Result<(), Error> {
        let author = author(&self.sources.database);
        let request = Request { tenant: &self.tenant.name, author: &author, message: reason };
        self.counters.deployed(true);
        self.ask(|| self.sources.database.note_deployment(&request, Action::Refused, None)).await?;
        Ok(())
    }

    /// Returns the last version that was in force, besides this one, and that loads.
    async fn go_back(&self, besides: Option<Digest>) -> Result<Option<Guest>, Error> {
        let (name, database) = (&self.tenant.name, &self.sources.database);
        let history = self.ask(|| database.deployments(name, LOOKED_THROUGH)).await?;
        let mut tried: Vec<Digest> = besides.into_iter().collect();
        for version in history.iter().filter_map(|deployment| deployment.version) {
            if tried.contains(&version) || tried.len() > MAX_STEPS_BACK {
                continue;
            }
            tried.push(version);
            let digits = version.to_hex();
            let found = self.ask(|| database.versions_like(name, &digits)).await?;
            let Some(stored) = found.into_iter().next() else { continue };
            match self.load_stored(stored).await? {
                Ok(guest) => return Ok(Some(guest)),
                Err(error) => tracing::warn!(%version, %error, "this version cannot be gone back to"),
            }
        }
        Ok(None)
    }

    async fn load_stored(&self, stored: StoredVersion) -> Result<Result<Guest, Refusal>, Error> {
        let load = move |sources: &Sources, tenant: &Tenant| {
            load_stored(&sources.engine, tenant, &sources.database, &stored, &author(&sources.database))
        };
        self.until_read(load).await
    }

    async fn load_again(&self, stored: &StoredVersion) -> Result<Result<Loaded, Refusal>, Error> {
        let stored = stored.clone();
        let load = move |sources: &Sources, tenant: &Tenant| {
            load_again(&sources.engine, tenant, &sources.database, &stored)
        };
        self.until_read(load).await
    }

    /// Loads until the database has handed over the component, or something else is wrong.
    async fn until_read<T: Send + 'static>(
        &self,
        load: impl Fn(&Sources, &Tenant) -> Result<T, Refusal> + Clone + Send + 'static,
    ) -> Result<Result<T, Refusal>, Error> {
        let mut retry = self.retry();
        loop {
            let (sources, tenant, load) = (self.sources.clone(), self.tenant.clone(), load.clone());
            match self.blocking(move || load(&sources, &tenant)).await? {
                Err(Refusal::Store(error)) => {
                    retry.after::<(), _>(Err(error)).await?;
                }
                loaded => return Ok(loaded),
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let span = tracing::Span::current();
        Ok(spawn_blocking(move || span.in_scope(work)).await?)
    }

    async fn prepare(&self) -> Result<(), Error> {
        self.ask(|| self.sources.database.prepare()).await
    }

    /// Asks the database until it answers, or until trying again cannot help.
    async fn ask<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        let mut retry = self.retry();
        loop {
            if let Some(answer) = retry.after(ask().await).await? {
                return Ok(answer);
            }
        }
    }

    fn retry(&self) -> Retry {
        let address = self.sources.database.address();
        Retry::new(format!("waiting for postgres at {address}"))
            .telling(self.counters.waiting_for(Dependency::Postgres))
    }
}
