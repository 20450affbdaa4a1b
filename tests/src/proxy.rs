//! A connection that breaks at the worst moment.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Stands between the service and a server, and loses or holds back replies on
/// demand: the server has done what it was told, and the service does not hear
/// of it, or late.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What becomes of the reply to the next request with these bytes.
    doomed: Mutex<Option<(Vec<u8>, Doom)>>,
    lost: AtomicUsize,
    is_released: AtomicBool,
}

#[derive(Clone, Copy)]
enum Doom {
    Lost,
    Held,
}

impl Proxy {
    /// To the server of this URL, which has a host and a port.
    pub fn start(url: &str) -> Self {
        let server = host_and_port(url).to_socket_addrs().expect("an address").next().expect("an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("a bound port");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        // It waits for connections until the tests end.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let _ = join(client, server, &shared);
            }
        });
        Self { address, state }
    }

    /// The URL with the proxy in place of the server.
    pub fn url(&self, url: &str) -> String {
        url.replacen(host_and_port(url), &self.address.to_string(), 1)
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
        self.state.is_released.store(true, Ordering::SeqCst);
    }

    /// Whether that request is still to come.
    pub fn is_armed(&self) -> bool {
        lock(&self.state.doomed).is_some()
    }

    /// How many replies were lost.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is between `//` or `@` and `/`.
fn host_and_port(url: &str) -> &str {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    rest.rsplit('@').next().unwrap_or(rest)
}

fn join(client: TcpStream, server: TcpStream, state: &Arc<State>) -> io::Result<()> {
    let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut replies, mut to_client) = (server, client);
    let doom = Arc::new(Mutex::new(None));
    let (this_doom, state, for_replies) = (Arc::clone(&doom), Arc::clone(state), Arc::clone(state));
    thread::spawn(move || {
        forward(&mut requests, &mut to_server, |bytes| {
            let mut doomed = lock(&state.doomed);
            let is_wanted =
                |(wanted, _): &(Vec<u8>, Doom)| bytes.windows(wanted.len()).any(|found| found == wanted);
            if doomed.as_ref().is_some_and(is_wanted) {
                *lock(&this_doom) = doomed.take().map(|(_, doom)| doom);
            }
            true
        });
    });
    thread::spawn(move || {
        forward(&mut replies, &mut to_client, |_| match *lock(&doom) {
            None => true,
            Some(Doom::Lost) => {
                for_replies.lost.fetch_add(1, Ordering::SeqCst);
                false
            }
            Some(Doom::Held) => {
                while !for_replies.is_released.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                true
            }
        });
    });
    Ok(())
}

/// Until either side closes, or `allows` says no.
fn forward(from: &mut TcpStream, to: &mut TcpStream, allows: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !allows(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
