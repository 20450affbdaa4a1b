//! A connection that breaks at the worst moment.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Stands between the service and a server, and loses replies on demand: the
/// server has done what it was told, and the service never hears of it.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The reply to the next request with these bytes is lost.
    doomed: Mutex<Option<Vec<u8>>>,
    lost: AtomicUsize,
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
        *self.state.doomed.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.to_vec());
    }

    /// Whether that request is still to come.
    pub fn is_armed(&self) -> bool {
        self.state.doomed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// How many replies were lost.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
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
    let is_doomed = Arc::new(Mutex::new(false));
    let (doomed, state, for_replies) = (Arc::clone(&is_doomed), Arc::clone(state), Arc::clone(state));
    thread::spawn(move || {
        forward(&mut requests, &mut to_server, |bytes| {
            let mut wanted = state.doomed.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.as_ref().is_some_and(|wanted| bytes.windows(wanted.len()).any(|found| found == wanted))
            {
                *wanted = None;
                *doomed.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
            true
        });
    });
    thread::spawn(move || {
        forward(&mut replies, &mut to_client, |_| {
            let is_lost = *is_doomed.lock().unwrap_or_else(PoisonError::into_inner);
            for_replies.lost.fetch_add(usize::from(is_lost), Ordering::SeqCst);
            !is_lost
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
