//! Starts child processes that end when this process does.

use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::LazyLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Error, POLL};

/// Waits for the child. Returns `None` if the deadline passes first, or `given_up` is cancelled.
pub(super) fn wait(
    child: &mut Child,
    at_most: Duration,
    given_up: &CancellationToken,
) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + at_most;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() > deadline || given_up.is_cancelled() {
            return Ok(status);
        }
        sleep(POLL);
    }
}

type Spawn = (Command, SyncSender<io::Result<Child>>);

/// Starts every child. The kernel signals a parent's death when the *thread* that started the child
/// ends, so that thread has to live as long as the process.
static KEEPER: LazyLock<io::Result<SyncSender<Spawn>>> = LazyLock::new(|| {
    let (sender, requests) = sync_channel::<Spawn>(1);
    thread::Builder::new().name("server-keeper".to_owned()).spawn(move || {
        for (mut command, reply) in requests {
            let _ = reply.send(command.spawn());
        }
    })?;
    Ok(sender)
});

pub(crate) fn spawn(command: Command, program: &Path) -> Result<Child, Error> {
    let at = |source| Error::Spawn { program: program.to_owned(), source };
    let gone = || at(io::Error::other("the thread that starts servers has ended"));
    let keeper = KEEPER.as_ref().map_err(|error| at(io::Error::new(error.kind(), error.to_string())))?;
    let (reply, answer) = sync_channel(1);
    keeper.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?.map_err(at)
}
