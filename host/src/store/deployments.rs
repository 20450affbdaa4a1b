//! Keeps the versions of the rules, and the history that says which of them is wanted.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::dead_letter_store::time;
use super::pool::{self, on_connection};
use super::{Database, Error};
use crate::batch::{Digest, Version};
use crate::config::TenantName;

/// The channel of NOTIFY that tells of deployments.
pub(super) const CHANNEL: &str = "sluicegate_rules";
/// The actions that put a version into force.
const PUTS_IN_FORCE: &str = "action IN ('default', 'file', 'settings', 'deploy', 'rollback')";
/// The same, without what the files of replicas held.
const DEPLOYS: &str = "action IN ('default', 'settings', 'deploy', 'rollback')";
/// The versions of a tenant that are kept, besides those of its last deployments and those in force.
const KEPT_VERSIONS: i64 = 100;
/// The deployments of a tenant that are kept.
const KEPT_DEPLOYMENTS: i64 = 10_000;

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('sluicegate.rules'))";
const INSERT_VERSION: &str =
    "INSERT INTO rules_versions (tenant, version, component, manifest, source, author, message)
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
const INSERT_DEPLOYMENT: &str =
    "INSERT INTO rules_deployments (tenant, action, version, component, author, message)
     VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
const PRUNE_REPLICAS: &str = "DELETE FROM rules_replicas WHERE tenant = $1
     AND seen_at < now() - INTERVAL '30 days' AND since < now() - INTERVAL '30 days'";
/// The last deployment of a file and the last of anything else say what is wanted, and pauses whether to read.
const PRUNE_DEPLOYMENTS: &str = "DELETE FROM rules_deployments WHERE tenant = $1
     AND id <= (SELECT id FROM rules_deployments WHERE tenant = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)
     AND id NOT IN (SELECT max(id) FROM rules_deployments
                    WHERE tenant = $1 AND version IS NOT NULL GROUP BY action = 'file')
     AND id NOT IN (SELECT max(id) FROM rules_deployments
                    WHERE tenant = $1 AND action IN ('pause', 'resume'))";
const PRUNE_VERSIONS: &str = "DELETE FROM rules_versions WHERE tenant = $1
     AND number <= (SELECT number FROM rules_versions WHERE tenant = $1 ORDER BY number DESC OFFSET $2 LIMIT 1)
     AND version <> ALL (SELECT version FROM rules_replicas WHERE tenant = $1 AND version IS NOT NULL)
     AND version <> ALL (SELECT version FROM rules_deployments WHERE tenant = $1 AND version IS NOT NULL
                         ORDER BY id DESC LIMIT 100)
     AND version <> ALL (SELECT version FROM rules_deployments WHERE tenant = $1 AND version IS NOT NULL
                         AND action <> 'file' ORDER BY id DESC LIMIT 1)";
/// One without a version may be about to get one.
const PRUNE_COMPONENTS: &str = "DELETE FROM rules_components AS c WHERE stored_at < now() - INTERVAL '1 day'
     AND NOT EXISTS (SELECT FROM rules_versions AS v WHERE v.component = c.component)";

/// Does this in a transaction before or after all others of the kind, so that their numbers are in the order of their
/// commits, and tells those who listen.
macro_rules! in_order {
    ($database:expr, |$connection:ident| $work:block) => {
        on_connection!($database, "writing to the history of rules", |connection| {
            let mut transaction = connection.begin().await?;
            sqlx::query(LOCK).execute(&mut *transaction).await?;
            let $connection = &mut *transaction;
            let done = pool::failing(async { $work }).await?;
            sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(done)
        })
    };
}

/// What puts a version into force, or takes something else into the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Action {
    /// The program brought it.
    Default,
    /// The file that `GUEST` names changed.
    File,
    /// The tenant's settings changed.
    Settings,
    Deploy,
    Rollback,
    Pause,
    Resume,
    Refused,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A version to be recorded.
pub struct NewVersion<'a> {
    pub digest: Digest,
    pub component: Digest,
    /// The canonical form of the manifest.
    pub manifest: &'a str,
    /// Where the component came from.
    pub source: &'a str,
}

