//! Watches the live tap of the service as badly as can be: a hundred times, and hardly reading.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub(crate) const WATCHERS: usize = 100;
const REQUEST: &[u8] =
    b"GET /v1/tenants/default/tap?rate=100&payload=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200";
/// Bounds how long the service may take to listen.
const DEADLINE: Duration = Duration::from_secs(10);

/// Those who watch, until this is finished.
pub(crate) struct Watchers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Watchers {
    /// Connects as soon as the service listens. Half of them read a byte a second, the others none.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut streams = (0..WATCHERS).map(|_| watch(address)).collect::<anyhow::Result<Vec<_>>>()?;
            while !until.load(Ordering::Relaxed) {
                for stream in streams.iter_mut().step_by(2) {
                    match stream.read(&mut [0]) {
                        Ok(0) => bail!("the service has closed a stream"),
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                sleep(Duration::from_secs(1));
            }
            Ok(())
        });
        Self { stop, thread }
    }

    /// Ends all streams, and fails if one has ended before.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the watchers panicked"))?
    }
}

fn watch(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match try_watch(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(error).context("watching the tap"),
            Err(_) => sleep(Duration::from_millis(5)),
        }
    }
}

fn try_watch(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(REQUEST)?;
    let mut status = [0; OK.len()];
    stream.read_exact(&mut status)?;
    anyhow::ensure!(status == OK, "the service answers {}", String::from_utf8_lossy(&status));
    stream.set_nonblocking(true)?;
    Ok(stream)
}
