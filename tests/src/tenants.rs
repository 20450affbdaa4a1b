//! Provides a scene with several tenants.

use std::fs;

use crate::events::{Event, Fields};
use crate::scene::Scene;
use crate::service::{Launch, Service};
use crate::stream::Stream;
use crate::wait::until;

/// Holds the tenants of a scene. Each has a stream whose name begins with the scene's name.
pub struct Tenants {
    pub scene: Scene,
    pub streams: Vec<(String, Stream)>,
}

impl Tenants {
    /// Makes tenants with these names, and these settings besides the stream.
    pub fn new(tenants: &[(&str, &str)]) -> Self {
        let scene = Scene::new();
        let stream = |name: &str| scene.stream.sibling(name);
        let streams: Vec<_> = tenants.iter().map(|(name, _)| ((*name).to_owned(), stream(name))).collect();
        let mut file = String::new();
        for ((name, stream), (_, settings)) in streams.iter().zip(tenants) {
            file += &format!("[tenants.{name}]\nstream_name = \"{}\"\n{settings}\n", stream.name);
        }
        fs::write(scene.folder().join("sluicegate.toml"), file).unwrap();
        Self { scene, streams }
    }

    pub fn stream(&self, name: &str) -> &Stream {
        &self.streams.iter().find(|(found, _)| found == name).expect("a tenant of the test").1
    }

    pub fn launch(&self) -> Launch {
        self.scene.service().unset("STREAM_NAME")
    }

    /// Starts the service, and waits until all of these tenants run.
    pub fn start(&self, running: &[&str]) -> Service {
        let service = self.launch().start_unready();
        for name in running {
            until_running(&service, name);
        }
        service
    }

    pub fn add(&self, name: &str, count: usize) -> Vec<Event> {
        let events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
        self.stream(name).add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
        events
    }

    pub fn rows(&self, table: &str) -> i64 {
        self.scene.database.value::<i64>(&format!("SELECT count(*) FROM {table}"))
    }

    /// Waits for the first row.
    pub fn until_some(&self, table: &str) {
        until(&format!("rows in {table}"), || {
            match self.scene.database.try_value::<i64>(&format!("SELECT count(*) FROM {table}"))? {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        });
    }

    pub fn until_rows(&self, table: &str, count: i64) {
        until(&format!("{count} rows in {table}"), || {
            match self.scene.database.try_value::<i64>(&format!("SELECT count(*) FROM {table}"))? {
                found if found == count => Ok(()),
                found => Err(format!("{found}")),
            }
        });
    }
}

pub fn until_running(service: &Service, name: &str) {
    service.until_logged(&[&format!("tenant={name}"), "running redis="]);
}
