//! Runs the whole service on private servers, with a generator and a ledger.
//!
//! The modules follow the order of the story:
//! - `settings` reads what can be set.
//! - [`servers`], `signals` and `place` provide servers to run on, and leave them.
//! - `service` runs the real service as a process of its own.
//! - [`generator`] makes what is sent, and [`producer`] sends it.
//! - `observer` sees how things stand, and reads the tables in the end.
//! - [`ledger`] checks whether everything adds up.
//! - `summary` and `terminal` tell the result.
//!
//! [`command`] is `sluicegate-demo servers`: it gives the same servers to any command.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use sluicegate::batch::Digest;
use sluicegate::rules;
use tempfile::TempDir;
use tokio::task::JoinSet;

pub mod command;
mod error;
pub mod generator;
pub mod ledger;
mod observer;
mod place;
pub mod producer;
mod public;
pub mod servers;
mod service;
mod settings;
mod signals;
mod summary;
mod terminal;

pub use error::Error;

use generator::Generator;
use ledger::{Discrepancy, Ledger, Report};
use observer::Observer;
use place::Workdir;
use producer::Producer;
use service::{GROUP, Log, MAX_STOP, Service};
use settings::Settings;
use signals::{Caught, Signals, start_servers};
use summary::{Rules, Summary};
use terminal::{Ink, Terminal, grouped, short};

/// Holds the rules that are swapped in, which are stricter than the default ones.
pub const STRICT: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_STRICT"));

/// Sets how many entries are sent per second. A laptop takes them easily.
const RATE: u64 = 2_000;
/// Bounds how long the service may take to make its tables and its group.
const MAX_READY: Duration = Duration::from_secs(60);
/// Bounds how long the service may take to empty the stream when nothing is added any more.
const MAX_DRAIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// A shell reports SIGPIPE with this exit code: nobody reads the program's output any more.
const BROKEN_PIPE: u8 = 141;

/// Runs the demo. Its code is 0 if the ledger adds up, 1 if not, and 128 and more after a signal.
pub async fn run() -> Result<u8, Error> {
    let mut terminal = Terminal::stdout();
    match on_servers(&mut terminal).await {
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
        ended => {
            terminal.give_up();
            ended
        }
    }
}

/// Prepares the servers, and clears up however the demo ends.
async fn on_servers(terminal: &mut Terminal) -> Result<u8, Error> {
    let settings = Settings::from_environment()?;
    let mut signals = Signals::catch().map_err(Error::Signals)?;
    let log = Log::create(&settings.log)?;

    terminal.title(&settings).map_err(Error::Output)?;
    terminal.begin("  servers   starting … ").map_err(Error::Output)?;
    let begin = Instant::now();
    let place = match start_servers(&mut signals).await? {
        Ok(servers) => Workdir::prepare(servers).await?,
        Err(caught) => return interrupted(terminal, caught),
    };
    let mut story = Story { settings, terminal, place, rules: rules(), service: None, guest: None };
    let ended = tokio::select! {
        ended = story.tell(log, begin) => ended,
        caught = signals.next() => interrupted(story.terminal, caught),
    };
    let cleared = story.clear().await;
    ended.and_then(|code| cleared.map(|()| code))
}

fn rules() -> Rules {
    Rules { default: Digest::new(rules::DEFAULT), strict: Digest::new(STRICT) }
}

/// Prints one line. A failure to print it is no error, because the terminal may be what is gone.
fn interrupted(terminal: &mut Terminal, caught: Caught) -> Result<u8, Error> {
    let _ = terminal.break_in(format_args!("interrupted by {}: stopping what was started", caught.name()));
    Ok(caught.exit_code())
}

/// Holds everything that the demo must let go in the end.
struct Story<'a> {
    settings: Settings,
    terminal: &'a mut Terminal,
    place: Workdir,
    rules: Rules,
    service: Option<Service>,
    /// Holds the component's file.
    guest: Option<TempDir>,
}

struct Flow {
    ledger: Ledger,
    took: Duration,
    /// Says when the component's file was replaced, in milliseconds since the epoch.
    swapped_at: i64,
}

