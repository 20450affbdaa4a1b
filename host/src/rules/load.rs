//! Makes guests of components: of a file, of the program's own, and of the database.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use super::file::{self, Stamp};
use super::{DEFAULT, Error, Folders, Loaded, MAX_CHANGES, Made, Manifest, OWN, Refusal, Refused};
use crate::batch::{Digest, Version};
use crate::config::Tenant;
use crate::judge::Rules;
use crate::sandbox::{Guest, LoadError, Sandbox, SandboxEngine, Source};
use crate::store::{Database, StoredVersion};

impl Loaded {
    fn new(guest: Guest, tenant: &Tenant, source: String) -> Self {
        let component = guest.version().component;
        let manifest = Manifest::new(component, guest.world(), tenant);
        let version = Version { digest: manifest.digest(), component, number: None };
        Self { guest: guest.with_version(version), made: Made { component, manifest, source } }
    }
}

/// Loads the rules inside the program with the settings of this tenant.
pub(super) fn load_default(engine: &SandboxEngine, tenant: &Tenant) -> Result<Loaded, Error> {
    let sandbox = engine.tenant_sandbox(tenant).map_err(Error::Sandbox)?;
    let guest = sandbox.load_trusted(DEFAULT).map_err(Error::Defective)?;
    Ok(Loaded::new(guest, tenant, OWN.to_owned()))
}

/// Loads the component of this file for the first time, unless it was refused lately. A file that is being written is
/// waited for. Compiles: not for a thread that has batches to serve.
pub(super) fn load_file(
    engine: &SandboxEngine,
    tenant: &Tenant,
    folders: &Folders,
    file: &Path,
    refused: Option<&Refused<Stamp>>,
) -> Result<Loaded, Error> {
    let sandbox = engine.tenant_sandbox(tenant).map_err(Error::Sandbox)?;
    let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
    let most = sandbox.limits().component_bytes;
    let begun = Instant::now();
    loop {
        let stamp = Stamp::read(file).map_err(unreadable)?;
        if let Some(version) = refused.filter(|refused| refused.stands(&stamp)) {
            return Err(Error::Refused { file: file.to_owned(), version: Box::new(version.clone()) });
        }
        let digest = folders.one_at_a_time(|| file::digest(file, most)).map_err(unreadable)?;
        let reason = match load_version(&sandbox, tenant, file, digest, &stamp) {
            Ok(loaded) => return Ok(loaded),
            Err(reason) => reason,
        };
        std::thread::sleep(stamp.until_rest());
        let is_at_rest = Stamp::read(file).is_ok_and(|now| now == stamp);
        if is_at_rest || begun.elapsed() > MAX_CHANGES {
            let version = Box::new(Refused::new(stamp, &reason, refused));
            return Err(Error::Refused { file: file.to_owned(), version });
        }
    }
}

/// Compiles the file's component of this digest, unless somebody has it compiled.
pub(super) fn load_version(
    sandbox: &Sandbox,
    tenant: &Tenant,
    file: &Path,
    digest: Digest,
    stamp: &Stamp,
) -> Result<Loaded, LoadError> {
    let read = || read_file(file, sandbox.limits().component_bytes, digest);
    let guest = sandbox.load(Source { digest, about_bytes: stamp.bytes, read: &read })?;
    Ok(Loaded::new(guest, tenant, file.display().to_string()))
}

/// Returns the bytes of the file, which must be those of this digest.
pub(super) fn read_file(file: &Path, most: usize, digest: Digest) -> Result<Vec<u8>, LoadError> {
    let bytes = file::read(file, most).map_err(|error| LoadError::Unreadable(error.to_string()))?;
    match Digest::new(&bytes) == digest {
        true => Ok(bytes),
        false => Err(LoadError::Unreadable("it changed while it was read".to_owned())),
    }
}

/// Loads bytes that somebody wants to deploy.
pub(super) fn load_bytes(
    engine: &SandboxEngine,
    tenant: &Tenant,
    bytes: &[u8],
    source: String,
) -> Result<Loaded, Refusal> {
    let sandbox = engine.tenant_sandbox(tenant).map_err(Refusal::Sandbox)?;
    let about_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let read = || Ok(bytes.to_vec());
    let guest = sandbox.load(Source { digest: Digest::new(bytes), about_bytes, read: &read })?;
    Ok(Loaded::new(guest, tenant, source))
}

/// Loads a component as the service would, for somebody who tries it.
pub(crate) fn load_component_of(
    engine: &SandboxEngine,
    tenant: &Tenant,
    bytes: &[u8],
) -> Result<Guest, Refusal> {
    Ok(load_bytes(engine, tenant, bytes, String::new())?.guest)
}

/// Loads a version of the database, with the settings, grants and limits that it was made with. The component is read
/// only if nobody has it compiled. `whose` settings the tenant's are is for people. Blocks; must be called within the runtime.
pub(super) fn load_stored(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    stored: &StoredVersion,
    whose: &str,
) -> Result<Guest, Refusal> {
    let manifest = Manifest::parse(&stored.manifest, stored.version.digest)?;
    granted(&manifest, tenant, whose)?;
    let tenant = manifest.apply(tenant)?;
    load_component(engine, &tenant, database, stored.version.component, stored.bytes)
        .map(|guest| guest.with_version(stored.version))
}

