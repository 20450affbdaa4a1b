//! Asks the services again and again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};

use super::picture::RulesStatus;
use crate::admin::{TenantList, TenantView};
use crate::client::{self, Client};

/// Names a tenant of a service, which stands at this place in the list of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TenantKey {
    pub(super) service: usize,
    pub(super) name: String,
}

/// What a service told, or why it did not.
pub(super) enum Update {
    Tenants { service: usize, at: DateTime<Utc>, told: Result<Vec<TenantView>, client::Error> },
    Rules { of: TenantKey, told: Result<RulesStatus, client::Error> },
}

/// Asks which tenants there are, and what they do.
pub(super) async fn tenants(client: &Client) -> Result<Vec<TenantView>, client::Error> {
    let TenantList { tenants } = client.get(&["v1", "tenants"]).await?;
    Ok(tenants)
}

/// Asks a service at each interval, and where the rules are of the tenant that somebody looks at closely. It ends when
/// nobody listens.
pub(super) async fn poll(
    client: Client,
    service: usize,
    interval: Duration,
    mut looked_at: watch::Receiver<Option<TenantKey>>,
    updates: mpsc::Sender<Update>,
) {
    loop {
        let told = tenants(&client).await;
        if updates.send(Update::Tenants { service, at: Utc::now(), told }).await.is_err() {
            return;
        }
        let looked_at_now = looked_at.borrow_and_update().clone();
        if let Some(of) = looked_at_now.filter(|of| of.service == service) {
            let told = client.get(&["v1", "tenants", &of.name, "rules"]).await;
            if updates.send(Update::Rules { of, told }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            changed = looked_at.changed() => if changed.is_err() { return },
        }
    }
}