impl Story<'_> {
    async fn tell(&mut self, log: Log, begin: Instant) -> Result<u8, Error> {
        self.say(format_args!("ready in {}", short(begin.elapsed())))?;
        for (name, what) in self.place.description() {
            self.say(format_args!("  {name:<9} {what}"))?;
        }
        let mut observer = Observer::connect(&self.place, GROUP).await?;
        self.start_service(log, &mut observer).await?;
        let flow = self.flow(&mut observer).await?;
        let (status, stop) = self.service()?.stop().await?;

        let (mut report, measured) = observer.take_stock(&flow.ledger).await?;
        report.check_swap();
        report.check_group(observer.group_stats().await?);
        if !status.success() || stop > MAX_STOP {
            let found = format!("it ended with {status}, {} after SIGTERM", short(stop));
            let wanted = format!("exit status: 0 within {} s", MAX_STOP.as_secs());
            report.add(Discrepancy::Ending { found, wanted });
        }
        let tally = self.check_numbers(&mut report)?;
        let swap =
            report.first_strict.map(|id| id.milliseconds.saturating_sub(flow.swapped_at.unsigned_abs()));
        let summary = Summary {
            settings: &self.settings,
            report: &report,
            measured: &measured,
            tally,
            rules: self.rules,
            took: flow.took,
            swap: swap.map(Duration::from_millis),
            stop,
        };
        for line in summary.lines(self.terminal) {
            self.say(line)?;
        }
        Ok(u8::from(!report.adds_up()))
    }

    /// Starts the service with the default rules, in a file that will be replaced.
    async fn start_service(&mut self, log: Log, observer: &mut Observer) -> Result<(), Error> {
        let begin = Instant::now();
        self.terminal.begin("  service   starting … ").map_err(Error::Output)?;
        let at = |source| Error::File { path: std::env::temp_dir(), source };
        let folder = tempfile::Builder::new().prefix("sluicegate-demo-").tempdir().map_err(at)?;
        let guest = folder.path().join("rules.wasm");
        self.guest = Some(folder);
        std::fs::write(&guest, rules::DEFAULT)
            .map_err(|source| Error::File { path: guest.clone(), source })?;
        self.service = Some(Service::start(log, &self.settings, &self.place, &guest)?);
        while !observer.is_ready().await? {
            self.service()?.check()?;
            if begin.elapsed() > MAX_READY {
                return Err(self
                    .service()?
                    .stuck("the service did not make its tables and its group", MAX_READY));
            }
            tokio::time::sleep(POLL).await;
        }
        let default = self.rules.default;
        self.say(format_args!("ready in {}, with the default rules {default}", short(begin.elapsed())))
    }

    /// Generates events, replaces the rules half-way, and waits until the stream is drained.
    async fn flow(&mut self, observer: &mut Observer) -> Result<Flow, Error> {
        let ledger = Ledger::new(self.rules.default, Some(self.rules.strict));
        let generator = Generator::new(self.settings.seed);
        let producer = Producer::new(self.place.redis_url(), &self.place.stream, generator, ledger);
        let mut progress = DemoProgress::new(producer.counter(), self.rules);
        self.say("")?;
        self.say(self.terminal.paint(Ink::Dim, DemoProgress::HEADER))?;

        let duration = self.settings.duration;
        let mut swapped_at = None;
        let mut producing = JoinSet::new(); // ends with this future
        producing.spawn(producer.run(RATE, duration));
        let mut ticks = tokio::time::interval_at(
            tokio::time::Instant::now() + Duration::from_millis(500),
            Duration::from_millis(500),
        );
        let ledger = loop {
            tokio::select! {
                produced = producing.join_next() => match produced {
                    Some(produced) => break produced??,
                    None => continue, // there is one
                },
                _ = ticks.tick() => {}
            }
            self.service()?.check()?;
            if swapped_at.is_none() && progress.begin.elapsed() >= duration / 2 {
                swapped_at = Some(Utc::now().timestamp_millis());
                self.swap()?;
            }
            if progress.is_due(duration) {
                let line = progress.line(observer).await?;
                self.say(line)?;
            }
        };
        self.drain(observer).await?;
        let took = progress.begin.elapsed();
        let line = progress.line(observer).await?;
        self.say(line)?;
        Ok(Flow { ledger, took, swapped_at: swapped_at.unwrap_or_default() })
    }

    /// Replaces the component's file as an operator would: writes beside it, then renames.
    fn swap(&mut self) -> Result<(), Error> {
        let folder = self.guest.as_ref().map(|folder| folder.path().to_owned()).unwrap_or_default();
        let (new, guest) = (folder.join("rules.wasm.new"), folder.join("rules.wasm"));
        let at = |path: PathBuf| |source| Error::File { path, source };
        std::fs::write(&new, STRICT).map_err(at(new.clone()))?;
        std::fs::rename(&new, &guest).map_err(at(new))?;
        let strict = self.rules.strict;
        for news in [
            format!("    now   the strict rules, {strict}, replace the file: from now on"),
            "          heartbeats are discarded, purchases without an amount rejected".to_owned(),
        ] {
            self.say(self.terminal.paint(Ink::News, news))?;
        }
        Ok(())
    }

    async fn drain(&mut self, observer: &mut Observer) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            self.service()?.check()?;
            let group_stats = observer.group_stats().await?;
            if group_stats.lag == Some(0) && group_stats.pending == 0 {
                return Ok(());
            }
            if begin.elapsed() > MAX_DRAIN {
                let lag = group_stats.lag.map_or("unknown".to_owned(), grouped);
                let what = format!("lag {lag} and pending {} did not become 0", grouped(group_stats.pending));
                return Err(self.service()?.stuck(what, MAX_DRAIN));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Compares the service's own numbers, in its log and in its CSV, with the report.
    fn check_numbers(&mut self, report: &mut Report) -> Result<Option<sluicegate::batch::Tally>, Error> {
        let tally = self.service()?.last_counters()?;
        match tally {
            Some(tally) => report.check_counters(tally),
            None => report.add(Discrepancy::Sum {
                what: "metrics lines in the service's log",
                found: "none".to_owned(),
                wanted: "at least one".to_owned(),
            }),
        }
        let (processed, lag) = service::last_metrics(&self.settings.metrics_csv)?.unwrap_or_default();
        let all = report.produced..=report.produced + report.unanswered;
        for (what, found, wanted) in [
            ("events_processed in the last line of the CSV", processed, all),
            ("lag in the last line of the CSV", lag, 0..=0),
        ] {
            if !found.parse().is_ok_and(|found: u64| wanted.contains(&found)) {
                let wanted = grouped(*wanted.start());
                report.add(Discrepancy::Sum { what, found, wanted });
            }
        }
        Ok(tally)
    }

    fn service(&mut self) -> Result<&mut Service, Error> {
        let gone = || Error::Watching(io::Error::other("it was never started"));
        self.service.as_mut().ok_or_else(gone)
    }

    fn say(&mut self, line: impl std::fmt::Display) -> Result<(), Error> {
        self.terminal.line(line).map_err(Error::Output)
    }

    /// Leaves nothing behind but the metrics and the log.
    async fn clear(self) -> Result<(), Error> {
        let stopped = match self.service {
            Some(mut service) => service.stop().await.map(drop),
            None => Ok(()),
        };
        let cleared = self.place.clear().await;
        stopped.and(cleared)
    }
}

