//! Runs the contenders that are no program of their own: the benchmark starts itself with a word.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sluicegate::batch::{Digest, Judged, Version};
use sluicegate::capabilities::{HostContext, Lost};
use sluicegate::config::Config;
use sluicegate::judge::{Answer, Batch, Fault, Rules, TextEntry, judge};
use sluicegate::sandbox::Limits;
use sluicegate::service;
use sluicegate::store::{self, BatchRecord, Database};
use sluicegate_verdicts::validate::OutputLimits;
use sluicegate_verdicts::{Entry, EntryId, UncheckedEvent, Verdict, Violation};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::load::Events;

pub(crate) const NATIVE: &str = "native";
pub(crate) const DATABASE_ALONE: &str = "database-alone";
/// Names the variable that says how many events [`database_alone`] writes.
pub(crate) const EVENTS: &str = "BENCH_EVENTS";

/// Runs the default rules as native code, behind the interface that components have.
struct Native;

impl Rules for Native {
    fn version(&self) -> Version {
        Version::of_component(Digest::new(b"native"))
    }

    fn time_limit(&self) -> Duration {
        Limits::default().time
    }

    fn bounds(&self) -> OutputLimits {
        Limits::default().bounds
    }

    fn process(&self, batch: &Batch<'_>, _: Duration, _: &mut HostContext) -> Answer {
        let begun = Instant::now();
        let Batch::Text(batch) = batch else {
            let fault = Fault::Trapped("found bytes, wanted text".to_owned());
            return Answer { verdicts: Err(fault), used: Duration::ZERO };
        };
        // The rules take what a guest takes: strings of their own.
        let entries: Vec<sluicegate_kit::Entry> = batch
            .iter()
            .map(|TextEntry { id, fields, .. }| sluicegate_kit::Entry {
                id: sluicegate_kit::EntryId { milliseconds: id.milliseconds, sequence: id.sequence },
                fields: fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            })
            .collect();
        let verdicts = Ok(sluicegate_kit::Rules::judge_batch(&sluicegate_kit::DefaultRules, &entries)
            .into_iter()
            .map(verdict)
            .collect());
        Answer { verdicts, used: begun.elapsed() }
    }
}

fn verdict(verdict: sluicegate_kit::Verdict) -> Verdict {
    match verdict {
        sluicegate_kit::Verdict::Accept(event) => Verdict::Accept(claim(event)),
        sluicegate_kit::Verdict::Expand(events) => Verdict::Expand(events.into_iter().map(claim).collect()),
        sluicegate_kit::Verdict::Reject(violations) => Verdict::Reject(
            violations
                .into_iter()
                .map(|violation| Violation {
                    path: violation.path,
                    code: violation.code,
                    message: violation.message,
                })
                .collect(),
        ),
        sluicegate_kit::Verdict::Discard(reason) => Verdict::Discard(reason),
    }
}

fn claim(event: sluicegate_kit::Event) -> UncheckedEvent {
    UncheckedEvent {
        event_id: event.event_id,
        time: event.time,
        event_type: event.event_type,
        user_id: event.user_id,
        properties: event.properties,
    }
}

/// Runs the service with native rules until SIGTERM.
pub(crate) fn native() -> anyhow::Result<()> {
    let config = Config::load(None)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let (_keep, in_force) = watch::channel(Arc::new(Native) as Arc<dyn Rules>);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            stop.cancel();
        });
        Ok(service::run_with(config, in_force, shutdown).await?)
    })
}

/// Writes rows that were judged beforehand, as the pipeline does, and prints the seconds it took.
pub(crate) fn database_alone() -> anyhow::Result<()> {
    let config = Config::load(None)?;
    let tenant = config.tenants.first().context("the tenant of the environment")?;
    let events: usize = std::env::var(EVENTS)?.parse()?;
    let entries: Vec<Entry> = Events::new(1)
        .take(events)
        .zip(0..)
        .map(|(data, sequence)| Entry {
            id: EntryId { milliseconds: 1, sequence },
            fields: Some(vec![(b"data".to_vec(), data.into_bytes())]),
            deliveries: 1,
        })
        .collect();
    let batches: Vec<Vec<Judged>> = entries
        .chunks(tenant.batch_size)
        .map(|batch| {
            let judgement =
                judge(&Native, tenant.max_deliveries, batch.to_vec(), &mut HostContext::default())?;
            Ok(judgement.entries)
        })
        .collect::<Result<_, Lost>>()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let store = Database::new(&config)?.store(tenant);
        store.prepare().await?;
        store.register(tenant.commits_in_flight).await?;
        let begun = Instant::now();
        let batches = Arc::new(Mutex::new(batches));
        let mut writers = JoinSet::new();
        for slot in (0..).take(tenant.commits_in_flight) {
            let (mut writer, batches) = (store.writer(), Arc::clone(&batches));
            writers.spawn(async move {
                loop {
                    let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(batch) = batch else { return Ok(()) };
                    let mut record = BatchRecord::new(slot);
                    let number = writer.number(&mut record);
                    let _ = writer.write(&batch, &record, &number).await?; // there is nothing to acknowledge
                }
            });
        }
        while let Some(writer) = writers.join_next().await {
            let outcome: Result<(), store::Error> = writer?;
            outcome?;
        }
        crate::say(&format!("{}\n", begun.elapsed().as_secs_f64()));
        Ok(())
    })
}
