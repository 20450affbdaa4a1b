//! Sends entries to a hostile tenant, for as long as something else is watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use crate::events::Event;
use crate::guests::provoking;
use crate::stream::Stream;

/// Sets the time between two looks at the stream.
const PAUSE: Duration = Duration::from_millis(5);

/// Keeps a stream filled from a thread of its own. While Redis is away it goes on trying.
pub struct Provoker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Provoker {
    /// Adds `backlog` provoking entries whenever fewer are unread, so that there is always work.
    pub fn start(stream: &Stream, backlog: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, stream) = (Arc::clone(&stop), stream.another());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let lag = stream.group_info("lag").and_then(|lag| lag.parse::<u64>().ok());
                // Before there is a group, all of the stream is to be read.
                let waiting = lag.or_else(|| stream.try_run(redis::cmd("XLEN").arg(&stream.name)).ok());
                if waiting.is_some_and(|waiting| waiting < backlog) {
                    let mut pipeline = redis::pipe();
                    for _ in 0..backlog {
                        pipeline.add_command(stream.xadd(&provoking(&Event::new(), None)));
                    }
                    let _away = stream.connect().and_then(|mut redis| pipeline.exec(&mut redis));
                }
                sleep(PAUSE); // nobody is waited for
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Provoker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
