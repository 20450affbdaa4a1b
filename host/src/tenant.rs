//! One supervised pipeline: start when the servers are there, drain at shutdown.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::guests::{self, Guests};
use crate::metrics::{Counters, Reporter, Server};
use crate::pipeline::{self, Pipeline, RulesInForce};
use crate::retry::Backoff;
use crate::sandbox::Sandbox;
use crate::store;
use crate::store::{Archive, Filter, Remedy, Store};
use crate::stream::{self, Stream};

/// How long the batches in flight may take to be committed and acknowledged
/// after the shutdown. What is not done by then stays pending, for the next start.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the service ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis, and trying again cannot help.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL, and trying again cannot help.
    #[error("postgres at {address}: {source}")]
    Store {
        /// Host, port and database.
        address: String,
        /// What was found.
        source: store::Error,
    },
    /// PostgreSQL's URL.
    #[error(transparent)]
    StoreUrl(store::Error),
    /// No rules to begin with.
    #[error(transparent)]
    Guest(#[from] guests::Error),
    /// The sandbox does not start.
    #[error("wasmtime: {0}")]
    Sandbox(wasmtime::Error),
    /// The pipeline stopped.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// A defect of the service.
    #[error("a task panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Runs the service until `shutdown` is called.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let ends = Ends::new(&config)?;
    let sandbox = Sandbox::configured(&config).map_err(Error::Sandbox)?;
    let file = config.guest.clone();
    let guests = tokio::task::spawn_blocking(move || Guests::load(sandbox, file.as_deref())).await??;
    let guests = Arc::new(guests);
    let watching = tokio::spawn(Arc::clone(&guests).watch(shutdown.clone()));
    let outcome = serve(config, ends, guests.in_force(), shutdown).await;
    watching.abort();
    outcome
}

/// Runs the service with these rules until `shutdown` is called.
pub async fn run_with(config: Config, rules: RulesInForce, shutdown: CancellationToken) -> Result<(), Error> {
    let ends = Ends::new(&config)?;
    serve(config, ends, rules, shutdown).await
}

/// Where entries come from and where rows go to.
struct Ends {
    stream: Stream,
    store: Store,
}

impl Ends {
    /// Reads both URLs, before anything that takes time.
    fn new(config: &Config) -> Result<Self, Error> {
        let stream = Stream::new(config)?;
        let store = Store::new(config).map_err(Error::StoreUrl)?;
        Ok(Self { stream, store })
    }
}

async fn serve(
    config: Config,
    Ends { stream, store }: Ends,
    rules: RulesInForce,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let counters = Arc::new(Counters::default());
    let mut reporter = Reporter::new(&config, stream.gauge());
    let interval = config.monitoring_interval();
    tokio::select! {
        prepared = prepare(&stream, &store, &counters) => prepared?,
        () = reporter.run(&counters, interval, &shutdown) => return Ok(()),
    }
    counters.started();
    tracing::info!(
        redis = stream.address(),
        postgres = store.address(),
        stream = config.stream_name,
        group = config.consumer_group,
        consumer = config.consumer_name,
        "running"
    );
    // What was trimmed while nobody read shows before the first read only.
    reporter.look_for_losses().await;

    let tidying = tokio::spawn(tidy(stream.clone(), store.clone(), config.dead_letter_retention_days));
    let pipeline = Pipeline {
        reader: stream.reader(&config),
        rules,
        store,
        acknowledger: stream.acknowledger(),
        counters: Arc::clone(&counters),
    };
    let reporting = shutdown.child_token();
    let (outcome, ()) = tokio::join!(
        async {
            let outcome = drained(pipeline.run(&config, shutdown.clone()), &shutdown).await;
            reporting.cancel();
            outcome
        },
        reporter.run(&counters, interval, &reporting),
    );
    tidying.abort();
    reporter.report(&counters).await;
    Ok(outcome?)
}

/// Deletes every hour what nobody needs any more.
async fn tidy(stream: Stream, store: Store, days: u32) {
    let mut hours = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        hours.tick().await;
        match purge(&store, days).await {
            Ok(0) => {}
            Ok(purged) => tracing::info!(purged, days, "old dead letters deleted"),
            Err(error) => {
                tracing::warn!(%error, "old dead letters were not deleted; trying again in an hour")
            }
        }
        if let Err(error) = forget(&stream, &store).await {
            tracing::warn!(%error, "the record of old commits was not deleted; trying again in an hour");
        }
    }
}

/// Deletes dead letters that are older than the setting says; 0 keeps them.
async fn purge(store: &Store, days: u32) -> Result<u64, store::Error> {
    /// Letters deleted in one transaction.
    const CHUNK: u32 = 1_000;
    if days == 0 {
        return Ok(0);
    }
    let before = Some(chrono::Utc::now() - chrono::Duration::days(i64::from(days)));
    let mut archive = Archive::open(store).await?;
    let mut purged = 0;
    loop {
        match archive.purge(&Filter { before, ..Filter::default() }, CHUNK).await? {
            0 => return Ok(purged),
            part => purged += part,
        }
    }
}

/// Deletes the record of commits of which nothing is pending any more.
async fn forget(stream: &Stream, store: &Store) -> Result<(), pipeline::Error> {
    for leftover in store.leftovers().await? {
        if !stream.is_pending(leftover.first, leftover.last).await? {
            store.forget(&leftover).await?;
        }
    }
    Ok(())
}

/// Waits until both servers are there and as they must be.
async fn prepare(stream: &Stream, store: &Store, counters: &Counters) -> Result<(), Error> {
    let redis = async {
        let mut backoff = Backoff::default();
        while let Err(error) = stream.prepare().await {
            if error.is_permanent() {
                return Err(Error::Stream(error));
            }
            counters.waits_for(Server::Redis, true);
            if backoff.is_news() {
                tracing::warn!(%error, "waiting for redis");
            }
            backoff.wait().await;
        }
        counters.waits_for(Server::Redis, false);
        Ok(())
    };
    let postgres = async {
        let mut backoff = Backoff::default();
        while let Err(source) = store.prepare().await {
            if !matches!(source.remedy(), Remedy::Retry | Remedy::Split) {
                return Err(Error::Store { address: store.address().to_owned(), source });
            }
            counters.waits_for(Server::Postgres, true);
            if backoff.is_news() {
                tracing::warn!(error = %source, database = store.address(), "waiting for postgres");
            }
            backoff.wait().await;
        }
        counters.waits_for(Server::Postgres, false);
        Ok(())
    };
    tokio::try_join!(redis, postgres).map(|((), ())| ())
}

/// The pipeline's outcome; after the shutdown, not longer than [`DRAIN`].
async fn drained(
    pipeline: impl Future<Output = Result<(), pipeline::Error>>,
    shutdown: &CancellationToken,
) -> Result<(), pipeline::Error> {
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        outcome = pipeline => outcome,
        () = deadline => {
            tracing::warn!("not everything was committed in time; the rest stays pending for the next start");
            Ok(())
        }
    }
}
