//! Versions of the rules: which component is in force, and how a new one comes into force.
//!
//! - `file`: what can be known of a file without reading it
//! - `watch`: notices that the component's file changed, and swaps
//!
//! A version is a compiled [`Guest`], named by the digest of its file.

mod file;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
pub use watch::Folders;

use crate::batch::Digest;
use crate::judge::Rules;
use crate::pipeline::RulesInForce;
use crate::retry::Retryable as _;
use crate::sandbox::{Guest, LoadError, Sandbox, Source};
use file::Stamp;

/// The default rules, inside the program so that it needs no other file.
pub const DEFAULT: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_DEFAULT"));

/// Why there are no rules to begin with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named by `GUEST`.
    #[error("the guest {file} cannot be read: {source}")]
    Unreadable {
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The default rules do not load: a defect of the program.
    #[error("the default rules inside the program are refused: {0}")]
    Defective(LoadError),
    /// It is no component that can be used.
    #[error("the guest {file} is refused: {}", version.reason)]
    Refused {
        file: PathBuf,
        /// Which, and why.
        version: Box<Refused>,
    },
}

/// A version that was refused for a reason that may pass is tried again after so long, and after twice as long each time
/// until [`MAX_RETRY`]. To compile is work, and a hostile component could keep the compiler busy.
const MIN_RETRY: Duration = Duration::from_secs(60);
/// See [`MIN_RETRY`].
const MAX_RETRY: Duration = Duration::from_secs(3_600);
/// A file that changes for longer is not waited for any more.
const MAX_CHANGES: Duration = Duration::from_secs(30);

/// A version that cannot be used.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Of the file at that time. A touch is enough to have it tried again.
    stamp: Stamp,
    reason: LoadError,
    since: Instant,
    /// How often it was tried.
    tries: u32,
}

impl Refused {
    /// With the time that it is tried again, if it was refused before.
    fn new(stamp: Stamp, reason: LoadError, before: Option<&Self>) -> Self {
        let tries = before.filter(|before| before.stamp == stamp).map_or(0, |before| before.tries) + 1;
        Self { stamp, reason, since: Instant::now(), tries }
    }

    /// How long it stands; without end, if only another file can help.
    fn stands_for(&self) -> Option<Duration> {
        let delay = MIN_RETRY.saturating_mul(1 << (self.tries - 1).min(10));
        (!self.reason.is_permanent()).then_some(delay.min(MAX_RETRY))
    }

    /// Whether the file of this stamp need not be looked at.
    fn stands(&self, stamp: &Stamp) -> bool {
        self.stamp == *stamp && self.stands_for().is_none_or(|delay| self.since.elapsed() < delay)
    }
}

/// The version in force, and the means to replace it.
pub struct RulesLoader {
    sandbox: Sandbox,
    /// `None` for the default rules, which do not change.
    file: Option<PathBuf>,
    in_force: channel::Sender<Arc<dyn Rules>>,
}

impl RulesLoader {
    /// Loads the first version, unless it is one that was refused lately. Compiles: not for a thread that has batches to serve.
    pub fn load(
        sandbox: Sandbox,
        folders: &Folders,
        file: Option<&Path>,
        refused: Option<Refused>,
    ) -> Result<Self, Error> {
        let guest = match file {
            None => sandbox.load_trusted(DEFAULT).map_err(Error::Defective)?,
            Some(file) => load_first(&sandbox, folders, file, refused)?,
        };
        tracing::info!(
            guest = %guest.digest(),
            file = file.map(|file| tracing::field::display(file.display())),
            "guest loaded"
        );
        let (in_force, _) = channel::channel(Arc::new(guest) as Arc<dyn Rules>);
        Ok(Self { sandbox, file: file.map(Path::to_owned), in_force })
    }

    /// Where the pipeline sees the version in force.
    pub fn in_force(&self) -> RulesInForce {
        self.in_force.subscribe()
    }

    fn digest(&self) -> Digest {
        self.in_force.borrow().digest()
    }

    /// From the next batch on.
    fn put_in_force(&self, guest: Guest) {
        self.in_force.send_replace(Arc::new(guest));
    }
}

/// The file's version. One that is refused while the file is being written is waited for.
fn load_first(
    sandbox: &Sandbox,
    folders: &Folders,
    file: &Path,
    refused: Option<Refused>,
) -> Result<Guest, Error> {
    let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
    let most = sandbox.limits().component_bytes;
    let begun = Instant::now();
    loop {
        let stamp = Stamp::read(file).map_err(unreadable)?;
        if let Some(version) = refused.as_ref().filter(|refused| refused.stands(&stamp)) {
            return Err(Error::Refused { file: file.to_owned(), version: Box::new(version.clone()) });
        }
        let digest = folders.one_at_a_time(|| file::digest(file, most)).map_err(unreadable)?;
        let reason = match load_version(sandbox, file, digest, &stamp) {
            Ok(guest) => return Ok(guest),
            Err(reason) => reason,
        };
        std::thread::sleep(stamp.until_rest());
        let is_at_rest = Stamp::read(file).is_ok_and(|now| now == stamp);
        if is_at_rest || begun.elapsed() > MAX_CHANGES {
            let version = Box::new(Refused::new(stamp, reason, refused.as_ref()));
            return Err(Error::Refused { file: file.to_owned(), version });
        }
    }
}

/// Compiles the version of this digest, unless somebody has it compiled.
fn load_version(sandbox: &Sandbox, file: &Path, digest: Digest, stamp: &Stamp) -> Result<Guest, LoadError> {
    let read = || {
        let bytes = file::read(file, sandbox.limits().component_bytes)
            .map_err(|error| LoadError::Unreadable(error.to_string()))?;
        match Digest::new(&bytes) == digest {
            true => Ok(bytes),
            false => Err(LoadError::Unreadable("it changed while it was read".to_owned())),
        }
    };
    sandbox.load(Source { digest, about_bytes: stamp.bytes, read: &read })
}
