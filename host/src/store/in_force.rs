//! Records which rules each replica has in force. The service writes it, and a replay looks at it.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::dead_letter_store::time;
use super::pool::Purpose;
use super::{DeadLetterStore, Error, Store, within_timeout};
use crate::batch::{Digest, Digester};
use crate::config::{Grants, Tenant, TenantName};

const OWN: &str = "SELECT consumer, component, salt, settings, since FROM rules_in_force
     WHERE tenant = $1 AND consumer = $2";
const NOTE: &str = "INSERT INTO rules_in_force (tenant, consumer, component, salt, settings)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (tenant, consumer) DO UPDATE
         SET component = EXCLUDED.component, salt = EXCLUDED.salt, settings = EXCLUDED.settings, since = now()";
/// Deletes replicas that are gone, but never the newest row, by which a replay goes.
const PRUNE: &str = "DELETE FROM rules_in_force WHERE tenant = $1 AND since < now() - INTERVAL '30 days'
     AND since < (SELECT max(since) FROM rules_in_force WHERE tenant = $1)";
const NEWEST: &str = "SELECT consumer, component, salt, settings, since FROM rules_in_force WHERE tenant = $1
     ORDER BY since DESC LIMIT 1";

/// The rules that a replica has recorded as in force.
#[derive(Clone, Debug)]
pub struct KnownRules {
    pub consumer: String,
    /// The digest of the component.
    pub component: Vec<u8>,
    pub since: DateTime<Utc>,
    salt: Vec<u8>,
    settings: Vec<u8>,
}

impl KnownRules {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            consumer: row.try_get("consumer")?,
            component: row.try_get("component")?,
            since: time(row.try_get("since")?)?,
            salt: row.try_get("salt")?,
            settings: row.try_get("settings")?,
        })
    }

    /// Returns whether a guest of this tenant has the same settings, grants, granted statements and
    /// table. Limits are not compared: raising one may be what a letter needs.
    pub fn has_settings_of(&self, tenant: &Tenant) -> bool {
        hash(&self.salt, tenant).as_bytes() == self.settings.as_slice()
    }
}

/// Hashes what decides besides the component, whatever the order in which it was written down. The
/// names of granted statements are those of the statements, so their list is left out.
fn hash(salt: &[u8], tenant: &Tenant) -> Digest {
    let grants = Grants { statements: Vec::new(), ..tenant.grants.clone() };
    let decides = (&tenant.guest_settings, &grants, &tenant.statements, &tenant.events_table);
    // Maps with text as keys, text, numbers and flags always become JSON.
    let json = serde_json::to_vec(&decides).unwrap_or_default();
    let mut digester = Digester::default();
    digester.add(salt);
    digester.add(&json);
    digester.digest()
}

impl Store {
    /// Records the component and the settings in force for this tenant, unless that is known. So
    /// the newest row is of the replica whose rules changed last, not of the one that started last.
    pub async fn note_rules_in_force(&self, component: Digest, tenant: &Tenant) -> Result<(), Error> {
        let salt = Uuid::new_v4();
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let noted = async {
            let own = sqlx::query(OWN).bind(self.tenant.as_str()).bind(&self.database.consumer);
            let own = own.fetch_optional(&mut pooled.connection).await?;
            // A row that cannot be read was written by somebody else, and is replaced.
            let known = own.as_ref().and_then(|row| KnownRules::from_row(row).ok());
            if known
                .is_some_and(|known| known.component == component.as_bytes() && known.has_settings_of(tenant))
            {
                return Ok(());
            }
            sqlx::query(NOTE)
                .bind(self.tenant.as_str())
                .bind(&self.database.consumer)
                .bind(component.as_bytes())
                .bind(&salt.as_bytes()[..])
                .bind(hash(salt.as_bytes(), tenant).as_bytes())
                .execute(&mut pooled.connection)
                .await?;
            sqlx::query(PRUNE).bind(self.tenant.as_str()).execute(&mut pooled.connection).await?;
            Ok::<(), Error>(())
        };
        let noted = within_timeout("noting which rules are in force", noted).await;
        self.database.finish(pooled, noted)
    }
}

impl DeadLetterStore {
    /// Returns what was recorded last for this tenant, by whichever replica.
    pub async fn rules_in_force(&self, tenant: &TenantName) -> Result<Option<KnownRules>, Error> {
        let mut pooled = self.database.acquire(Purpose::Plain).await?;
        let row = sqlx::query(NEWEST).bind(tenant.as_str()).fetch_optional(&mut pooled.connection);
        let row = within_timeout("looking which rules are in force", row).await;
        let Some(row) = self.database.finish(pooled, row)? else { return Ok(None) };
        Ok(Some(KnownRules::from_row(&row)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_is_compared_and_limits_are_not() {
        let tenant = Tenant::default();
        let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let salt = b"salt";
        let same = |other: &Tenant| hash(salt, &tenant) == hash(salt, other);
        assert!(same(&Tenant {
            guest_time_limit: crate::config::Time::millis(7),
            batch_size: 7,
            ..tenant.clone()
        }));
        assert!(!same(&Tenant { guest_settings: set("key", "pepper"), ..tenant.clone() }));
        let names =
            |names: [&str; 2]| Grants { statements: names.map(str::to_owned).into(), ..Grants::default() };
        let granted = |order| hash(salt, &Tenant { grants: names(order), ..tenant.clone() });
        assert_eq!(granted(["a", "b"]), granted(["b", "a"]));
        assert!(!same(&Tenant { grants: Grants { stream: true, ..Grants::default() }, ..tenant.clone() }));
        assert_ne!(hash(b"salt", &tenant), hash(b"other", &tenant));
    }
}
