//! `sluicegate doctor`: looks at the settings and at both servers, changes nothing, and says what to change.
//!
//! - `finding`, `report`: what was found, and how it is told
//! - `settings`, `rules`: judge the settings, and load the rules as the service would
//! - `redis_server`, `streams`: judge what `stream::inspect` has seen
//! - `postgres_server`, `tables`: judge what `store::inspect` has seen
//! - `clocks`, `version`: what both servers have
//!
//! The judges are functions of what was seen, and ask nobody. Each look has a time limit, and one that fails is a
//! finding itself: the others go on.

mod clocks;
mod finding;
mod postgres_server;
mod redis_server;
mod report;
mod rules;
mod settings;
mod streams;
mod tables;
mod version;

use std::io::{self, Write};

pub use finding::{Finding, Level, Subject};

use crate::config::{self, Config};
use crate::store::{self, Database};
use crate::stream::{self, Redis};

/// How to look and how to tell.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub json: bool,
    /// Whether warnings count as errors.
    pub strict: bool,
}

/// Looks at everything and tells it. Returns whether nothing must be done.
pub async fn run(
    config: Result<Config, config::Error>,
    how: How,
    out: &mut dyn Write,
) -> Result<bool, io::Error> {
    let mut findings = match config {
        Ok(config) => look(&config).await,
        Err(error) => vec![unusable_settings(&error)],
    };
    findings.sort_by_key(|finding| finding.level);
    match how.json {
        true => report::json(&findings, out)?,
        false => report::text(&findings, out)?,
    }
    out.flush()?;
    let least = if how.strict { Level::Warning } else { Level::Error };
    Ok(findings.iter().all(|finding| finding.level > least))
}

/// Looks at everything.
pub async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = settings::judge(config);
    let (rules, redis, postgres) =
        tokio::join!(rules::look(config), look_at_redis(config), look_at_postgres(config));
    findings.extend(rules);
    findings.extend(redis);
    findings.extend(postgres);
    findings
}

fn unusable_settings(error: &config::Error) -> Finding {
    Finding::error(
        "settings",
        &Subject::Settings,
        error.to_string(),
        "settings that read; nothing else was looked at",
        "sluicegate settings prints all of them, with their limits",
    )
}

async fn look_at_redis(config: &Config) -> Vec<Finding> {
    let looked = match Redis::new(config) {
        Ok(redis) => redis.inspect(&config.tenants).await,
        Err(error) => Err(error),
    };
    let look = match looked {
        Ok(look) => look,
        Err(error) => return vec![redis_away(&error)],
    };
    let mut findings = redis_server::judge(&look, config.tenants.len());
    findings.extend(streams::broken(&look));
    for (stream, tenant) in look.streams.iter().zip(&config.tenants) {
        findings.extend(streams::judge(stream, config, tenant, look.user.as_deref()));
    }
    findings
}

fn redis_away(error: &stream::Error) -> Finding {
    let remedy = match error {
        stream::Error::Settings(_) | stream::Error::Url(_) | stream::Error::Tls(_) => {
            "REDIS_URL=redis://user:password@host:6379, or rediss:// with TLS"
        }
        error if error.is_of_credentials() => {
            "put the user and the password of Redis' ACL into REDIS_URL: redis://user:password@host:6379"
        }
        _ => {
            "start Redis, and see whether host, port and firewall let this host in: redis-cli -u REDIS_URL PING"
        }
    };
    Finding::error(
        "redis-reachable",
        &Subject::Redis,
        error.to_string(),
        "a server that lets us in and answers",
        remedy,
    )
}

async fn look_at_postgres(config: &Config) -> Vec<Finding> {
    let database = match Database::new(config) {
        Ok(database) => database,
        Err(error) => return vec![postgres_away(&error, "")],
    };
    let look = match database.inspect(&config.tenants).await {
        Ok(look) => look,
        Err(error) => return vec![postgres_away(&error, database.address())],
    };
    let mut findings = postgres_server::judge(&look, config);
    findings.extend(tables::judge_own(&look));
    for (table, tenant) in look.tables.iter().zip(&config.tenants) {
        findings.extend(tables::judge(table, &look, tenant));
    }
    findings
}

fn postgres_away(error: &store::Error, address: &str) -> Finding {
    let remedy = match error {
        store::Error::Settings(_) | store::Error::Url => {
            "POSTGRES_URL=postgres://user:password@host:5432/database"
        }
        error if error.is_of_credentials() => {
            "put a role that may log in, and its password, into POSTGRES_URL, and see pg_hba.conf"
        }
        _ => {
            "start PostgreSQL, make the database, and see whether host, port and firewall let this host in: psql POSTGRES_URL"
        }
    };
    let found = match address.is_empty() {
        true => error.to_string(),
        false => format!("postgres at {address}: {error}"),
    };
    Finding::error(
        "postgres-reachable",
        &Subject::Postgres,
        found,
        "a server that lets us in and answers",
        remedy,
    )
}
