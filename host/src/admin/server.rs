//! Serves HTTP/1 within limits: nobody who connects can hold up the service.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The connections that are served at the same time. Others wait until they are accepted.
const MAX_CONNECTIONS: usize = 64;
/// How long a caller may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last, which brings one request: a component may take a minute to compile.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The pause after the kernel has refused a connection, as it does when files run short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the shutdown, and drops then whatever is open.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, router.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the admin API was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin API failed"),
        Err(_) => tracing::debug!("a connection to the admin API took too long"),
    }
}