impl NewVersion<'_> {
    /// Returns its name when it has this number.
    pub fn numbered(&self, number: i32) -> Version {
        Version { digest: self.digest, component: self.component, number: Some(number) }
    }
}

/// Who wants something of a tenant's rules, and why.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub tenant: &'a TenantName,
    pub author: &'a str,
    pub message: &'a str,
}

/// What is wanted of a tenant's rules.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The version, unless none was ever deployed.
    pub version: Option<StoredVersion>,
    /// What put it into force.
    pub action: Option<Action>,
    /// Who wanted it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Since when it is wanted.
    pub since: Option<DateTime<Utc>>,
    pub is_paused: bool,
    /// The number of the deployment that put it into force.
    pub row: i64,
    /// The number of the last deployment that counts, a pause included.
    pub deployment: i64,
}

impl Wanted {
    fn is_of(&self, version: Digest) -> bool {
        self.version.as_ref().is_some_and(|wanted| wanted.version.digest == version)
    }
}

/// A version as the database has it.
#[derive(Clone, Debug)]
pub struct StoredVersion {
    pub version: Version,
    pub manifest: String,
    /// The bytes of its component.
    pub bytes: u64,
    pub source: String,
    pub author: String,
    pub message: String,
    pub made_at: DateTime<Utc>,
}

/// A row of the history.
#[derive(Clone, Debug)]
pub struct Deployment {
    pub id: i64,
    pub action: String,
    pub version: Option<Digest>,
    pub component: Option<Digest>,
    pub author: String,
    pub message: String,
    pub at: DateTime<Utc>,
}

impl StoredVersion {
    const COLUMNS: &'static str = "version, v.component, number, manifest, source, author, message, made_at, \
         (SELECT length(bytes)::bigint FROM rules_components AS c WHERE c.component = v.component) AS bytes";

    fn from_row(row: &PgRow) -> Result<Self, Error> {
        let version = Version {
            digest: digest(row, "version")?.ok_or(Error::RulesTable("a version without its digest"))?,
            component: digest(row, "component")?.ok_or(Error::RulesTable("a version without a component"))?,
            number: Some(row.try_get("number")?),
        };
        Ok(Self {
            version,
            manifest: row.try_get("manifest")?,
            bytes: row.try_get::<Option<i64>, _>("bytes")?.unwrap_or(0).unsigned_abs(),
            source: row.try_get("source")?,
            author: row.try_get("author")?,
            message: row.try_get("message")?,
            made_at: time(row.try_get("made_at")?)?,
        })
    }
}

pub(super) fn digest(row: &PgRow, column: &str) -> Result<Option<Digest>, Error> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    bytes
        .map(|bytes| Digest::from_bytes(&bytes).ok_or(Error::RulesTable("a digest of another length")))
        .transpose()
}

impl Database {
    /// Records a version, whose component is stored, and wants it, unless it is wanted already. Returns the version's
    /// number and that of the deployment.
    pub async fn deploy(
        &self,
        request: &Request<'_>,
        new: &NewVersion<'_>,
        action: Action,
    ) -> Result<(i32, i64), Error> {
        in_order!(self, |connection| { deploy(request, new, action, connection).await })
    }

    /// Does the same if the version that is wanted is still that of the deployment with this number. Otherwise returns `None`.
    pub async fn deploy_in_place_of(
        &self,
        deployment: i64,
        request: &Request<'_>,
        new: &NewVersion<'_>,
        action: Action,
    ) -> Result<Option<(i32, i64)>, Error> {
        in_order!(self, |connection| {
            match wanted(request.tenant, false, connection).await?.row == deployment {
                true => Ok(Some(deploy(request, new, action, connection).await?)),
                false => Ok(None),
            }
        })
    }

    /// Takes into the history that reading stops or goes on, or that a component was refused, unless the last row says
    /// just that: a start that fails is repeated.
    pub async fn note_deployment(
        &self,
        request: &Request<'_>,
        action: Action,
        component: Option<Digest>,
    ) -> Result<(), Error> {
        let sql = "SELECT action = $2 AND message = $3 FROM rules_deployments WHERE tenant = $1
                   ORDER BY id DESC LIMIT 1";
        in_order!(self, |connection| {
            let is_known = sqlx::query_scalar(sql)
                .bind(request.tenant.as_str())
                .bind(action.as_str())
                .bind(request.message)
                .fetch_optional(&mut *connection)
                .await?;
            if is_known != Some(true) {
                insert_deployment(request, action, None, component, connection).await?;
            }
            Ok(())
        })
    }

