//! Does what the last deployment wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::task::{JoinHandle, spawn_blocking};

use super::deployment_feed::News;
use super::load::load_stored;
use super::{Refusal, Refused, RulesLoader, author};
use crate::batch::Digest;
use crate::judge::Rules as _;
use crate::retry::Retry;
use crate::sandbox::Guest;
use crate::store::{self, StoredVersion, Wanted};

/// Nothing is to be done before there is another deployment.
const LONG: Duration = Duration::from_secs(3_600);

/// How long to wait before a version is read again that the database did not hand over.
const AGAIN: Duration = Duration::from_secs(1);
/// How often to look whether everything that was read is committed.
const LOOK_WHETHER_QUIET: Duration = Duration::from_millis(50);

/// What came of loading what is wanted.
#[derive(Default)]
struct Loads {
    /// The version that was refused last.
    refused: Option<Refused<Digest>>,
    /// The version that is being loaded.
    loading: Option<(Digest, JoinHandle<Result<Guest, Refusal>>)>,
}

impl RulesLoader {
    /// Does what each deployment wants, until the shutdown.
    pub async fn apply_deployments(self: Arc<Self>, mut feed: channel::Receiver<News>) {
        let mut loads = Loads::default();
        let mut forgotten = 0;
        let mut again = LONG;
        let said = "what is wanted of the rules was not seen, or what is in force not told; trying again";
        let mut retry = Retry::new(said).until(&self.shutdown);
        feed.mark_changed();
        loop {
            tokio::select! {
                changed = feed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(again) => {}
                () = self.shutdown.cancelled() => return,
            }
            let news = *feed.borrow_and_update();
            if std::mem::replace(&mut forgotten, news.forgotten) != news.forgotten {
                self.last_report.lock().await.is_known = false;
            }
            // A version may take long to compile, and what is wanted meanwhile may be another, or a pause.
            let looked = tokio::select! {
                looked = self.look_at_wanted(&mut loads) => looked,
                changed = feed.changed() => match changed {
                    Ok(()) => Ok(Duration::ZERO),
                    Err(_) => return,
                },
                () = self.shutdown.cancelled() => return,
            };
            again = match looked {
                Ok(again) => {
                    retry.succeeded();
                    again
                }
                Err(error) => retry.failed(&error),
            };
        }
    }

    /// Does what the last deployment wants, and returns when to look again if there is no other.
    async fn look_at_wanted(self: &Arc<Self>, loads: &mut Loads) -> Result<Duration, store::Error> {
        let is_of_file = self.tenant.guest.is_some();
        let Wanted { version, is_paused, deployment, .. } =
            self.sources.database.wanted(&self.tenant.name, is_of_file).await?;
        if self.is_paused.send_if_modified(|known| std::mem::replace(known, is_paused) != is_paused) {
            let to = if is_paused { "stop" } else { "go on" };
            tracing::info!("a deployment wants the reading to {to}");
        }
        let wanted = version.filter(|wanted| !is_of_file && wanted.version.digest != self.version().digest);
        let (again, reason) = match wanted {
            None => (LONG, None),
            Some(wanted) => self.swap_to(wanted, loads).await,
        };
        while is_paused && !self.counters.is_quiet() {
            tokio::time::sleep(LOOK_WHETHER_QUIET).await;
        }
        self.report(|report| {
            (report.deployment, report.is_paused) = (deployment, is_paused);
            // Why a file is refused is told by what watches it.
            if !is_of_file {
                report.refused = reason;
            }
        })
        .await?;
        Ok(again)
    }

    /// Puts a version into force, unless it is refused, or was lately. Returns when to try again, and why it is refused.
    async fn swap_to(
        self: &Arc<Self>,
        wanted: StoredVersion,
        loads: &mut Loads,
    ) -> (Duration, Option<String>) {
        let digest = wanted.version.digest;
        let Loads { refused, loading } = loads;
        if let Some(refused) = refused.as_ref().filter(|refused| refused.stands(&digest)) {
            let left = refused.stands_for().saturating_sub(refused.since.elapsed());
            return (left, Some(refused.reason.clone()));
        }
        let from = self.version();
        // A load goes on when the wait for it is given up.
        let load = match loading.take() {
            Some((loaded, load)) if loaded == digest => loading.insert((loaded, load)),
            _ => loading.insert((digest, self.load(wanted))),
        };
        let loaded = (&mut load.1).await;
        *loading = None;
        let reason = match loaded.unwrap_or_else(|error| Err(Refusal::Panicked(error))) {
            Err(Refusal::Store(error)) => {
                tracing::warn!(version = %digest, %error, "the version that is wanted was not read; trying again");
                return (AGAIN, None);
            }
            Ok(guest) => {
                let to = guest.version();
                self.put_in_force(guest);
                *refused = None;
                tracing::info!(
                    %from, %to, from_component = %from.component, component = %to.component,
                    "new guest loaded; it takes effect with the next batch"
                );
                return (LONG, None);
            }
            Err(reason) => Refused::new(digest, &reason, refused.as_ref()),
        };
        tracing::error!(
            version = %digest, in_force = %from, error = reason.reason, again_in_s = reason.stands_for().as_secs(),
            "new guest refused; the old one goes on"
        );
        self.counters.deployed(true);
        let told = (reason.stands_for(), Some(reason.reason.clone()));
        *refused = Some(reason);
        told
    }

    fn load(self: &Arc<Self>, stored: StoredVersion) -> JoinHandle<Result<Guest, Refusal>> {
        let (loader, span) = (Arc::clone(self), tracing::Span::current());
        spawn_blocking(move || {
            let _in_span = span.enter();
            let sources = &loader.sources;
            load_stored(
                &sources.engine,
                &loader.tenant,
                &sources.database,
                &stored,
                &author(&sources.database),
            )
        })
    }
}
