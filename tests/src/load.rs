//! Sends a load with a ledger: entries right and wrong, and what must have become of each.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use chrono::{SubsecRound as _, Utc};
use redis::{Connection, RedisResult};
use sluicegate::batch::Digest;
use sluicegate_demo::generator::{Generator, Sample};
use sluicegate_demo::ledger::{Ledger, Report};
use sluicegate_verdicts::EntryId;

use crate::guests;
use crate::scene::Scene;
use crate::stream::Stream;
use crate::wait::until;

/// Sends the demo's entries from a thread of its own, and keeps the ledger. While Redis is away it
/// goes on trying. What it sent without an answer may have arrived or not.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    ledger: Mutex<Ledger>,
}

impl Load {
    /// Sends `portion` entries, pauses for 10 ms, and so on. The seed decides which entries.
    pub fn start(stream: &Stream, seed: u64, portion: usize) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            ledger: Mutex::new(Ledger::new(Digest::new(guests::DEFAULT), None)),
        });
        let (for_thread, stream) = (Arc::clone(&shared), stream.another());
        let thread = thread::spawn(move || run(&for_thread, &stream, Generator::new(seed), portion));
        Self { shared, thread: Some(thread) }
    }

    /// Returns how many entries Redis has taken so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Waits until Redis has taken `more` entries more.
    pub fn until_sent(&self, more: u64) {
        let wanted = self.sent() + more;
        until(&format!("{more} more entries taken by redis"), || match self.sent() {
            found if found >= wanted => Ok(()),
            found => Err(format!("{found} of {wanted}")),
        });
    }

    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load does not panic");
        }
    }

    /// Compares the database with the ledger, once everything was acknowledged. All these versions
    /// of the rules judge like the default rules. `may_give_up` says whether the service is killed
    /// so often that it may give up an entry that is not to blame.
    pub fn audit(&self, scene: &Scene, versions: &[Digest], may_give_up: bool) -> Report {
        let ledger = self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut audit = ledger.audit();
        if may_give_up {
            audit.allow_giving_up();
        }
        scene.database.audit(&mut audit, &scene.stream.name, versions);
        audit.finish()
    }

    /// Ends the load, waits until everything was acknowledged, and fails unless everything adds up.
    pub fn settle(mut self, scene: &Scene) -> Report {
        self.stop();
        scene.stream.until_drained();
        let report = self.audit(scene, &[], false);
        assert!(report.adds_up(), "{:#?}", report.discrepancies);
        assert!(report.rows > 0 && report.produced > 0, "{report:?}");
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, stream: &Stream, mut generator: Generator, portion: usize) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let samples: Vec<Sample> =
            (0..portion).map(|_| generator.sample(Utc::now().trunc_subsecs(6))).collect();
        let ids = send(stream, &mut connection, &samples);
        let mut ledger = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match ids {
            Ok(ids) => {
                shared.sent.fetch_add(u64::try_from(ids.len()).unwrap_or(0), Ordering::Relaxed);
                for (sample, id) in samples.into_iter().zip(ids) {
                    ledger.sent(sample, EntryId::parse(id.as_bytes()).expect("an entry ID"));
                }
            }
            Err(_away) => {
                // Without a connection nothing was sent.
                if connection.take().is_some() {
                    samples.iter().for_each(|sample| ledger.unanswered(sample));
                }
                drop(ledger);
                sleep(Duration::from_millis(50));
            }
        }
        sleep(Duration::from_millis(10));
    }
}

fn send(
    stream: &Stream,
    connection: &mut Option<Connection>,
    samples: &[Sample],
) -> RedisResult<Vec<String>> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(stream.connect()?),
    };
    let mut pipeline = redis::pipe();
    for sample in samples {
        pipeline.add_command(stream.xadd(&sample.fields));
    }
    pipeline.query(connection)
}
