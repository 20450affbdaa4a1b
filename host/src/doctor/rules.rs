//! Loads each tenant's rules as the service would: the component is compiled, and tried in a worker behind its walls.

use std::time::{Duration, Instant};

use super::finding::{Finding, Level, Subject};
use crate::config::{Config, Tenant, Walls};
use crate::rules::{DEFAULT, try_settings};
use crate::sandbox::{LoadError, SandboxEngine};

/// No further rules are loaded after this. A component may take a minute to compile.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The whole is given up after this.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(120);

/// Loads all rules, and keeps nothing of them: what was compiled goes into no cache.
pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let config = Config { guest_cache: None, ..config.clone() };
    let loading = tokio::task::spawn_blocking(move || load_all(&config));
    match tokio::time::timeout(GIVE_UP_TIMEOUT, loading).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![failed(&error.to_string())],
        Err(_) => vec![failed(&format!("no end within {GIVE_UP_TIMEOUT:?}"))],
    }
}

fn failed(why: &str) -> Finding {
    Finding::error(
        "rules",
        &Subject::Settings,
        format!("the rules could not be tried: {why}"),
        "rules that load",
        "see whether the machine is overloaded, and look again",
    )
}

fn load_all(config: &Config) -> Vec<Finding> {
    let begun = Instant::now();
    let mut findings = vec![walls(config)];
    // What lacks of the walls is told already.
    let config = Config { guest_walls: Walls::Available, ..config.clone() };
    let engine = match SandboxEngine::new(&config) {
        Ok(engine) => engine,
        Err(error) => return vec![failed(&error.to_string())],
    };
    for tenant in &config.tenants {
        findings.push(match begun.elapsed() < LOAD_TIMEOUT {
            true => load(&engine, tenant),
            false => Finding::note(
                "rules",
                &Subject::Tenant(tenant.name.clone()),
                "not tried: the rules of the others took a minute",
                "",
                "",
            ),
        });
    }
    findings
}

fn load(engine: &SandboxEngine, tenant: &Tenant) -> Finding {
    const ID: &str = "rules";
    let subject = Subject::Tenant(tenant.name.clone());
    let refused = |why: String| {
        Finding::error(
            ID,
            &subject,
            why,
            "a component that loads",
            "GUEST=FILE with a component for wasm32-wasip2; docs/rules.md says how to build one",
        )
    };
    match try_settings(engine, tenant) {
        Ok((component, from)) => Finding::ok(ID, &subject, format!("{component} ({from}) loads")),
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
