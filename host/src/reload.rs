//! Reads the settings again when their file changes, or when somebody asks for it by SIGHUP.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::{Config, DEFAULT_FILE};
use crate::rules::Stamp;

/// How often to look whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The settings' file, and what was seen of it.
pub struct Reload {
    /// The file that the command line names.
    file: Option<PathBuf>,
    seen: Option<Stamp>,
    /// Whether there was a file, so that one that is gone is a mistake.
    had_file: bool,
    asked: Arc<Notify>,
}

impl Reload {
    /// Notices changes of this file from now on, or of `sluicegate.toml` in the working directory.
    pub fn new(file: Option<PathBuf>) -> Self {
        let mut reload = Self { file, seen: None, had_file: false, asked: Arc::default() };
        reload.seen = reload.look();
        reload.had_file = reload.seen.is_some();
        reload
    }

    /// Returns what asks for the settings to be read again, whether the file has changed or not.
    pub fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Waits for the next change, and returns the settings. Of a file with a mistake it tells in the log, and returns `None`.
    pub async fn next(&mut self) -> Option<Config> {
        loop {
            let is_asked = tokio::select! {
                () = self.asked.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let stamp = self.look();
            let has_changed = stamp != self.seen;
            // Half of a file may read, and lack tenants.
            let is_at_rest = stamp.as_ref().is_none_or(|stamp| stamp.until_rest().is_zero());
            if !(is_asked || has_changed && is_at_rest) {
                continue;
            }
            self.had_file |= stamp.is_some();
            let is_gone = stamp.is_none() && self.had_file;
            if is_at_rest {
                self.seen = stamp;
            }
            if is_gone {
                tracing::error!("the settings' file is gone; nothing is changed");
                return None;
            }
            match Config::load(self.file.as_deref()) {
                Ok(config) => return Some(config),
                Err(error) => {
                    tracing::error!(%error, "the settings cannot be used; nothing is changed");
                    return None;
                }
            }
        }
    }

    fn look(&self) -> Option<Stamp> {
        Stamp::read(self.file.as_deref().unwrap_or(DEFAULT_FILE.as_ref())).ok()
    }
}
