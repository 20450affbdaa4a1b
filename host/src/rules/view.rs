//! Versions, deployments and replicas as JSON, for the command line and the admin API alike.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::deploy::{Deployed, Status};
use crate::batch::Digest;
use crate::store::{Deployment, Replica, StoredVersion};

/// What is wanted of a tenant's rules, and where each replica is.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusView {
    /// The version that was deployed just now, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    deployed: Option<String>,
    /// The version that is wanted; null before the first deployment.
    version: Option<String>,
    /// The number of the deployment that put it into force; 0 before the first one.
    deployment: i64,
    /// What put the version into force: `default`, `file`, `settings`, `deploy` or `rollback`.
    action: Option<&'static str>,
    by: String,
    since: Option<String>,
    /// Whether nothing is to be read.
    paused: bool,
    /// The file that rules instead of deployments.
    file: Option<String>,
    replicas_there: usize,
    replicas_in_force: usize,
    /// Whether every replica has in force what is wanted, and there is one.
    everywhere: bool,
    replicas: Vec<ReplicaView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ReplicaView {
    replica: String,
    version: Option<String>,
    since: String,
    /// `in force`, `behind`, `refused`, `differs` or `silent`.
    state: &'static str,
    /// Why the version that is wanted is not in force.
    refused: Option<String>,
    paused: bool,
    /// The seconds since it was heard of last.
    seen_s_ago: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    version: String,
    /// What a column `rules_version` of the tenant's table holds.
    number: Option<i32>,
    component: String,
    bytes: u64,
    made: String,
    by: String,
    /// Where the component came from.
    from: String,
    message: String,
    /// Settings, grants, statements, limits and world.
    manifest: Value,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentView {
    deployment: i64,
    at: String,
    action: String,
    version: Option<String>,
    component: Option<String>,
    by: String,
    message: String,
}

impl StatusView {
    pub fn new(status: &Status, deployed: Option<&Deployed>) -> Self {
        let (replicas_there, replicas_in_force) = status.counts();
        let wanted = &status.wanted;
        Self {
            deployed: deployed.map(|deployed| deployed.version.digest.to_hex()),
            version: wanted.version.as_ref().map(|stored| stored.version.digest.to_hex()),
            deployment: wanted.row,
            action: wanted.action.map(|action| action.as_str()),
            by: wanted.author.clone(),
            since: wanted.since.map(second),
            paused: wanted.is_paused,
            file: status.file.clone(),
            replicas_there,
            replicas_in_force,
            everywhere: status.is_everywhere(),
            replicas: status.replicas.iter().map(|replica| ReplicaView::new(status, replica)).collect(),
        }
    }
}

impl ReplicaView {
    fn new(status: &Status, replica: &Replica) -> Self {
        Self {
            replica: replica.consumer.clone(),
            version: replica.report.version.as_ref().map(Digest::to_hex),
            since: second(replica.since),
            state: status.standing(replica).into(),
            refused: replica.report.refused.clone(),
            paused: replica.report.is_paused,
            seen_s_ago: replica.silent_s,
        }
    }
}

impl VersionView {
    pub fn new(stored: &StoredVersion) -> Self {
        Self {
            version: stored.version.digest.to_hex(),
            number: stored.version.number,
            component: stored.version.component.to_hex(),
            bytes: stored.bytes,
            made: second(stored.made_at),
            by: stored.author.clone(),
            from: stored.source.clone(),
            message: stored.message.clone(),
            manifest: manifest(stored),
        }
    }
}

impl DeploymentView {
    pub fn new(row: &Deployment) -> Self {
        Self {
            deployment: row.id,
            at: second(row.at),
            action: row.action.clone(),
            version: row.version.as_ref().map(Digest::to_hex),
            component: row.component.as_ref().map(Digest::to_hex),
            by: row.author.clone(),
            message: row.message.clone(),
        }
    }
}

pub(super) fn manifest(stored: &StoredVersion) -> Value {
    serde_json::from_str(&stored.manifest).unwrap_or_else(|_| Value::String(stored.manifest.clone()))
}

pub(crate) fn second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
