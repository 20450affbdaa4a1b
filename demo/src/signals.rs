//! Catches the signals that ask for an end, so that nothing is left behind.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::servers::{self, Servers};

/// Catches SIGINT, SIGTERM and SIGHUP from its creation on.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hang_up: Stream,
}

/// Names a signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caught {
    /// SIGINT came, as after Ctrl-C. A terminal sends it to all of its foreground processes.
    Interrupt,
    Terminate,
    /// SIGHUP came: the terminal is gone.
    HangUp,
}

impl Signals {
    /// Begins to catch the signals. It needs a tokio runtime.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal, which may have come before the call.
    pub(super) async fn next(&mut self) -> Caught {
        tokio::select! {
            _ = self.interrupt.recv() => Caught::Interrupt,
            _ = self.terminate.recv() => Caught::Terminate,
            _ = self.hang_up.recv() => Caught::HangUp,
        }
    }
}

impl Caught {
    /// Returns the signal, to be sent on.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
            Self::HangUp => Signal::HUP,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// Returns the code that a shell reports for a program that the signal ended.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::HangUp => 129,
        }
    }
}

/// Starts the servers on a thread that may block. Nothing is left if a signal comes first.
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
            // The servers may have been ready at the very moment of the signal.
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

/// Stops the servers on a thread that may block.
pub(super) async fn stop_servers(servers: Servers) {
    let _ = tokio::task::spawn_blocking(move || drop(servers)).await;
}
