//! Calls a version of the rules: a component, and the worker that runs it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::SemaphorePermit;

use super::channel::{self, Call, Granted, Load, Returned};
use super::engine::{Compiled, SandboxEngine};
use super::print_log::PrintLog;
use super::process::{Worker, WorkerPlace, wall_limit};
use super::{Limits, LoadError, World};
use crate::batch::{Digest, Version};
use crate::capabilities::{HostContext, Lost};
use crate::config::{Grants, TenantName};
use crate::judge::{Answer, Batch, Fault, Rules};
use crate::retry::Retry;
use sluicegate_verdicts::validate::OutputLimits;

/// So many workers of a guest may die one after the other before there are pauses: to find one entry in a batch by
/// halves takes no more.
const FREE_DEATHS: u32 = 16;
/// Says how often the worker of an entry that is alone may be killed, as a rule by the kernel for want of memory,
/// before the entry is to blame. The pauses between are 4.5 s in sum.
const MAX_KILLS: u32 = 10;
/// Says how long to pause after each death beyond [`FREE_DEATHS`]. After a kill, the pause is as many times as long as
/// there were tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Holds a version of the rules: a component that was compiled and checked.
pub struct Guest {
    tenant: TenantName,
    version: Version,
    load: Load,
    grants: Arc<Grants>,
    log: PrintLog,
    world: World,
    shared: SandboxEngine,
    /// For as long as this guest lives, other tenants find the component compiled.
    pub(super) compiled: Arc<Compiled>,
    worker: Arc<WorkerPlace>,
    /// Counts the workers that died since a call was last answered.
    deaths: Mutex<u32>,
}

impl Guest {
    /// Checks a component in a worker, and starts it once on trial.
    pub(super) fn new(
        tenant: TenantName,
        compiled: Arc<Compiled>,
        digest: Digest,
        limits: Limits,
        settings: &BTreeMap<String, String>,
        grants: Arc<Grants>,
        shared: SandboxEngine,
    ) -> Result<Self, LoadError> {
        let granted = Granted::from(&*grants);
        let mut load =
            Load { limits, settings: settings.clone(), granted, is_trial: true, takes_samples: false };
        let permit = shared.call_permit();
        let (worker, loaded) = shared.workers().start(&tenant, &compiled.code, &load)?;
        drop(permit);
        load.is_trial = false;
        let place = shared.workers().place();
        *place.lock() = Some(worker);
        Ok(Self {
            tenant,
            version: Version::of_component(digest),
            load,
            grants,
            log: PrintLog::new(digest),
            world: loaded.world,
            shared,
            compiled,
            worker: place,
            deaths: Mutex::new(0),
        })
    }

    /// Gives the guest the name of the version that it is part of.
    pub fn with_version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// Makes calls tell where their time goes, each about once a millisecond.
    pub(crate) fn with_samples(mut self) -> Self {
        self.load.takes_samples = true;
        // The next call starts another worker.
        *self.worker.lock() = None;
        self
    }

    pub fn world(&self) -> World {
        self.world
    }

    /// Returns the bytes of its native code, with the images of its memories.
    pub(crate) fn code_bytes(&self) -> u64 {
        self.compiled.code.bytes
    }

    /// Returns a new worker that can be called. Waits for as long as none can be started: no entry is to blame for
    /// that.
    fn start_worker(&self) -> Worker {
        let mut retry =
            Retry::new(format!("no process for the guest {}; trying again", self.version.component));
        loop {
            match self.shared.workers().start(&self.tenant, &self.compiled.code, &self.load) {
                Ok((worker, _)) => return worker,
                Err(error) => std::thread::sleep(retry.failed(&error)),
            }
        }
    }