    /// Returns what is wanted of a tenant's rules. What files held counts only where they rule.
    pub async fn wanted(&self, tenant: &TenantName, with_files: bool) -> Result<Wanted, Error> {
        on_connection!(self, "looking which rules are wanted", |connection| {
            wanted(tenant, with_files, connection).await
        })
    }

    /// Returns whether the tenant has ever had a version with this component.
    pub async fn has_version_of(&self, tenant: &TenantName, component: Digest) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT FROM rules_versions WHERE tenant = $1 AND component = $2)";
        on_connection!(self, "looking for a version", |connection| {
            let found = sqlx::query_scalar(sql).bind(tenant.as_str()).bind(component.as_bytes());
            Ok(found.fetch_one(connection).await?)
        })
    }

    /// Returns the number of the last deployment of any tenant.
    pub async fn last_deployment(&self) -> Result<i64, Error> {
        on_connection!(self, "looking for deployments", |connection| {
            let last = sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM rules_deployments");
            Ok(last.fetch_one(connection).await?)
        })
    }

    /// Returns a tenant's versions, the newest first.
    pub async fn versions(&self, tenant: &TenantName, limit: u32) -> Result<Vec<StoredVersion>, Error> {
        let sql = format!(
            "SELECT {} FROM rules_versions AS v WHERE tenant = $1 ORDER BY number DESC LIMIT $2",
            StoredVersion::COLUMNS
        );
        on_connection!(self, "listing versions", |connection| {
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(i64::from(limit));
            rows.fetch_all(connection).await?.iter().map(StoredVersion::from_row).collect()
        })
    }

    /// Returns the versions of a tenant whose digest begins with these hexadecimal digits; two at most.
    pub async fn versions_like(
        &self,
        tenant: &TenantName,
        digits: &str,
    ) -> Result<Vec<StoredVersion>, Error> {
        let sql = format!(
            "SELECT {} FROM rules_versions AS v
             WHERE tenant = $1 AND starts_with(encode(version, 'hex'), $2) ORDER BY number DESC LIMIT 2",
            StoredVersion::COLUMNS
        );
        on_connection!(self, "looking for a version", |connection| {
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str()).bind(digits);
            rows.fetch_all(connection).await?.iter().map(StoredVersion::from_row).collect()
        })
    }

    /// Returns what happened to a tenant's rules, the newest first.
    pub async fn deployments(&self, tenant: &TenantName, limit: u32) -> Result<Vec<Deployment>, Error> {
        let sql = "SELECT id, action, version, component, author, message, at FROM rules_deployments
                   WHERE tenant = $1 ORDER BY id DESC LIMIT $2";
        on_connection!(self, "reading the history of rules", |connection| {
            let rows = sqlx::query(sql).bind(tenant.as_str()).bind(i64::from(limit));
            let deployment = |row: &PgRow| {
                Ok(Deployment {
                    id: row.try_get("id")?,
                    action: row.try_get("action")?,
                    version: digest(row, "version")?,
                    component: digest(row, "component")?,
                    author: row.try_get("author")?,
                    message: row.try_get("message")?,
                    at: time(row.try_get("at")?)?,
                })
            };
            rows.fetch_all(connection).await?.iter().map(deployment).collect()
        })
    }

    /// Deletes what nobody needs any more: the end of a long history, versions that are neither recent nor in force
    /// anywhere, components without a version, and replicas that are long gone.
    pub async fn prune_rules(&self, tenant: &TenantName) -> Result<(), Error> {
        in_order!(self, |connection| {
            let name = tenant.as_str();
            sqlx::query(PRUNE_REPLICAS).bind(name).execute(&mut *connection).await?;
            let deployments = sqlx::query(PRUNE_DEPLOYMENTS).bind(name).bind(KEPT_DEPLOYMENTS);
            deployments.execute(&mut *connection).await?;
            let versions = sqlx::query(PRUNE_VERSIONS).bind(name).bind(KEPT_VERSIONS);
            versions.execute(&mut *connection).await?;
            sqlx::query(PRUNE_COMPONENTS).execute(&mut *connection).await?;
            Ok(())
        })
    }
}

