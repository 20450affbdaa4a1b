//! Keeps what each replica has in force of the rules, or why not.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::dead_letter_store::time;
use super::deployments::digest;
use super::pool::on_connection;
use super::{Database, Error};
use crate::batch::Digest;
use crate::config::TenantName;

/// A replica that has not been heard of for so long is told as silent.
pub const SILENT_AFTER_S: f64 = 15.0;

const REPORT: &str = "INSERT INTO rules_replicas
         (tenant, consumer, instance, deployment, version, refused, is_paused, settings, events_table)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
     ON CONFLICT (tenant, consumer) DO UPDATE SET
         since = CASE WHEN rules_replicas.version IS DISTINCT FROM EXCLUDED.version
                      THEN now() ELSE rules_replicas.since END,
         instance = EXCLUDED.instance, deployment = EXCLUDED.deployment, version = EXCLUDED.version,
         refused = EXCLUDED.refused, is_paused = EXCLUDED.is_paused, settings = EXCLUDED.settings,
         events_table = EXCLUDED.events_table, seen_at = now()";

/// What a replica reports of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    pub deployment: i64,
    pub version: Option<Digest>,
    pub refused: Option<String>,
    pub is_paused: bool,
}

/// What is known of a replica.
#[derive(Clone, Debug)]
pub struct Replica {
    pub consumer: String,
    pub report: ReplicaReport,
    pub since: DateTime<Utc>,
    pub events_table: String,
    /// The seconds since it was heard of last.
    pub silent_s: f64,
}

impl Database {
    /// Returns what each of the tenant's replicas reported last, a thousand of them at most.
    pub async fn replicas(&self, tenant: &TenantName) -> Result<Vec<Replica>, Error> {
        let sql = "SELECT consumer, deployment, version, refused, is_paused, since, events_table,
                          extract(epoch FROM now() - seen_at)::float8 AS silent_s
                   FROM rules_replicas WHERE tenant = $1 ORDER BY consumer LIMIT 1000";
        on_connection!(self, "looking for replicas", |connection| {
            let replica = |row: &PgRow| {
                Ok(Replica {
                    consumer: row.try_get("consumer")?,
                    report: ReplicaReport {
                        deployment: row.try_get("deployment")?,
                        version: digest(row, "version")?,
                        refused: row.try_get("refused")?,
                        is_paused: row.try_get("is_paused")?,
                    },
                    since: time(row.try_get("since")?)?,
                    events_table: row.try_get("events_table")?,
                    silent_s: row.try_get("silent_s")?,
                })
            };
            let rows = sqlx::query(sql).bind(tenant.as_str()).fetch_all(connection).await?;
            rows.iter().map(replica).collect()
        })
    }

    /// Returns whether a replica has served the tenant with these settings, by what each reported last.
    pub async fn knows_settings(&self, tenant: &TenantName, settings: Digest) -> Result<bool, Error> {
        let sql = "SELECT EXISTS (SELECT FROM rules_replicas WHERE tenant = $1 AND settings = $2)";
        on_connection!(self, "looking for the settings of replicas", |connection| {
            let known = sqlx::query_scalar(sql).bind(tenant.as_str()).bind(settings.as_bytes());
            Ok(known.fetch_one(connection).await?)
        })
    }

    /// Reports what this replica has in force.
    pub async fn report_rules(
        &self,
        tenant: &TenantName,
        report: &ReplicaReport,
        settings: Digest,
        events_table: &str,
    ) -> Result<(), Error> {
        on_connection!(self, "reporting which rules are in force", |connection| {
            sqlx::query(REPORT)
                .bind(tenant.as_str())
                .bind(&self.consumer)
                .bind(self.instance)
                .bind(report.deployment)
                .bind(report.version.as_ref().map(Digest::as_bytes))
                .bind(&report.refused)
                .bind(report.is_paused)
                .bind(settings.as_bytes())
                .bind(events_table)
                .execute(connection)
                .await?;
            Ok(())
        })?;
        self.reported.lock().insert(tenant.clone());
        Ok(())
    }

    /// Tells that this replica is there. Returns whether the database still has what it reported for each tenant.
    pub async fn heartbeat(&self) -> Result<bool, Error> {
        let reported = self.reported.lock().len();
        let known = on_connection!(self, "telling that the replica is there", |connection| {
            let beat = sqlx::query("UPDATE rules_replicas SET seen_at = now() WHERE instance = $1");
            Ok(beat.bind(self.instance).execute(connection).await?.rows_affected())
        })?;
        Ok(usize::try_from(known).is_ok_and(|known| known >= reported))
    }

    /// Tells that this replica serves this tenant no more, or none. Its rows stay: they say with which settings it ran.
    pub async fn leave_replicas(&self, tenant: Option<&TenantName>) -> Result<(), Error> {
        self.reported.lock().retain(|reported| tenant.is_some_and(|gone| gone != reported));
        on_connection!(self, "telling that the replica is gone", |connection| {
            let gone =
                "UPDATE rules_replicas SET seen_at = now() - INTERVAL '1 day', instance = gen_random_uuid()
                        WHERE instance = $1 AND ($2::text IS NULL OR tenant = $2)";
            let gone = sqlx::query(gone).bind(self.instance).bind(tenant.map(TenantName::as_str));
            gone.execute(connection).await?;
            Ok(())
        })
    }
}
