//! The signals that ask for an end, caught so that nothing is left behind.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::servers::{self, Servers};

/// Catches SIGINT, SIGTERM and SIGHUP from its making on.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hang_up: Stream,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caught {
    /// SIGINT: Ctrl-C. A terminal sends it to all of its foreground processes.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone.
    HangUp,
}

impl Signals {
    /// Needs a tokio runtime.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one. It may have come before the call.
    pub(super) async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Interrupt,
            _ = self.terminate.recv() => Caught::Terminate,
            _ = self.hang_up.recv() => Caught::HangUp,
        }
    }
}

impl Caught {
    /// To send it on.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
            Self::HangUp => Signal::HUP,
        }
    }

    /// As people know it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// What a shell reports of a program that the signal ended.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::HangUp => 129,
        }
    }
}

/// Starts the servers on a thread that may block, unless a signal comes first: then nothing is left of the start.
pub(super) async fn start_servers(signals: &mut Signals) -> Result<Result<Servers, Caught>, servers::Error> {
    let given_up = CancellationToken::new();
    let token = given_up.clone();
    let mut start = tokio::task::spawn_blocking(move || Servers::start_unless(&token));
    let (caught, started) = tokio::select! {
        started = &mut start => (None, started),
        caught = signals.next() => {
            given_up.cancel();
            (Some(caught), start.await)
        }
    };
    match (caught, started) {
        (Some(caught), Ok(started)) => {
            // They may have been ready at the very moment.
            if let Ok(servers) = started {
                stop_servers(servers).await;
            }
            Ok(Err(caught))
        }
        (Some(caught), Err(_)) => Ok(Err(caught)),
        (None, Ok(started)) => started.map(Ok),
        (None, Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Stops them on a thread that may block.
pub(super) async fn stop_servers(servers: Servers) {
    let _ = tokio::task::spawn_blocking(move || drop(servers)).await;
}
