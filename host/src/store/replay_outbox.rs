//! Keeps what rules have published while letters were replayed: it is committed with their rows,
//! and kept until it is sent. For a batch of the stream, the record of its commit does that until
//! the XACK; a letter has no record.

use sqlx::{PgConnection, Row as _};

use super::pool::{PooledConnection, Purpose};
use super::{Error, Store, within_timeout};
use crate::capabilities::Publication;

const PUT: &str = "INSERT INTO replay_outbox (tenant, publications) VALUES ($1, $2)";
/// Leaves to others what they are sending, unless they die.
const TAKE: &str = "SELECT id, publications FROM replay_outbox WHERE tenant = $1
     ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";
const DELETE: &str = "DELETE FROM replay_outbox WHERE id = $1";

/// Puts publications into the outbox, in a transaction that is open.
pub(super) async fn put(
    store: &Store,
    publications: &[Publication],
    connection: &mut PgConnection,
) -> Result<(), Error> {
    if publications.is_empty() {
        return Ok(());
    }
    let encoded = postcard::to_stdvec(publications).map_err(Error::Outbox)?;
    sqlx::query(PUT).bind(store.tenant.as_str()).bind(encoded).execute(connection).await?;
    Ok(())
}

/// Entries to be sent. Nobody else sends them meanwhile. If this is dropped, they remain.
pub struct Due {
    pub publications: Vec<Publication>,
    id: i64,
    pooled: PooledConnection,
}

impl Store {
    /// Takes the oldest entries that the tenant's replays have left to be sent.
    pub async fn due(&self) -> Result<Option<Due>, Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let taken = async {
            sqlx::raw_sql("BEGIN").execute(&mut pooled.connection).await?;
            let row =
                sqlx::query(TAKE).bind(self.tenant.as_str()).fetch_optional(&mut pooled.connection).await?;
            if row.is_none() {
                sqlx::raw_sql("COMMIT").execute(&mut pooled.connection).await?;
            }
            Ok::<_, Error>(row)
        };
        let taken = within_timeout("looking into the outbox", taken).await;
        let Some(row) = taken.map_err(|error| self.database.failed(error))? else {
            pooled.release(&self.database);
            return Ok(None);
        };
        let publications = postcard::from_bytes(row.try_get("publications")?).map_err(Error::Outbox)?;
        Ok(Some(Due { publications, id: row.try_get("id")?, pooled }))
    }

    /// Deletes entries from the outbox, since they are sent.
    pub async fn sent(&self, due: Due) -> Result<(), Error> {
        let Due { mut pooled, id, .. } = due;
        let deleted = async {
            sqlx::query(DELETE).bind(id).execute(&mut pooled.connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut pooled.connection).await?;
            Ok::<(), Error>(())
        };
        let deleted = within_timeout("writing to the outbox", deleted).await;
        self.database.finish(pooled, deleted)
    }
}
