//! Records who has asked for a change and what came of it, by the command line or the admin API.

use std::fmt::Display;
use std::time::Duration;

use crate::store::{Database, NewAudit};

/// How long PostgreSQL may take to record a change.
const RECORDING: Duration = Duration::from_secs(5);

/// Records a change. Returns why it is not recorded: the change is made all the same.
pub(crate) async fn record(database: &Database, new: &NewAudit<'_>) -> Result<(), String> {
    match tokio::time::timeout(RECORDING, database.note_audit(new)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("this was not recorded in admin_audit: postgres: {error}")),
        Err(_) => {
            Err(format!("this was not recorded in admin_audit: no answer from postgres within {RECORDING:?}"))
        }
    }
}

/// A change by a command.
pub(crate) struct Commanded<'a> {
    pub(crate) author: &'a str,
    /// The command, without the name of the program.
    pub(crate) action: &'a str,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) target: &'a str,
}

impl Commanded<'_> {
    /// Records what came of it, likewise.
    pub(crate) async fn record(
        &self,
        database: &Database,
        told: Result<String, &(impl Display + Sync)>,
    ) -> Result<(), String> {
        let (outcome, detail) = match told {
            Ok(told) => ("done", told),
            Err(error) => ("failed", error.to_string()),
        };
        let Self { author, action, tenant, target } = *self;
        let new = NewAudit {
            via: "command",
            author,
            action,
            tenant,
            target,
            outcome,
            status: None,
            detail: &detail,
        };
        record(database, &new).await
    }
}

/// Returns the name of the user who runs this.
pub(crate) fn user() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let is_name = |name: &String| !name.is_empty() && name.len() <= 1_000 && !name.contains('\0');
    name.filter(is_name).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