/// Makes a line of progress for each second or two.
struct DemoProgress {
    sent: Arc<AtomicU64>,
    rules: Rules,
    begin: Instant,
    /// Says when the last line was made, and how many entries had ended by then.
    last: (Instant, u64),
}

impl DemoProgress {
    const HEADER: &str = "   time   produced     stored dead letters   lag  events/s  rules in force";

    fn new(sent: Arc<AtomicU64>, rules: Rules) -> Self {
        let begin = Instant::now();
        Self { sent, rules, begin, last: (begin, 0) }
    }

    /// Returns whether a line is due: each second, or in a longer demo less often.
    fn is_due(&self, duration: Duration) -> bool {
        let every = if duration > Duration::from_secs(30) { 2 } else { 1 };
        self.last.0.elapsed() >= Duration::from_millis(every * 1_000 - 250)
    }

    async fn line(&mut self, observer: &mut Observer) -> Result<String, Error> {
        let view = observer.view().await?;
        let now = Instant::now();
        let group_stats = view.group_stats;
        let ended = group_stats.length.saturating_sub(group_stats.lag.unwrap_or(0) + group_stats.pending);
        let (last_at, last_ended) = std::mem::replace(&mut self.last, (now, ended));
        let millis = u64::try_from((now - last_at).as_millis()).unwrap_or(u64::MAX);
        // Over less time the rate would be noise.
        let rate =
            (millis >= 500).then(|| grouped(ended.saturating_sub(last_ended).saturating_mul(1_000) / millis));
        Ok(format!(
            "{:>5.1} s {:>10} {:>10} {:>12} {:>5} {:>9}  {}",
            self.begin.elapsed().as_secs_f64(),
            grouped(self.sent.load(Ordering::Relaxed)),
            grouped(view.rows),
            grouped(view.letters),
            group_stats.lag.map_or("?".to_owned(), grouped),
            rate.as_deref().unwrap_or("-"),
            view.component.map(|component| self.rules.name(&component)).unwrap_or_default(),
        ))
    }
}

impl Terminal {
    fn title(&mut self, settings: &Settings) -> io::Result<()> {
        let name = self.paint(Ink::Bold, "sluicegate demo");
        self.line(format_args!(
            "{name}   {} events a second for {} s, seed {}",
            grouped(RATE),
            settings.duration.as_secs(),
            settings.seed
        ))
    }
}
