//! What an operator does with entries that were not stored. The command line and the admin API are two faces of this.
//!
//! - `asked`: which letters are meant, and what is to be done with them
//! - `replay`: letters judged again
//! - `purge`: letters deleted
//! - `progress`: how far a long work is
//! - `jobs`: long work that outlives the process that does it
//! - `view`: letters, causes and jobs as JSON
//! - `command`, `listing`: `sluicegate dead-letters`

mod asked;
mod command;
mod jobs;
mod listing;
mod progress;
mod purge;
mod replay;
pub mod view;

use std::io;

pub(crate) use asked::object;
pub use asked::{Age, Digits, Moment, PurgeRequest, ReplayRequest, Text, Which, Work};
pub use command::{Command, run};
pub use jobs::JobRunner;

use crate::config::Config;
use crate::{outbox, rules, store, stream};

/// Why the work was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting.
    #[error(transparent)]
    Settings(#[from] crate::config::Error),
    /// PostgreSQL.
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
    /// The rules to replay with.
    #[error(transparent)]
    Rules(#[from] rules::Error),
    /// Redis, or its URL, which is needed only for rules that publish.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(
        "what the rules have published was not sent ({0}); it is kept, and sent by the next replay or the \
         next start of the service"
    )]
    Unsent(#[from] outbox::Error),
    /// Rows that the rules, or theirs, want.
    #[error(
        "somebody else, the service perhaps, held rows that the rules write to for longer than --wait \
         (postgres: {0}); what was replayed before is stored: run this again"
    )]
    Conflict(store::Error),
    /// The sandbox does not start.
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The reader of the output is gone, for example.
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// No such letter.
    #[error("there is no dead letter {0}; `sluicegate dead-letters list` shows which there are")]
    Unknown(i64),
    /// Not everything could be replayed.
    #[error(
        "{letters} dead letters were not replayed: another replay holds them; run this again when it has ended"
    )]
    Held { letters: u64 },
    /// Nobody knows its rules and its table.
    #[error("there is no tenant {found:?} in the settings; wanted one of: {known}")]
    UnknownTenant {
        /// As it was asked for.
        found: String,
        /// All that there are.
        known: String,
    },
    /// The rules of the settings are not those of the service.
    #[error(
        "tenant {tenant}: {differs}; run this with the settings of the service (GUEST, GUEST_SETTINGS, .env, \
         sluicegate.toml), or add --force to judge by the rules of these settings"
    )]
    OtherRules {
        tenant: crate::config::TenantName,
        /// What differs, and how.
        differs: String,
    },
    /// A row of the table of jobs was made by another program.
    #[error("{0}")]
    Unreadable(String),
    /// The service has a defect.
    #[error("the work panicked: {0}")]
    Panicked(tokio::task::JoinError),
    /// A purge of everything, by mistake perhaps.
    #[error("purge without a condition deletes every dead letter; add --all if that is meant")]
    Everything,
}

impl Error {
    fn unknown_tenant(found: &str, config: &Config) -> Self {
        let known: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        Self::UnknownTenant { found: found.to_owned(), known: known.join(", ") }
    }
}
