//! The settings of a project, and the rules that they name.

use std::path::{Path, PathBuf};

use super::Error;
use crate::config::{Config, DEFAULT_FILE, Tenant};
use crate::rules::deploy::Operator;
use crate::rules::{self, DEFAULT, deploy};
use crate::sandbox::{Guest, SandboxEngine};
use crate::store::Database;

/// Names the version that is in force by the database.
const IN_FORCE: &str = "in-force";

/// Names the component of a project. Its settings name none: they would be those of a service whose rules come from a file, to
/// which nothing can be deployed.
const COMPONENT: &str = "rules.wasm";

/// The settings by which rules are tried.
#[derive(Clone)]
pub(super) struct Project {
    pub(super) config: Config,
    /// The tenant whose rules are meant, with the component that is meant.
    pub(super) tenant: Tenant,
    /// Whether the command line names the component.
    is_guest_named: bool,
    folder: PathBuf,
}

impl Project {
    /// Reads the settings of this file, or else of the folder. The working directory, whose name is empty, may lack them.
    pub(super) fn open(
        file: Option<&Path>,
        folder: &Path,
        tenant: Option<&str>,
        guest: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let own = folder.join(DEFAULT_FILE);
        let config = match file {
            Some(file) => Config::load(Some(file))?,
            None if folder == Path::new("") => Config::load(None)?,
            None if own.is_file() => Config::load(Some(&own))?,
            None => return Err(Error::NoProject { file: own }),
        };
        let mut tenant = deploy::tenant(&config, tenant)?.clone();
        let folder = file.and_then(Path::parent).unwrap_or(folder).to_owned();
        let built = || Some(folder.join(COMPONENT)).filter(|file| file.is_file());
        let is_guest_named = guest.is_some();
        tenant.guest = guest.or(tenant.guest).or_else(built);
        Ok(Self { config, tenant, is_guest_named, folder })
    }

    /// Returns the folder with the goldens.
    pub(super) fn tests(&self) -> PathBuf {
        self.folder.join("tests")
    }

    /// Returns how people call the component.
    pub(super) fn component_name(&self) -> String {
        match &self.tenant.guest {
            Some(file) => file.display().to_string(),
            None => "the default rules".to_owned(),
        }
    }

    /// Returns the bytes of the component: of the file, or else those of the default rules.
    pub(super) fn component(&self) -> Result<Vec<u8>, Error> {
        match &self.tenant.guest {
            None => Ok(DEFAULT.to_vec()),
            Some(file) => {
                rules::read_component(file, self.tenant.guest_component.bytes()).map_err(|source| match self
                    .is_guest_named
                {
                    true => Error::Unreadable { file: file.clone(), source },
                    false => Error::UnreadableGuest { file: file.clone(), source },
                })
            }
        }
    }

    pub(super) fn engine(&self) -> Result<SandboxEngine, Error> {
        SandboxEngine::for_command(&self.config).map_err(Error::Sandbox)
    }

    /// Loads the rules as the service would, and refuses what it would refuse.
    pub(super) fn load(&self) -> Result<Guest, Error> {
        self.load_by(&self.engine()?)
    }

    /// Does the same, and compiles them in any case.
    pub(super) fn compile(&self) -> Result<Guest, Error> {
        let config = Config { guest_cache: None, ..self.config.clone() };
        self.load_by(&SandboxEngine::new(&config).map_err(Error::Sandbox)?)
    }

    fn load_by(&self, engine: &SandboxEngine) -> Result<Guest, Error> {
        let component = self.component()?;
        rules::load_component_of(engine, &self.tenant, &component)
            .map_err(|reason| Error::Refused { name: self.component_name(), reason: Box::new(reason) })
    }

    /// Loads the rules that somebody names: a component file, the first digits of a version of the database, or the version
    /// that is in force there.
    pub(super) async fn load_named(&self, engine: &SandboxEngine, name: &str) -> Result<Guest, Error> {
        let refused = |reason| Error::Refused { name: name.to_owned(), reason: Box::new(reason) };
        let is_digits = (4..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_hexdigit());
        if name != IN_FORCE && !is_digits || Path::new(name).is_file() {
            let file = Path::new(name);
            let bytes = rules::read_component(file, self.tenant.guest_component.bytes())
                .map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
            return rules::load_component_of(engine, &self.tenant, &bytes).map_err(refused);
        }
        let database = Database::new(&self.config)?;
        database.prepare().await?;
        let operator = Operator {
            database: &database,
            tenant: &self.tenant,
            author: String::new(),
            message: String::new(),
        };
        let stored = match name {
            IN_FORCE => {
                let wanted = operator.status().await?.wanted.version;
                wanted.ok_or_else(|| Error::NoneInForce { tenant: self.tenant.name.to_string() })?
            }
            digits => operator.version(&digits.to_ascii_lowercase()).await?,
        };
        rules::load_version_of(engine, &self.tenant, &database, stored).await.map_err(refused)
    }
}
