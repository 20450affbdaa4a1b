//! Simulates a network that fails: connections break, stall or go silent when a test says so.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Says what the network does to every connection through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Connections are closed, and new ones as soon as they are made.
    Cut,
    /// Every piece of data waits for this time.
    Delay(Duration),
    /// Data is swallowed, and nobody is told. A connection that has lost
    /// something stays silent for ever, as behind a firewall that forgot it.
    HalfOpen,
    /// Each connection is reset after this many bytes of replies, mostly in the middle of a reply.
    ResetAfter(usize),
}

/// Stands between the service and a server. On demand it also loses or holds back single replies:
/// the server has done what it was told, and the service does not hear of it, or late.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    /// Runs one thread, so that no other test's work delays it. `None` only while being dropped.
    runtime: Option<Runtime>,
}

struct State {
    server: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Says what becomes of the reply to the next request with these bytes.
    doomed: Mutex<Option<(Vec<u8>, Doom)>>,
    lost: AtomicUsize,
    released: watch::Sender<bool>,
}

#[derive(Clone, Copy)]
enum Doom {
    Lost,
    Held,
}

impl Proxy {
    /// Starts a proxy to the server of this URL, which has a host and a port.
    pub fn start(url: &str) -> Self {
        let server = host_and_port(url).to_socket_addrs().expect("an address").next().expect("an address");
        let state = Arc::new(State {
            server,
            fault: watch::channel(Fault::None).0,
            doomed: Mutex::new(None),
            lost: AtomicUsize::new(0),
            released: watch::Sender::new(false),
        });
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime for the proxy");
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound port");
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(join(client, Arc::clone(&shared)));
            }
        });
        Self { address, state, runtime: Some(runtime) }
    }

    /// Returns the URL with the proxy in place of the server.
    pub fn url(&self, url: &str) -> String {
        url.replacen(host_and_port(url), &self.address.to_string(), 1)
    }

    /// Makes the network do this from now on.
    pub fn set(&self, fault: Fault) {
        self.state.fault.send_replace(fault);
    }

    /// Loses the reply to the next request that contains these bytes, and the connection with it.
    pub fn lose_reply_to(&self, request: &[u8]) {
        *lock(&self.state.doomed) = Some((request.to_vec(), Doom::Lost));
    }

    /// Holds back the reply to the next request that contains these bytes.
    pub fn hold_reply_to(&self, request: &[u8]) {
        *lock(&self.state.doomed) = Some((request.to_vec(), Doom::Held));
    }

    /// Lets through what is held back.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Returns whether that request is still to come.
    pub fn is_armed(&self) -> bool {
        lock(&self.state.doomed).is_some()
    }

    /// Returns how many replies were lost.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns what is between `//` or `@` and `/`.
fn host_and_port(url: &str) -> &str {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    rest.rsplit('@').next().unwrap_or(rest)
}

async fn join(mut client: TcpStream, state: Arc<State>) {
    let mut fault = state.fault.subscribe();
    if *fault.borrow() == Fault::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(state.server).await else { return };
    let line = Line { state: &state, doom: Mutex::new(None), silent: AtomicBool::new(false) };
    {
        let (requests, to_client) = client.split();
        let (replies, to_server) = server.split();
        tokio::select! {
            () = line.forward(requests, to_server, true) => {}
            () = line.forward(replies, to_client, false) => {}
            _ = fault.wait_for(|fault| *fault == Fault::Cut) => {}
        }
    }
    if matches!(*fault.borrow(), Fault::ResetAfter(_)) {
        // The connection ends without a farewell: by RST instead of FIN.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Forwards one connection.
struct Line<'a> {
    state: &'a State,
    /// Says what becomes of the next reply.
    doom: Mutex<Option<Doom>>,
    /// Is true once something was swallowed.
    silent: AtomicBool,
}

impl Line<'_> {
    /// Forwards until either side closes, or the connection is to end.
    async fn forward(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, requests: bool) {
        let mut buffer = vec![0; 1 << 16];
        let mut forwarded = 0;
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let mut bytes = &buffer[..count];
            if requests {
                self.look_for_doom(bytes);
            } else {
                let doom = *lock(&self.doom);
                match doom {
                    None => {}
                    Some(Doom::Lost) => {
                        self.state.lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    Some(Doom::Held) => {
                        // This fails only when the proxy is gone.
                        let _ = self.state.released.subscribe().wait_for(|released| *released).await;
                    }
                }
            }
            let fault = *self.state.fault.borrow();
            match fault {
                Fault::None => {}
                Fault::Cut => return,
                Fault::Delay(delay) => tokio::time::sleep(delay).await,
                Fault::HalfOpen => {
                    self.silent.store(true, Ordering::SeqCst);
                    self.state.lost.fetch_add(usize::from(!requests), Ordering::SeqCst);
                }
                Fault::ResetAfter(limit) if !requests => {
                    bytes = &bytes[..count.min(limit.saturating_sub(forwarded))];
                }
                Fault::ResetAfter(_) => {}
            }
            if self.silent.load(Ordering::SeqCst) {
                continue;
            }
            if to.write_all(bytes).await.is_err() || bytes.len() < count {
                return;
            }
            forwarded += count;
        }
        if self.silent.load(Ordering::SeqCst) {
            // The news that one side has closed the connection is swallowed too.
            std::future::pending::<()>().await;
        }
    }

    fn look_for_doom(&self, bytes: &[u8]) {
        let mut doomed = lock(&self.state.doomed);
        let is_wanted =
            |(wanted, _): &(Vec<u8>, Doom)| bytes.windows(wanted.len()).any(|found| found == wanted);
        if doomed.as_ref().is_some_and(is_wanted) {
            *lock(&self.doom) = doomed.take().map(|(_, doom)| doom);
        }
    }
}