/// Refuses a version that was made with grants that the settings do not give.
fn granted(manifest: &Manifest, tenant: &Tenant, whose: &str) -> Result<(), Refusal> {
    match manifest.lacks(tenant) {
        None => Ok(()),
        Some(lacks) => Err(Refusal::Grants { whose: whose.to_owned(), tenant: tenant.name.clone(), lacks }),
    }
}

/// Loads a version of the database, for somebody who compares it with another.
pub(crate) async fn load_version_of(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    stored: StoredVersion,
) -> Result<Guest, Refusal> {
    let (engine, tenant, database) = (engine.clone(), tenant.clone(), database.clone());
    let load = move || load_stored(&engine, &tenant, &database, &stored, "this command");
    tokio::task::spawn_blocking(load).await.map_err(Refusal::Panicked)?
}

/// Loads a component of the database with the settings of this tenant. Blocks; must be called within the runtime.
pub(super) fn load_component(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    component: Digest,
    about_bytes: u64,
) -> Result<Guest, Refusal> {
    let sandbox = engine.tenant_sandbox(tenant).map_err(Refusal::Sandbox)?;
    if component == Digest::new(DEFAULT) {
        return Ok(sandbox.load_trusted(DEFAULT)?);
    }
    let failed = Cell::new(None);
    let read = || {
        let read = Handle::current().block_on(database.component(component));
        let read = read.map_err(|error| {
            let told = LoadError::Unreadable(format!("postgres: {error}"));
            failed.set(Some(error));
            told
        })?;
        let bytes = read.ok_or_else(|| LoadError::Unreadable("it is not in the database".to_owned()))?;
        match Digest::new(&bytes) == component {
            true => Ok(bytes),
            false => Err(LoadError::Unreadable("it was changed in the table rules_components".to_owned())),
        }
    };
    let loaded = sandbox.load(Source { digest: component, about_bytes, read: &read });
    match failed.take() {
        Some(error) => Err(Refusal::Store(error)),
        None => Ok(loaded?),
    }
}

/// Loads the same for settings other than those of the version.
pub(super) fn load_again(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    stored: &StoredVersion,
) -> Result<Loaded, Refusal> {
    let guest = load_component(engine, tenant, database, stored.version.component, stored.bytes)?;
    Ok(Loaded::new(guest, tenant, stored.source.clone()))
}

/// Loads what the settings alone name, the file or else the rules inside the program, and keeps nothing of it. Returns the
/// component and where it came from.
pub fn try_settings(engine: &SandboxEngine, tenant: &Tenant) -> Result<(Digest, String), Error> {
    let Loaded { guest, made } = of_settings(engine, tenant)?;
    Ok((guest.version().component, made.source))
}

fn of_settings(engine: &SandboxEngine, tenant: &Tenant) -> Result<Loaded, Error> {
    match &tenant.guest {
        Some(file) => load_file(engine, tenant, &Folders::default(), file, None),
        None => load_default(engine, tenant),
    }
}

/// Loads what a replay judges by: the file that `GUEST` names with the settings as they are, or else the version that is
/// wanted, within the limits of the settings; with the settings as they are if that is forced. Returns it with its manifest
/// and where it came from.
pub async fn load_for_replay(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    force: bool,
) -> Result<(Arc<dyn Rules>, Manifest, String), Error> {
    let wanted = match &tenant.guest {
        Some(_) => None,
        None => database.wanted(&tenant.name, false).await?.version,
    };
    let (engine, tenant, database) = (engine.clone(), tenant.clone(), database.clone());
    let load = move || {
        let loaded = match &wanted {
            None => of_settings(&engine, &tenant)?,
            Some(stored) => {
                let refused =
                    |reason: Refusal| Error::Stored { version: stored.version, reason: Box::new(reason) };
                let manifest = Manifest::parse(&stored.manifest, stored.version.digest);
                let manifest = manifest.map_err(|error| refused(error.into()))?;
                if !force {
                    granted(&manifest, &tenant, "this replay").map_err(refused)?;
                }
                let with = match force {
                    true => tenant,
                    // Raising a limit may be what a letter needs.
                    false => Manifest { limits: tenant.guest_limits(), ..manifest }
                        .apply(&tenant)
                        .map_err(|error| refused(error.into()))?,
                };
                let loaded = load_again(&engine, &with, &database, stored).map_err(refused)?;
                match loaded.made.manifest.digest() == stored.version.digest {
                    true => Loaded { guest: loaded.guest.with_version(stored.version), made: loaded.made },
                    false => loaded,
                }
            }
        };
        let Loaded { guest, made: Made { manifest, source, .. } } = loaded;
        Ok((Arc::new(guest) as Arc<dyn Rules>, manifest, source))
    };
    tokio::task::spawn_blocking(load).await?
}
