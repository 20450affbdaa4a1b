//! Sets a scene for `guest/enrich`, which looks up, counts and publishes: tables and statements.

use std::fs;

use redis::cmd;
use serde_json::json;
use sluicegate_demo::servers::{Options, Redis};

use crate::events::{Event, Fields};
use crate::guests;
use crate::scene::{Scene, shared_postgres_url};
use crate::service::Launch;

pub const GRANTS: &str = r#"
[grants]
stream = true
publish = { purchases = 1000 }
statements = ["user_plan", "touch_user"]
metrics = true
"#;

pub const STATEMENTS: &str = r#"
[statements.user_plan]
sql = "SELECT plan FROM users WHERE user_id = $1"
parameters = ["text"]
timeout = "200ms"

[statements.touch_user]
sql = """INSERT INTO user_activity (user_id, events, last_seen) VALUES ($1, 1, $2)
         ON CONFLICT (user_id) DO UPDATE SET events = user_activity.events + 1,
         last_seen = greatest(user_activity.last_seen, EXCLUDED.last_seen)"""
parameters = ["text", "timestamp"]
"#;

/// Holds a scene on a Redis of its own, since the guest publishes to a stream of a fixed name.
pub struct Stage {
    pub scene: Scene,
    redis: Redis,
}

impl Stage {
    #[expect(clippy::new_without_default, reason = "it starts a server")]
    pub fn new() -> Self {
        let redis = Redis::start(&Options::default()).unwrap();
        let scene = Scene::on(&redis.url(), &shared_postgres_url());
        scene.database.execute(
            "CREATE TABLE users (user_id TEXT PRIMARY KEY, plan TEXT NOT NULL);
             INSERT INTO users VALUES ('ada', 'gold'), ('bob', 'free');
             CREATE TABLE user_activity (user_id TEXT PRIMARY KEY CHECK (user_id <> 'forbidden'),
                                         events BIGINT NOT NULL, last_seen TIMESTAMPTZ NOT NULL);",
        );
        Self { scene, redis }
    }

    pub fn service(&self, settings: &str) -> Launch {
        fs::write(self.scene.folder().join("sluicegate.toml"), settings).unwrap();
        let guest = guests::built("guest_enrich.wasm");
        self.scene.service().set("GUEST", guest.display()).set("MONITORING_INTERVAL", "1s")
    }

    pub fn add(&self, events: &[Event]) {
        self.scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    }

    pub fn purchases(&self) -> Vec<Vec<(String, String)>> {
        let mut connection = redis::Client::open(self.redis.url()).unwrap().get_connection().unwrap();
        let entries: Vec<(String, Vec<(String, String)>)> =
            cmd("XRANGE").arg("purchases").arg("-").arg("+").query(&mut connection).unwrap();
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    pub fn counted(&self, user: &str) -> i64 {
        let sql = format!("SELECT coalesce(max(events), 0) FROM user_activity WHERE user_id = '{user}'");
        self.scene.database.value(&sql)
    }
}

pub fn event_of(user: &str) -> Event {
    Event { user_id: user.to_owned(), ..Event::new() }
}

pub fn purchase_of(user: &str, amount: f64) -> Event {
    Event {
        user_id: user.to_owned(),
        properties: Some(json!({ "amount": amount })),
        ..Event::of_type("purchase")
    }
}
