//! Provides what a test has of its own.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

use tempfile::TempDir;

use crate::database::Database;
use crate::events::Event;
use crate::service::{Launch, Service};
use crate::stream::Stream;
use crate::wait::until;

/// Holds a stream, a database and a folder that no other test sees.
pub struct Scene {
    pub stream: Stream,
    pub database: Database,
    folder: TempDir,
}

fn shared(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(url) if !url.is_empty() => url,
        _ => panic!("{variable} names no server; run: make test"),
    }
}

/// Returns the URL of the Redis that all tests use.
pub fn shared_redis_url() -> String {
    shared("REDIS_URL")
}

/// Returns the URL of the PostgreSQL that all tests use, for a user who may make databases.
pub fn shared_postgres_url() -> String {
    shared("POSTGRES_URL")
}

impl Scene {
    /// Sets a scene on the shared servers.
    pub fn new() -> Self {
        Self::on(&shared_redis_url(), &shared_postgres_url())
    }

    pub fn on(redis_url: &str, postgres_url: &str) -> Self {
        let name = format!("sluicegate_test_{:016x}", RandomState::new().hash_one(()));
        Self {
            stream: Stream::new(redis_url, &name),
            database: Database::create(postgres_url, &name),
            folder: TempDir::with_prefix("sluicegate-test-").expect("a folder"),
        }
    }

    /// Returns the folder in which the service runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the service, to be configured and started.
    pub fn service(&self) -> Launch {
        Launch::new(self.folder())
            .set("REDIS_URL", self.stream.url())
            .set("POSTGRES_URL", self.database.url())
            .set("STREAM_NAME", &self.stream.name)
            .set("CONSUMER_GROUP", &self.stream.group)
    }

    /// Returns a file of the component, for `GUEST`. There is one such file in a scene.
    pub fn guest(&self, component: &[u8]) -> String {
        let file = self.folder().join("guest.wasm");
        fs::write(&file, component).expect("a file");
        file.display().to_string()
    }

    /// Starts the service without further settings.
    pub fn start(&self) -> Service {
        self.service().start()
    }

    /// Waits until the table has `count` rows, and returns them.
    pub fn until_stored(&self, count: usize) -> Vec<Event> {
        until(&format!("{count} rows in events"), || {
            match self.database.try_value::<i64>("SELECT count(*) FROM events")? {
                found if usize::try_from(found) == Ok(count) => Ok(()),
                found => Err(format!("{found} rows")),
            }
        });
        self.database.events()
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}
