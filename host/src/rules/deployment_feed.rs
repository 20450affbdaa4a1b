//! Hears of deployments, once for all tenants, and tells the database that this replica is there.

use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::retry::Retry;
use crate::store::{Database, Listener};

/// How often to look while NOTIFY works, in case a word of it is lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often to look while nobody listens.
const LOOK_OFTEN: Duration = Duration::from_secs(1);
/// How often to tell that this replica is there.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How long to wait until NOTIFY is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);
/// How often to look whether the database is prepared.
const PREPARED_EVERY: Duration = Duration::from_millis(200);
/// How long the shutdown waits until the database knows of it.
const LEAVING: Duration = Duration::from_millis(500);

/// What is heard of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// The number of the last deployment of any tenant.
    pub last: i64,
    /// How often it was seen that the database has forgotten what this replica has in force: another has taken its place,
    /// or it was restored to an earlier state.
    pub forgotten: u64,
}

/// Tells of each deployment of any tenant.
pub struct Feed {
    database: Database,
    news: channel::Sender<News>,
}

impl Feed {
    pub fn new(database: Database) -> Self {
        Self { database, news: channel::Sender::default() }
    }

    /// Returns where news is seen.
    pub fn subscribe(&self) -> channel::Receiver<News> {
        self.news.subscribe()
    }

    /// Hears, looks and tells until the shutdown, from when a tenant has prepared the database.
    pub async fn run(&self, shutdown: &CancellationToken) {
        // A silent database holds up no shutdown.
        tokio::select! {
            () = self.follow(shutdown) => {}
            () = shutdown.cancelled() => {}
        }
        if self.database.is_prepared() {
            let _ = tokio::time::timeout(LEAVING, self.database.leave_replicas(None)).await;
        }
    }

    async fn follow(&self, shutdown: &CancellationToken) {
        while !self.database.is_prepared() {
            tokio::time::sleep(PREPARED_EVERY).await;
        }
        let mut listener: Option<Listener> = None;
        let (mut look_at, mut listen_at) = (Instant::now(), Instant::now());
        let mut beats = interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retry = Retry::new("deployments are not seen; trying again").until(shutdown);
        loop {
            tokio::select! {
                heard = heard(&mut listener) => {
                    if let Err(error) = heard {
                        tracing::debug!(%error, "no NOTIFY of deployments any more; looking more often");
                        listener = None;
                    }
                    look_at = Instant::now();
                }
                () = sleep_until(listen_at), if listener.is_none() => {
                    listener = self.database.listen().await.ok();
                    listen_at = Instant::now() + LISTEN_AGAIN;
                }
                () = sleep_until(look_at) => {
                    let pause = match self.look().await {
                        Ok(()) => {
                            retry.succeeded();
                            if listener.is_some() { LOOK_EVERY } else { LOOK_OFTEN }
                        }
                        Err(error) => retry.failed(&error).max(LOOK_OFTEN),
                    };
                    look_at = Instant::now() + pause;
                }
                _ = beats.tick() => {
                    // What fails here fails at the next look, which says so.
                    if let Ok(false) = self.database.heartbeat().await {
                        self.news.send_modify(|news| news.forgotten += 1);
                    }
                }
            }
        }
    }

    async fn look(&self) -> Result<(), crate::store::Error> {
        let last = self.database.last_deployment().await?;
        self.news.send_if_modified(|news| std::mem::replace(&mut news.last, last) != last);
        Ok(())
    }
}

/// Waits for word of a deployment; for ever, when nobody listens.
async fn heard(listener: &mut Option<Listener>) -> Result<(), crate::store::Error> {
    match listener {
        Some(listener) => listener.heard().await,
        None => std::future::pending().await,
    }
}
