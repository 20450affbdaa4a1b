//! Carries out jobs: one at a time in each process, for whichever of its tenants somebody asks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::progress::Progress;
use super::purge::purge_as_job;
use super::replay::{How, Means, Replayed, TenantReplay};
use super::{Age, Error, Work};
use crate::config::{Config, Tenant};
use crate::retry::{Retry, Retryable as _};
use crate::rules::{self, Sources};
use crate::store::{self, DeadLetterStore, Job, JobLease};

/// How often to look for jobs that another process was asked for, or has left.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often to look whether the database is prepared.
const PREPARED_EVERY: Duration = Duration::from_millis(200);
/// How often to renew the lease, and to hear of a cancellation.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long the shutdown waits until the database has the job back. Otherwise its lease ends by itself.
const RELEASING: Duration = Duration::from_millis(500);
/// How long a replay waits for what somebody else holds, if nothing is said.
const WAIT: Age = Age(Duration::from_secs(30));
/// A job that was begun so often without a letter done has failed: it may be what the process dies of.
const MAX_ATTEMPTS: u32 = 5;

/// Carries out jobs for the tenants of this process.
pub struct JobRunner {
    config: Config,
    sources: Sources,
    /// Returns the tenants as they are now.
    tenants: Box<dyn Fn() -> Vec<Tenant> + Send + Sync>,
}

/// How the work on a job has stopped.
enum Stopped {
    Done,
    Failed(Error),
    /// Somebody has cancelled it, or taken it over.
    Lost,
    Shutdown,
}

impl JobRunner {
    pub(crate) fn new(
        config: Config,
        sources: Sources,
        tenants: impl Fn() -> Vec<Tenant> + Send + Sync + 'static,
    ) -> Self {
        Self { config, sources, tenants: Box::new(tenants) }
    }

