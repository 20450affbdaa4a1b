//! What the services told last, and whether they answer.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::admin::TenantView;
use crate::client::{self, Client};
use crate::text::printable;

/// A service, as it was heard of last.
#[derive(Clone, Debug)]
pub(super) struct ServicePicture {
    /// Its host and port.
    pub(super) name: String,
    /// When it told of its tenants last, and what.
    told: Option<(DateTime<Utc>, Vec<TenantView>)>,
    pub(super) failing: Option<Failing>,
}

/// A service does not answer.
#[derive(Clone, Debug)]
pub(super) struct Failing {
    /// When it answered last, or else was asked first.
    pub(super) since: DateTime<Utc>,
    pub(super) why: String,
}

/// Where the rules of a tenant are, on each replica.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RulesStatus {
    /// The version that is wanted.
    pub(super) version: Option<String>,
    pub(super) by: String,
    pub(super) since: Option<String>,
    pub(super) replicas: Vec<ReplicaStatus>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ReplicaStatus {
    pub(super) replica: String,
    pub(super) version: Option<String>,
    pub(super) state: String,
    pub(super) refused: Option<String>,
    pub(super) paused: bool,
    pub(super) seen_s_ago: f64,
}

impl ServicePicture {
    pub(super) fn new(client: &Client) -> Self {
        Self { name: printable(client.service()).into_owned(), told: None, failing: None }
    }

    /// Takes what the service told. If it told nothing, what it told before stays.
    pub(super) fn update(&mut self, at: DateTime<Utc>, told: Result<Vec<TenantView>, client::Error>) {
        match told {
            Ok(tenants) => (self.told, self.failing) = (Some((at, tenants)), None),
            Err(error) => {
                let first = || self.told.as_ref().map_or(at, |(told_at, _)| *told_at);
                let since = self.failing.as_ref().map_or_else(first, |failing| failing.since);
                self.failing = Some(Failing { since, why: error.to_string() });
            }
        }
    }

    /// Returns whether the service has told anything yet.
    pub(super) fn has_told(&self) -> bool {
        self.told.is_some()
    }

    /// Returns the tenants of the service, as it told of them last.
    pub(super) fn tenants(&self) -> &[TenantView] {
        self.told.as_ref().map_or(&[], |(_, tenants)| tenants)
    }
}