async fn deploy(
    request: &Request<'_>,
    new: &NewVersion<'_>,
    action: Action,
    connection: &mut PgConnection,
) -> Result<(i32, i64), Error> {
    let Request { tenant, author, message } = *request;
    sqlx::query(INSERT_VERSION)
        .bind(tenant.as_str())
        .bind(new.digest.as_bytes())
        .bind(new.component.as_bytes())
        .bind(new.manifest)
        .bind(new.source)
        .bind(author)
        .bind(message)
        .execute(&mut *connection)
        .await?;
    let number = "SELECT number FROM rules_versions WHERE tenant = $1 AND version = $2";
    let number = sqlx::query_scalar(number).bind(tenant.as_str()).bind(new.digest.as_bytes());
    let number: i32 = number.fetch_one(&mut *connection).await?;
    let newest = wanted(tenant, true, connection).await?;
    // A file counts for replicas with that file only, so for the others this may be news all the same.
    let is_known = newest.is_of(new.digest)
        && (action == Action::File || wanted(tenant, false, connection).await?.is_of(new.digest));
    if is_known {
        return Ok((number, newest.deployment));
    }
    let id = insert_deployment(request, action, Some(new.digest), Some(new.component), connection).await?;
    Ok((number, id))
}

async fn insert_deployment(
    request: &Request<'_>,
    action: Action,
    version: Option<Digest>,
    component: Option<Digest>,
    connection: &mut PgConnection,
) -> Result<i64, Error> {
    let id = sqlx::query_scalar(INSERT_DEPLOYMENT)
        .bind(request.tenant.as_str())
        .bind(action.as_str())
        .bind(version.as_ref().map(Digest::as_bytes))
        .bind(component.as_ref().map(Digest::as_bytes))
        .bind(request.author)
        .bind(request.message)
        .fetch_one(connection)
        .await?;
    Ok(id)
}

async fn wanted(
    tenant: &TenantName,
    with_files: bool,
    connection: &mut PgConnection,
) -> Result<Wanted, Error> {
    let counts = if with_files { PUTS_IN_FORCE } else { DEPLOYS };
    let sql = format!(
        "SELECT {}, d.id, d.action, d.wanted_by, d.wanted_because, d.wanted_at FROM
             (SELECT id, action, version AS wanted, author AS wanted_by, message AS wanted_because, at AS wanted_at FROM rules_deployments
              WHERE tenant = $1 AND {counts} ORDER BY id DESC LIMIT 1) AS d
         JOIN rules_versions AS v ON v.tenant = $1 AND v.version = d.wanted",
        StoredVersion::COLUMNS
    );
    let version = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(tenant.as_str());
    let version = version.fetch_optional(&mut *connection).await?;
    let sql = "SELECT id, action FROM rules_deployments WHERE tenant = $1 AND action IN ('pause', 'resume')
               ORDER BY id DESC LIMIT 1";
    let pause = sqlx::query(sql).bind(tenant.as_str()).fetch_optional(connection).await?;
    let id = |row: &Option<PgRow>| row.as_ref().map_or(Ok(0), |row| row.try_get::<i64, _>("id"));
    let action = |row: &Option<PgRow>| row.as_ref().map(|row| row.try_get::<String, _>("action")).transpose();
    let since = version.as_ref().map(|row| row.try_get("wanted_at").and_then(time)).transpose()?;
    let text = |column| version.as_ref().map_or(Ok(String::new()), |row| row.try_get(column));
    Ok(Wanted {
        author: text("wanted_by")?,
        message: text("wanted_because")?,
        since,
        row: id(&version)?,
        deployment: id(&version)?.max(id(&pause)?),
        action: action(&version)?.and_then(|action| action.parse().ok()),
        is_paused: action(&pause)?.as_deref() == Some(Action::Pause.as_str()),
        version: version.as_ref().map(StoredVersion::from_row).transpose()?,
    })
}
