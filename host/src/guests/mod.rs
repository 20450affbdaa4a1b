//! Versions of the rules: which component is in force, and how a new one comes into force.
//!
//! - `watch`: notices that the component's file changed, and swaps
//!
//! A version is a compiled [`Guest`], named by the digest of its file.

mod watch;

use std::borrow::Cow;
use std::fs::{FileType, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
pub use watch::Folders;

use crate::batch::Digest;
use crate::judge::Rules;
use crate::pipeline::RulesInForce;
use crate::sandbox::{Guest, LoadError, Sandbox};

/// The default rules, inside the program so that it needs no other file.
pub const DEFAULT: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_DEFAULT"));
/// Stricter rules, which the demo swaps in.
pub const STRICT: &[u8] = include_bytes!(env!("SLUICEGATE_GUEST_STRICT"));

/// `O_NONBLOCK` of Linux, by rustix's name for it.
const NO_WAITING: u32 = rustix::fs::OFlags::NONBLOCK.bits();

/// Why there are no rules to begin with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named by `GUEST`.
    #[error("the guest {file} cannot be read: {source}")]
    Unreadable {
        /// Its path.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no component that can be used.
    #[error("the guest {file} is refused: {}", version.reason)]
    Refused {
        /// Its path.
        file: PathBuf,
        /// Which, and why.
        version: Refused,
    },
}

/// How long a version that was refused is not looked at again. To compile it is work, and a hostile one could keep the
/// compiler busy; but what was too slow on a busy machine may not be so later.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// A version that cannot be used.
#[derive(Clone, Debug)]
pub struct Refused {
    digest: Digest,
    reason: LoadError,
    since: Instant,
}

impl Refused {
    fn is(&self, digest: Digest) -> bool {
        self.digest == digest && self.since.elapsed() < REFUSED_FOR
    }
}

/// The version in force, and the means to replace it.
pub struct Guests {
    sandbox: Sandbox,
    /// `None` for the default rules, which do not change.
    file: Option<PathBuf>,
    in_force: channel::Sender<Arc<dyn Rules>>,
}

impl Guests {
    /// Loads the first version, unless it is one that was refused lately. Compiles: not for a thread that has batches to serve.
    pub fn load(sandbox: Sandbox, file: Option<&Path>, refused: Option<Refused>) -> Result<Self, Error> {
        let bytes = match file {
            None => Cow::Borrowed(DEFAULT),
            Some(file) => read(file, sandbox.limits().component_bytes)
                .map(Cow::Owned)
                .map_err(|source| Error::Unreadable { file: file.to_owned(), source })?,
        };
        let digest = Digest::of(&bytes);
        let new_refusal = |reason| Refused { digest, reason, since: Instant::now() };
        let guest = match (refused.filter(|refused| refused.is(digest)), file) {
            (Some(refused), _) => Err(refused),
            (None, None) => sandbox.load_trusted(&bytes).map_err(new_refusal),
            (None, Some(_)) => sandbox.load(&bytes).map_err(new_refusal),
        };
        let guest = guest.map_err(|version| {
            let file = file.unwrap_or(Path::new("inside the program")).to_owned();
            Error::Refused { file, version }
        })?;
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

/// The whole file, or its beginning if it is larger than any component may be.
fn read(file: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    // A pipe would otherwise be waited for until somebody writes into it.
    let file = OpenOptions::new().read(true).custom_flags(NO_WAITING.cast_signed()).open(file)?;
    if let Some(found) = another_kind(file.metadata()?.file_type()) {
        return Err(std::io::Error::other(format!("found {found}; wanted a regular file")));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What it is, unless it is a regular file.
fn another_kind(found: FileType) -> Option<&'static str> {
    match found {
        _ if found.is_file() => None,
        _ if found.is_dir() => Some("a directory"),
        _ if found.is_fifo() => Some("a pipe"),
        _ => Some("a device"),
    }
}