    /// Carries out jobs until the shutdown, which a job does not delay: it is given back, and goes on elsewhere or later.
    pub async fn run(self, shutdown: CancellationToken) {
        let runner = Arc::new(self);
        let database = &runner.sources.database;
        while !database.is_prepared() {
            tokio::select! {
                () = sleep(PREPARED_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
        let mut retry = Retry::new("jobs are not seen; trying again").until(&shutdown);
        let mut look_at = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(look_at) => {}
                () = database.asked_for_job() => {}
                () = shutdown.cancelled() => return,
            }
            let took = tokio::select! {
                took = runner.take_and_work(&shutdown) => took,
                // A silent database holds up no shutdown.
                () = stalled(&shutdown) => return,
            };
            let pause = match took {
                Ok(has_worked) => {
                    retry.succeeded();
                    if has_worked { Duration::ZERO } else { LOOK_EVERY }
                }
                Err(error) => retry.failed(&error).max(LOOK_EVERY),
            };
            look_at = Instant::now() + pause;
        }
    }

    /// Takes a job, if there is one, and works on it. Returns whether there was one.
    async fn take_and_work(self: &Arc<Self>, shutdown: &CancellationToken) -> Result<bool, store::Error> {
        let tenants = (self.tenants)();
        let names: Vec<String> = tenants.iter().map(|tenant| tenant.name.to_string()).collect();
        let Some((job, lease)) = self.sources.database.take_job(&names).await? else { return Ok(false) };
        let Some(tenant) = tenants.into_iter().find(|tenant| tenant.name.as_str() == job.tenant) else {
            lease.release(true).await?;
            return Ok(false);
        };
        let (id, kind, lease) = (job.id, job.kind.clone(), Arc::new(lease));
        tracing::info!(job = id, kind, tenant = job.tenant, by = job.author, "working on a job");
        if job.attempts > MAX_ATTEMPTS {
            let error = format!(
                "it was begun {MAX_ATTEMPTS} times, and no letter was done; the logs of the replicas may tell why"
            );
            tracing::error!(job = id, error, "the job has failed");
            lease.end(Some(&error)).await?;
            return Ok(true);
        }
        match self.work(tenant, job, &lease, shutdown).await {
            Stopped::Done => {
                lease.end(None).await?;
                let progress = lease.progress();
                tracing::info!(job = id, kind, done = progress.done, outcomes = ?progress.outcomes, "the job is done");
            }
            Stopped::Failed(error) if may_pass(&error) => {
                tracing::warn!(job = id, kind, %error, "the job was interrupted; it goes on later");
                lease.release(false).await?;
                return Ok(false);
            }
            Stopped::Failed(error) => {
                tracing::error!(job = id, kind, %error, "the job has failed");
                lease.end(Some(&error.to_string())).await?;
            }
            Stopped::Lost => {
                tracing::info!(job = id, kind, "the job was cancelled, or is another replica's now")
            }
            Stopped::Shutdown => {
                let released = timeout(RELEASING, lease.release(true)).await;
                let is_released = matches!(released, Ok(Ok(())));
                tracing::info!(
                    job = id,
                    kind,
                    is_released,
                    "the job goes on with the next start, or elsewhere"
                );
            }
        }
        Ok(true)
    }

    /// Works on a job until it ends or the lease does. What is dropped in its midst is rolled back.
    async fn work(
        self: &Arc<Self>,
        tenant: Tenant,
        job: Job,
        lease: &Arc<JobLease>,
        shutdown: &CancellationToken,
    ) -> Stopped {
        let note = Arc::<Mutex<String>>::default();
        let work = {
            let (runner, lease, notes) = (Arc::clone(self), Arc::clone(lease), Notes::new(&note));
            // A panic must not end the task that looks for jobs.
            AbortOnDropHandle::new(tokio::spawn(async move {
                runner.carry_out(&tenant, &job, &lease, notes).await
            }))
        };
        let worked = tokio::select! {
            worked = work => worked,
            () = renew(lease, &note) => return Stopped::Lost,
            () = shutdown.cancelled() => return Stopped::Shutdown,
        };
        match worked {
            Ok(Ok(())) => Stopped::Done,
            Ok(Err(Error::Store(store::Error::LeaseLost))) => Stopped::Lost,
            Ok(Err(error)) => Stopped::Failed(error),
            Err(panicked) => Stopped::Failed(Error::Panicked(panicked)),
        }
    }

    async fn carry_out(
        &self,
        tenant: &Tenant,
        job: &Job,
        lease: &JobLease,
        mut notes: Notes,
    ) -> Result<(), Error> {
        let Self { config, sources, .. } = self;
        match Work::parse(&job.kind, &job.request).map_err(Error::Unreadable)? {
            Work::Replay(asked) => {
                let means = Means { config, database: &sources.database, engine: &sources.engine };
                let wait = asked.wait.unwrap_or(WAIT).0;
                let how = How { dry_run: asked.dry_run, wait, force: asked.force };
                let replay =
                    TenantReplay::prepare(&means, tenant, &asked.filter, how, Some(job), &mut notes).await?;
                let mut replayed = Replayed::default();
                replay.run(Some(lease), &mut replayed, &mut notes).await?;
                match replayed.held {
                    0 => Ok(()),
                    letters => Err(Error::Held { letters }),
                }
            }
            Work::Purge(asked) => {
                let dead_letters = DeadLetterStore::new(&sources.database);
                purge_as_job(&dead_letters, &asked, job, lease, &mut notes).await
            }
        }
    }
}

/// Waits for the shutdown, and then as long as it takes to give a job back.
async fn stalled(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(RELEASING + RELEASING / 2).await;
}

/// Renews the lease until it is lost. While the database is away it may end, and then this finds out.
async fn renew(lease: &JobLease, note: &Mutex<String>) {
    loop {
        sleep(RENEW_EVERY).await;
        let said = note.lock().clone();
        match lease.renew(&said).await {
            Err(store::Error::LeaseLost) => return,
            Err(error) => tracing::debug!(%error, "the lease of a job was not renewed"),
            Ok(()) => {}
        }
    }
}

/// Returns whether the same may go well later.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Store(error) | Error::Rules(rules::Error::Store(error)) => !error.is_permanent(),
        Error::Rules(rules::Error::Stored { reason, .. }) => !reason.is_permanent(),
        Error::Unsent(_) | Error::Panicked(_) => true,
        _ => false,
    }
}

/// Keeps what a job says last, for whoever looks at it.
struct Notes {
    note: Arc<Mutex<String>>,
    /// What holds for all of it.
    said: String,
}

impl Notes {
    fn new(note: &Arc<Mutex<String>>) -> Self {
        Self { note: Arc::clone(note), said: String::new() }
    }
}

impl Progress for Notes {
    fn say(&mut self, line: &str) -> io::Result<()> {
        line.clone_into(&mut self.said);
        line.clone_into(&mut self.note.lock());
        Ok(())
    }

    fn begin(&mut self, _in_total: u64) {}

    fn advance(&mut self, _by: u64) -> io::Result<()> {
        self.said.clone_into(&mut self.note.lock());
        Ok(())
    }

    fn wait_for(&mut self, what: &str) -> io::Result<()> {
        *self.note.lock() = format!("waiting for {what}");
        Ok(())
    }
}
