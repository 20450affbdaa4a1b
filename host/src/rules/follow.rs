//! Does what the last deployment wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::task::spawn_blocking;

use super::load::load_stored;
use super::{Refusal, Refused, RulesLoader};
use crate::batch::Digest;
use crate::judge::Rules as _;
use crate::retry::Retry;
use crate::sandbox::Guest;
use crate::store::{self, StoredVersion, Wanted};

/// Nothing is to be done before there is another deployment.
const LONG: Duration = Duration::from_secs(3_600);

impl RulesLoader {
    /// Does what each deployment wants, until the shutdown.
    pub async fn follow(self: Arc<Self>, mut feed: channel::Receiver<i64>) {
        let mut refused: Option<Refused<Digest>> = None;
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
            again = match self.look_at_wanted(&mut refused).await {
                Ok(again) => {
                    retry.succeeded();
                    again
                }
                Err(error) => retry.failed(&error),
            };
        }
    }

    /// Does what the last deployment wants, and returns when to look again if there is no other.
    async fn look_at_wanted(
        self: &Arc<Self>,
        refused: &mut Option<Refused<Digest>>,
    ) -> Result<Duration, store::Error> {
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
            Some(wanted) => self.swap_to(wanted, refused).await,
        };
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
        refused: &mut Option<Refused<Digest>>,
    ) -> (Duration, Option<String>) {
        let digest = wanted.version.digest;
        if let Some(refused) = refused.as_ref().filter(|refused| refused.stands(&digest)) {
            let left = refused.stands_for().saturating_sub(refused.since.elapsed());
            return (left, Some(refused.reason.clone()));
        }
        let from = self.version();
        let reason = match self.load(wanted).await {
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
        let told = (reason.stands_for(), Some(reason.reason.clone()));
        *refused = Some(reason);
        told
    }

    async fn load(self: &Arc<Self>, stored: StoredVersion) -> Result<Guest, Refusal> {
        let (loader, span) = (Arc::clone(self), tracing::Span::current());
        let load = move || {
            let _in_span = span.enter();
            let sources = &loader.sources;
            load_stored(&sources.engine, &loader.tenant, &sources.database, &stored)
        };
        match spawn_blocking(load).await {
            Ok(loaded) => loaded,
            Err(error) => Err(Refusal::Panicked(error)),
        }
    }
}
