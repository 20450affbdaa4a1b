//! Serves HTTP/1 within limits: nobody who connects can hold up the service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The connections that are served at the same time, beside streams. Others wait until they are accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, which brings one request: a component may take a minute to compile.
/// A stream lasts until nobody has read it for so long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// What the kernel holds for a caller that does not read. By itself it would hold megabytes.
const SEND_BUFFER_BYTES: u32 = 64 << 10;
/// The connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1_024;
/// The pause after the kernel has refused a connection, as it does when files run short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens at this address. Connections have the listener's buffers.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The place of a connection among those that are served. Each request has it as an extension.
#[derive(Clone)]
pub(super) struct Place(Arc<PlaceInner>);

struct PlaceInner {
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    goes_on: AtomicBool,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        let permit = Mutex::new(Some(permit));
        Self(Arc::new(PlaceInner { permit, goes_on: AtomicBool::new(false) }))
    }

    /// Leaves the place to others. The answer is a stream, and the number of streams has a limit of its own.
    pub(super) fn give_up(&self) {
        self.0.permit.lock().take();
    }

    /// Notes that the stream is read.
    pub(super) fn goes_on(&self) {
        self.0.goes_on.store(true, Ordering::Relaxed);
    }

    /// Waits until the connection has lasted too long.
    async fn expired(&self) {
        loop {
            tokio::time::sleep(CONNECTION_TIMEOUT).await;
            if !self.0.goes_on.swap(false, Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Serves until the shutdown, and drops then whatever is open.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, Place::new(permit)))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_ended) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                connections.spawn(serve_connection(stream, place, router.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the admin API was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, place: Place, router: Router) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the admin API failed");
            }
        }
        () = place.expired() => tracing::debug!("a connection to the admin API took too long"),
    }
}