    /// Calls the guest once in its worker, and keeps what it did only if there is a verdict for each entry.
    fn call(&self, batch: &Batch<'_>, time: Duration, context: &mut HostContext) -> Result<Answer, Death> {
        let mut place = self.worker.lock();
        let mut worker = place.take().unwrap_or_else(|| self.start_worker());
        let earlier = context.used.and(&context.effects);
        let transaction = context.transaction.as_ref().filter(|_| self.wants_transaction());
        if transaction.is_some_and(|transaction| transaction.begin_call().is_err()) {
            *place = Some(worker);
            return Ok(Answer { verdicts: Err(Fault::Lost(Lost)), used: Duration::ZERO });
        }
        let call = Call { batch: batch.clone(), time, lag: context.lag, earlier };
        let begun = Instant::now();
        let called = worker.call(call, transaction).and_then(|returned| {
            // What was checked in the worker is checked again here: the worker may have been taken over.
            let is_within = earlier.admit(&returned.effects, &self.grants)
                && returned.printed.is_within(self.load.limits.log_bytes)
                && returned.measured.is_within(self.load.takes_samples);
            match is_within {
                true => Ok(returned),
                false => Err(channel::nonsense("what is beyond the limits", "what is within them")),
            }
        });
        let called = match called {
            Ok(returned) => {
                *place = Some(worker);
                Ok(returned)
            }
            Err(error) => Err(Death::new(worker, &error, time, begun.elapsed())),
        };
        drop(place);
        let has_verdicts =
            matches!(&called, Ok(Returned { verdicts: Ok(verdicts), .. }) if verdicts.0.len() == batch.len());
        let undone = match (has_verdicts, transaction) {
            (false, Some(transaction)) => transaction.undo_call(),
            _ => Ok(()),
        };
        if undone.is_err() {
            return Ok(Answer { verdicts: Err(Fault::Lost(Lost)), used: Duration::ZERO });
        }
        let Returned { verdicts, effects, printed, measured } = called?;
        // This time, too, is only the worker's word, so it has a bound.
        let used = measured.time.min(2 * time);
        context.measured.add(*measured);
        *self.deaths.lock() = 0;
        // A call that failed is repeated with fewer entries, which print the same.
        if has_verdicts || batch.len() == 1 {
            self.log.log(&printed);
        }
        let verdicts = match verdicts {
            Ok(verdicts) if has_verdicts => {
                context.effects.extend(effects);
                Ok(verdicts.0)
            }
            Ok(verdicts) => Err(Fault::WrongCount { found: verdicts.0.len(), wanted: batch.len() }),
            Err(fault) => Err(fault.printable()),
        };
        Ok(Answer { verdicts, used })
    }

    /// Counts a worker's death, and pauses when there were too many.
    fn count_death(&self, context: &mut HostContext) {
        context.restarts += 1;
        let deaths = {
            let mut deaths = self.deaths.lock();
            *deaths = deaths.saturating_add(1);
            *deaths
        };
        if deaths > FREE_DEATHS {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Describes a call in which the worker died, or was killed.
struct Death {
    fault: Fault,
    took: Duration,
    /// Says whether the worker gave no answer and did not use up its time either: it was stopped, or the machine stood
    /// still.
    is_silence: bool,
    /// Says whether somebody else killed the worker.
    is_killed: bool,
}

impl Death {
    /// Ends what is left of the worker, and finds out how it died.
    fn new(worker: Worker, error: &channel::Error, time: Duration, took: Duration) -> Self {
        let gave_up = matches!(error, channel::Error::GaveUp);
        let is_slow = gave_up && worker.has_overstayed();
        let (how, is_killed) = worker.last_words(error);
        let fault = match is_slow {
            true => Fault::TimedOut { limit_ms: time.as_millis(), place: String::new() },
            false => Fault::Crashed(how),
        };
        Self { fault, took: took.min(time), is_silence: gave_up && !is_slow, is_killed }
    }
}

impl Rules for Guest {
    fn version(&self) -> Version {
        self.version
    }

    fn time_limit(&self) -> Duration {
        self.load.limits.time
    }

    fn max_call(&self) -> Duration {
        // A call is repeated after its second try only within the first half of this time.
        2 * wall_limit(self.load.limits.time)
    }

    fn bounds(&self) -> OutputLimits {
        self.load.limits.bounds
    }

    fn call_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.shared.call_permit()
    }

    fn wants_transaction(&self) -> bool {
        self.world.imports_capabilities()
    }

    fn takes_bytes(&self) -> bool {
        self.world.takes_bytes()
    }

    fn process(&self, batch: &Batch<'_>, time: Duration, context: &mut HostContext) -> Answer {
        let limit_bytes = self.load.limits.memory_bytes;
        if batch.is_empty() {
            return Answer { verdicts: Ok(Vec::new()), used: Duration::ZERO };
        }
        // The guest could not hold such a batch, and its frame would be too long.
        if batch.bytes() > limit_bytes {
            let fault = Fault::OutOfMemory { limit_bytes, place: String::new() };
            return Answer { verdicts: Err(fault), used: Duration::ZERO };
        }
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let death = match self.call(batch, time, context) {
                Ok(answer) => return answer,
                Err(death) => death,
            };
            self.count_death(context);
            tracing::debug!(guest = %self.version.component, entries = batch.len(), fault = %death.fault, "the guest's process ended");
            // Somebody else may have ended the worker. A batch is tried again in halves by the caller. It is tried
            // again here after silence, or if it is one entry that did not use up its time.
            tries += 1;
            let max_tries = match batch.len() {
                1 if death.is_killed => MAX_KILLS,
                1 if matches!(death.fault, Fault::Crashed(_)) => 2,
                _ if death.is_silence => 2,
                _ => 1,
            };
            let has_time = tries == 1 || begun.elapsed() < wall_limit(self.load.limits.time);
            if tries >= max_tries || !has_time {
                return Answer { verdicts: Err(death.fault), used: death.took };
            }
            if death.is_killed {
                std::thread::sleep(PAUSE * tries);
            }
        }
    }
}
