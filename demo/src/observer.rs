//! Looks at Redis and PostgreSQL, never at the service, and takes stock in the end.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::Error;
use super::error::within;
use super::ledger::{Audit, Ledger, Letter, Report};
use super::place::{STEP_TIMEOUT, Workdir, connect};
use sluicegate::config::{Config, Secret, Tenant};
use sluicegate::stream::{GroupMonitor, GroupStats, Redis};
use sluicegate_verdicts::Event;

/// Bounds how long taking stock may take.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(120);

/// Looks at both servers over connections of its own.
pub(super) struct Observer {
    monitor: GroupMonitor,
    postgres: PgConnection,
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) group_stats: GroupStats,
    pub(super) rows: u64,
    pub(super) letters: u64,
    /// Names the rules that made the newest dead letter.
    pub(super) component: Option<Vec<u8>>,
}

/// Holds what only PostgreSQL knows.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Counts the transactions that wrote something.
    pub(super) transactions: u64,
    /// Holds the microseconds from events to commits, in order; `None` without commit times.
    pub(super) latencies: Option<Vec<i64>>,
}

impl Observer {
    pub(super) async fn connect(place: &Workdir, group: &str) -> Result<Self, Error> {
        let config = Config { redis_url: Secret::from(place.redis_url().to_owned()), ..Config::default() };
        let tenant = Tenant {
            stream_name: place.stream.clone(),
            consumer_group: group.to_owned(),
            ..Tenant::default()
        };
        let postgres = connect(&place.postgres_url).await?;
        Ok(Self { monitor: Redis::new(&config)?.stream(&config, &tenant).monitor(), postgres })
    }

    /// Returns whether the service has made its group and its tables.
    pub(super) async fn is_ready(&mut self) -> Result<bool, Error> {
        let ready = sqlx::query_scalar("SELECT to_regclass('dead_letters') IS NOT NULL");
        let has_tables: bool = self.ask("looking for the tables", ready).await?;
        // Redis has no figures of a stream that does not exist.
        let has_group = self.monitor.group_stats().await.is_ok_and(|group_stats| group_stats.lag.is_some());
        Ok(has_tables && has_group)
    }

    pub(super) async fn group_stats(&mut self) -> Result<GroupStats, Error> {
        within("asking redis about the group", STEP_TIMEOUT, self.monitor.group_stats()).await
    }

    pub(super) async fn view(&mut self) -> Result<View, Error> {
        let group_stats = self.group_stats().await?;
        let statement = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM dead_letters),
                                (SELECT component FROM dead_letters ORDER BY id DESC LIMIT 1)";
        let what = "counting rows";
        let row = sqlx::query_as(statement).fetch_one(&mut self.postgres);
        let (rows, letters, component): (i64, i64, _) = within(what, STEP_TIMEOUT, async {
            row.await.map_err(|source| Error::Postgres { what, source })
        })
        .await?;
        Ok(View { group_stats, rows: rows.unsigned_abs(), letters: letters.unsigned_abs(), component })
    }

    /// Compares every row and every dead letter with the ledger.
    pub(super) async fn take_stock(&mut self, ledger: &Ledger) -> Result<(Report, Measured), Error> {
        within("reading the tables", AUDIT_TIMEOUT, self.read_tables(ledger)).await
    }

    async fn read_tables(&mut self, ledger: &Ledger) -> Result<(Report, Measured), Error> {
        let tracked = sqlx::query_scalar("SELECT current_setting('track_commit_timestamp') = 'on'");
        let has_commit_times: bool = self.ask("asking for commit times", tracked).await?;

        let mut audit = ledger.audit();
        let mut transactions = HashSet::new();
        let mut latencies = Vec::new();
        let failed = |source| Error::Postgres { what: "reading the tables", source };

        let statement = "SELECT event_id, time, event_type, user_id, properties::text, xmin::text,
                                CASE WHEN $1 THEN pg_xact_commit_timestamp(xmin) END FROM events";
        let mut rows = sqlx::query(statement).bind(has_commit_times).fetch(&mut self.postgres);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (event, transaction, committed) = event(&row).map_err(failed)?;
            transactions.insert(transaction);
            latencies.extend(committed.and_then(|at| (at - event.time).num_microseconds()));
            audit.row(&event);
        }
        drop(rows);

        let statement =
            "SELECT entry_id, reason, violations::text, fields, component, xmin::text FROM dead_letters";
        let mut rows = sqlx::query(statement).fetch(&mut self.postgres);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            transactions.insert(take_letter(&row, &mut audit).map_err(failed)?);
        }
        latencies.sort_unstable();
        let measured = Measured {
            transactions: u64::try_from(transactions.len()).unwrap_or(u64::MAX),
            latencies: has_commit_times.then_some(latencies),
        };
        Ok((audit.finish(), measured))
    }

    async fn ask(
        &mut self,
        what: &'static str,
        question: sqlx::query::QueryScalar<'_, sqlx::Postgres, bool, sqlx::postgres::PgArguments>,
    ) -> Result<bool, Error> {
        let answer = question.fetch_one(&mut self.postgres);
        within(what, STEP_TIMEOUT, async { answer.await.map_err(|source| Error::Postgres { what, source }) })
            .await
    }
}

/// Reads the event, its transaction, and when the transaction was committed.
fn event(row: &PgRow) -> Result<(Event, String, Option<DateTime<Utc>>), sqlx::Error> {
    let event = Event {
        event_id: row.try_get(0)?,
        time: row.try_get(1)?,
        event_type: row.try_get(2)?,
        user_id: row.try_get(3)?,
        properties: row.try_get(4)?,
    };
    Ok((event, row.try_get(5)?, row.try_get(6)?))
}

fn take_letter(row: &PgRow, audit: &mut Audit<'_>) -> Result<String, sqlx::Error> {
    #[derive(Deserialize)]
    struct Violation {
        path: String,
        code: String,
    }
    let violations: Vec<Violation> = serde_json::from_str(row.try_get(2)?)
        .map_err(|error| sqlx::Error::ColumnDecode { index: "violations".into(), source: error.into() })?;
    audit.letter(&Letter {
        entry: row.try_get(0)?,
        reason: row.try_get(1)?,
        violations: violations.into_iter().map(|Violation { path, code }| (path, code)).collect(),
        fields: row.try_get(3)?,
        component: row.try_get(4)?,
    });
    row.try_get(5)
}

impl Measured {
    /// Returns the time within which `percent` percent of the rows were committed.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let latencies = self.latencies.as_ref()?;
        let micros = latencies.get(latencies.len().saturating_sub(1) * percent / 100)?;
        Some(Duration::from_micros(u64::try_from(*micros).unwrap_or(0)))
    }
}
