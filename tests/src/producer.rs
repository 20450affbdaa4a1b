//! Sends a load: events that flow while the test does something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use crate::events::Event;
use crate::stream::Stream;
use crate::wait::until;

const MAX_CATCH_UP: Duration = Duration::from_millis(500);

/// Adds events in small portions from a thread of its own until it is told to
/// stop. While Redis is away it tries again and again.
pub struct Producer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<Sent>>>,
}

/// Holds an event that Redis accepted.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Names the entry.
    pub id: String,
    pub event: Event,
}

impl Producer {
    /// Sends about 1,000 events per second.
    pub fn start(stream: &Stream, make: impl FnMut() -> Event + Send + 'static) -> Self {
        Self::paced(stream, 10, Duration::from_millis(10), make)
    }

    /// Sends `portion` events at each interval, on time on average even if single ones are late.
    pub fn paced(
        stream: &Stream,
        portion: usize,
        interval: Duration,
        mut make: impl FnMut() -> Event + Send + 'static,
    ) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted, stream) = (Arc::clone(&stop), Arc::clone(&count), stream.another());
        let thread = thread::spawn(move || {
            let mut sent = Vec::new();
            let mut connection = None;
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let mut events: Vec<Event> = (0..portion).map(|_| make()).collect();
                // The same events are sent again after an error: nobody knows whether they arrived.
                while let Err(_away) = send(&stream, &mut connection, &mut events, &mut sent) {
                    connection = None;
                    sleep(Duration::from_millis(20));
                    if stopped.load(Ordering::Relaxed) {
                        return sent;
                    }
                }
                counted.store(sent.len(), Ordering::Relaxed);
                // After an outage the producer makes up for half a second, and no more.
                next = (next + interval).max(Instant::now().checked_sub(MAX_CATCH_UP).unwrap_or(next));
                sleep(next.saturating_duration_since(Instant::now()));
            }
            sent
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// Returns how many events Redis has accepted so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until Redis has accepted `more` events more.
    pub fn until_sent(&self, more: usize) {
        let wanted = self.count() + more;
        until(&format!("{more} more events accepted by redis"), || match self.count() {
            found if found >= wanted => Ok(()),
            found => Err(format!("{found} of {wanted}")),
        });
    }

    /// Ends the load, and returns what was accepted.
    pub fn stop(mut self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("joined once");
        thread.join().expect("the producer does not panic")
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(
    stream: &Stream,
    connection: &mut Option<Connection>,
    events: &mut Vec<Event>,
    sent: &mut Vec<Sent>,
) -> RedisResult<()> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(stream.connect()?),
    };
    let mut pipeline = redis::pipe();
    for event in events.iter() {
        pipeline.add_command(stream.xadd(&event.data()));
    }
    let ids: Vec<String> = pipeline.query(connection)?;
    sent.extend(ids.into_iter().zip(events.drain(..)).map(|(id, event)| Sent { id, event }));
    Ok(())
}
