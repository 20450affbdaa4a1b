//! Keeps who has asked for a change, and what came of it.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::dead_letter_store::time;
use super::pool::on_connection;
use super::{Database, Error};
use sluicegate_verdicts::validate::cut;

/// The rows that are kept, the newest.
const KEPT_ROWS: i64 = 100_000;

/// A change that somebody has asked for. Of each text a kibibyte is kept.
#[derive(Clone, Debug)]
pub struct NewAudit<'a> {
    /// `api` or `command`.
    pub via: &'static str,
    pub author: &'a str,
    pub action: &'a str,
    pub tenant: Option<&'a str>,
    /// What it is about.
    pub target: &'a str,
    /// `done`, `refused` or `failed`.
    pub outcome: &'static str,
    /// The status of the API's answer.
    pub status: Option<u16>,
    pub detail: &'a str,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct AuditRow {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub via: String,
    pub author: String,
    pub action: String,
    pub tenant: Option<String>,
    pub target: String,
    pub outcome: String,
    pub status: Option<i32>,
    pub detail: String,
}

impl AuditRow {
    fn from_row(row: &PgRow) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: time(row.try_get("at")?)?,
            via: row.try_get("via")?,
            author: row.try_get("author")?,
            action: row.try_get("action")?,
            tenant: row.try_get("tenant")?,
            target: row.try_get("target")?,
            outcome: row.try_get("outcome")?,
            status: row.try_get("status")?,
            detail: row.try_get("detail")?,
        })
    }
}

impl Database {
    /// Adds a row.
    pub async fn note_audit(&self, new: &NewAudit<'_>) -> Result<(), Error> {
        let sql = "INSERT INTO admin_audit (via, author, action, tenant, target, outcome, status, detail)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let text = |text: &str| cut(text.to_owned());
        on_connection!(self, "writing to the audit", |connection| {
            sqlx::query(sql)
                .bind(new.via)
                .bind(text(new.author))
                .bind(text(new.action))
                .bind(new.tenant.map(text))
                .bind(text(new.target))
                .bind(new.outcome)
                .bind(new.status.map(i32::from))
                .bind(text(new.detail))
                .execute(connection)
                .await?;
            Ok(())
        })
    }

    /// Returns rows, the newest first: those of these tenants, or all, with numbers below `before_id`.
    pub async fn audit(
        &self,
        tenants: Option<&[String]>,
        before_id: Option<i64>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, Error> {
        let sql =
            "SELECT id, at, via, author, action, tenant, target, outcome, status, detail FROM admin_audit
                   WHERE ($1::text[] IS NULL OR tenant = ANY ($1)) AND id < $2 ORDER BY id DESC LIMIT $3";
        on_connection!(self, "reading the audit", |connection| {
            let rows =
                sqlx::query(sql).bind(tenants).bind(before_id.unwrap_or(i64::MAX)).bind(i64::from(limit));
            rows.fetch_all(connection).await?.iter().map(AuditRow::from_row).collect()
        })
    }

    /// Deletes rows that are older than 90 days, or too many.
    pub async fn prune_audit(&self) -> Result<(), Error> {
        let sql = "DELETE FROM admin_audit WHERE at < now() - INTERVAL '90 days'
                   OR id <= (SELECT id FROM admin_audit ORDER BY id DESC OFFSET $1 LIMIT 1)";
        on_connection!(self, "deleting from the audit", |connection| {
            sqlx::query(sql).bind(KEPT_ROWS).execute(connection).await?;
            Ok(())
        })
    }
}
