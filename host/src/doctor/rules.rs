//! Loads each tenant's rules as the service would, those that the settings name and the version in force: a component is
//! compiled, and tried in a worker behind its walls.

use std::time::{Duration, Instant};

use super::finding::{Finding, Level, Subject};
use crate::config::{Config, Tenant, Walls};
use crate::rules::{DEFAULT, load_version_of, try_settings};
use crate::sandbox::{LoadError, SandboxEngine};
use crate::store::{Database, StoredVersion};
use crate::text::printable;

/// Is the finding about the rules that the settings name.
const NAMED: &str = "rules";
/// Is the finding about the version in force.
const IN_FORCE: &str = "rules-in-force";
/// No further rules are loaded after this. A component may take a minute to compile.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The whole is given up after this.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// Loads all rules, and keeps nothing of them: what was compiled goes into no cache.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let config = Config { guest_cache: None, ..config.clone() };
    match tokio::time::timeout(GIVE_UP_TIMEOUT, load_all(&config)).await {
        Ok(findings) => findings,
        Err(_) => vec![failed(&format!("no end within {GIVE_UP_TIMEOUT:?}"))],
    }
}

async fn load_all(config: &Config) -> Vec<Finding> {
    let begun = Instant::now();
    let (mut findings, engine) = match load_settings(config, begun).await {
        Ok(loaded) => loaded,
        Err(why) => return vec![failed(&why)],
    };
    // A database that is away is told by the look at it.
    let Ok(database) = Database::new(config) else { return findings };
    for tenant in &config.tenants {
        let Ok(wanted) = database.wanted(&tenant.name, tenant.guest.is_some()).await else { continue };
        let Some(stored) = wanted.version else { continue };
        findings.push(match begun.elapsed() < LOAD_TIMEOUT {
            true => load_in_force(&engine, tenant, &database, stored).await,
            false => not_tried(IN_FORCE, tenant),
        });
    }
    findings
}

fn failed(why: &str) -> Finding {
    Finding::error(
        NAMED,
        &Subject::Settings,
        format!("the rules could not be tried: {why}"),
        "rules that load",
        "see whether the machine is overloaded, and look again",
    )
}

/// Loads what the settings name. Also returns what it was loaded with.
async fn load_settings(config: &Config, begun: Instant) -> Result<(Vec<Finding>, SandboxEngine), String> {
    let config = config.clone();
    let load = move || {
        let mut findings = vec![walls(&config)];
        // What lacks of the walls is told already.
        let config = Config { guest_walls: Walls::Available, ..config };
        let engine = SandboxEngine::new(&config).map_err(|error| error.to_string())?;
        for tenant in &config.tenants {
            findings.push(match begun.elapsed() < LOAD_TIMEOUT {
                true => load(&engine, tenant),
                false => not_tried(NAMED, tenant),
            });
        }
        Ok((findings, engine))
    };
    tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?
}

/// Loads the version that the next start would begin with.
async fn load_in_force(
    engine: &SandboxEngine,
    tenant: &Tenant,
    database: &Database,
    stored: StoredVersion,
) -> Finding {
    let subject = Subject::Tenant(tenant.name.clone());
    let (version, source) = (stored.version, printable(&stored.source).into_owned());
    match load_version_of(engine, tenant, database, stored).await {
        Ok(_) => Finding::ok(IN_FORCE, &subject, format!("{version} ({source}) loads")),
        Err(error) => Finding::error(
            IN_FORCE,
            &subject,
            format!("{version} ({source}), which is in force, would be refused at a start: {error}"),
            "a version in force that loads with the settings of this replica",
            "change the settings as it says, or put another version into force: sluicegate rules deploy, or rules rollback",
        ),
    }
}

fn not_tried(id: &'static str, tenant: &Tenant) -> Finding {
    let subject = Subject::Tenant(tenant.name.clone());
    Finding::note(id, &subject, "not tried: the rules of the others took a minute", "", "")
}

fn load(engine: &SandboxEngine, tenant: &Tenant) -> Finding {
    let subject = Subject::Tenant(tenant.name.clone());
    let refused = |why: String| {
        Finding::error(
            NAMED,
            &subject,
            why,
            "a component that loads",
            "GUEST=FILE with a component for wasm32-wasip2; docs/rules.md says how to build one",
        )
    };
    match try_settings(engine, tenant) {
        Ok((component, from)) => Finding::ok(NAMED, &subject, format!("{component} ({from}) loads")),
        Err(error) => refused(error.to_string()),
    }
}

/// Tries the default rules where every wall is wanted.
fn walls(config: &Config) -> Finding {
    const ID: &str = "sandbox-walls";
    const SUBJECT: Subject = Subject::Settings;
    let accepts_less = config.guest_walls == Walls::Available;
    let config = Config { guest_walls: Walls::Required, ..config.clone() };
    let tried = SandboxEngine::new(&config).and_then(|engine| engine.tenant_sandbox(&Tenant::default()));
    let error = match tried.map(|sandbox| sandbox.load_trusted(DEFAULT).map(drop)) {
        Ok(Ok(())) => return Finding::ok(ID, &SUBJECT, "the kernel has all walls around a guest's process"),
        Ok(Err(LoadError::Walls(missing))) => missing,
        Ok(Err(error)) => return failed(&error.to_string()),
        Err(error) => return failed(&error.to_string()),
    };
    let level = if accepts_less { Level::Warning } else { Level::Error };
    Finding::new(
        ID,
        level,
        &SUBJECT,
        format!("the kernel, or the container around this process, lacks walls: {error}"),
        "all of them, where the rules are strangers'",
        match accepts_less {
            true => "allow seccomp and prctl in the container's profile, and set GUEST_WALLS=required again",
            false => {
                "allow seccomp and prctl in the container's profile, or set GUEST_WALLS=available where the rules are one's own"
            }
        },
    )
}
