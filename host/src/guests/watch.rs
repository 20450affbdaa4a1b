//! Notices that a component's file changed, and swaps.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use super::{Guests, read};
use crate::batch::Digest;

/// How long the folder must be quiet before the file is read: copying a file
/// makes several changes.
const SETTLE: Duration = Duration::from_millis(200);
/// After so long it is read all the same: another tenant's file in the folder may never come to rest. What is read
/// half-written then is refused, and looked at again with the next change.
const SETTLE_MAX: Duration = Duration::from_secs(2);
/// How often the file is looked at in any case: network mounts tell of no changes.
const POLL: Duration = Duration::from_secs(5);

/// By what a file shows that it was written, without being read.
type Stamp = (SystemTime, u64, u64);

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// Where the look at a file has led so far.
#[derive(Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// The last version that was refused.
    refused: Option<Digest>,
    /// Whether it was told that the file cannot be read.
    is_unreadable: bool,
}

impl Guests {
    /// Watches the file and puts each new version into force, until `shutdown`.
    ///
    /// A version that is refused is logged once with the reason, and the old
    /// one goes on. Compiling happens on a thread of its own.
    pub async fn watch(self: Arc<Self>, folders: Arc<Folders>, shutdown: CancellationToken) {
        let Some(file) = self.file.clone() else { return shutdown.cancelled().await };
        let mut changed = folders.subscribe(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "the guest's folder cannot be watched; looking every {POLL:?} instead");
            channel::channel(()).1
        });
        let mut seen = Seen::default();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = until_changed(&mut changed) => {
                    settle(&mut changed).await;
                    seen.stamp = None;
                }
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.cancelled() => return,
            }
            self.look(&file, &mut seen).await;
        }
    }

    /// Reads the file, unless it is as it was, and swaps if it is another version than the one in force.
    async fn look(self: &Arc<Self>, file: &Path, seen: &mut Seen) {
        let in_force = self.digest();
        let (guests, path, refused, stamp_before) =
            (Arc::clone(self), file.to_owned(), seen.refused, seen.stamp);
        let looked = tokio::task::spawn_blocking(move || {
            // Before the reading: what is written meanwhile is looked at the next time.
            let stamp = stamp(&path)?;
            if Some(stamp) == stamp_before {
                return None;
            }
            let bytes = match read(&path, guests.sandbox.limits().component_bytes) {
                Ok(bytes) => bytes,
                // A file that is gone for the moment is being replaced.
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => return Some(Err(error)),
            };
            let digest = Digest::of(&bytes);
            let is_news = digest != in_force && Some(digest) != refused;
            Some(Ok((stamp, is_news.then(|| (digest, guests.sandbox.load(&bytes))))))
        });
        let (stamp, loaded) = match looked.await {
            Ok(Some(Ok(looked))) => looked,
            Ok(Some(Err(error))) => {
                // Not at each look.
                if !std::mem::replace(&mut seen.is_unreadable, true) {
                    tracing::error!(file = %file.display(), %in_force, %error, "the guest cannot be read; the old one goes on");
                }
                return;
            }
            Ok(None) => return,
            Err(error) => {
                return tracing::error!(%error, "loading the new guest panicked; the old one goes on");
            }
        };
        (seen.stamp, seen.is_unreadable) = (Some(stamp), false);
        match loaded {
            None => {}
            Some((digest, Ok(guest))) => {
                self.put_in_force(guest);
                seen.refused = None;
                tracing::info!(from = %in_force, to = %digest, "new guest loaded; it takes effect with the next batch");
            }
            Some((digest, Err(error))) => {
                seen.refused = Some(digest);
                tracing::error!(guest = %digest, in_force = %in_force, %error, "new guest refused; the old one goes on");
            }
        }
    }
}

/// Never, when nobody watches.
async fn until_changed(changes: &mut channel::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Waits until nothing has changed for a while, but not for ever.
async fn settle(changes: &mut channel::Receiver<()>) {
    let quiet = async { while tokio::time::timeout(SETTLE, until_changed(changes)).await.is_ok() {} };
    let _ = tokio::time::timeout(SETTLE_MAX, quiet).await;
}

/// Watches the folders of all tenants' files: the system has few watchers to give.
#[derive(Default)]
pub struct Folders {
    /// Made when it is needed first.
    watcher: Mutex<Option<RecommendedWatcher>>,
    changes: Arc<Mutex<Changes>>,
}

/// Who is to be told of a change in a folder.
type Changes = HashMap<PathBuf, channel::Sender<()>>;

impl Folders {
    /// Tells of changes in the file's folder.
    ///
    /// The folder, not the file: editors, `mv` and Kubernetes replace the
    /// file, or a link on the way to it, rather than write into it.
    fn subscribe(&self, file: &Path) -> notify::Result<channel::Receiver<()>> {
        let folder = std::path::absolute(file)?.parent().map(Path::to_owned).unwrap_or_default();
        if let Some(change) = lock(&self.changes).get(&folder) {
            return Ok(change.subscribe());
        }
        let mut watcher = lock(&self.watcher);
        let watcher = match &mut *watcher {
            Some(watcher) => watcher,
            none => none.insert(tell(Arc::clone(&self.changes))?),
        };
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        Ok(lock(&self.changes).entry(folder).or_default().subscribe())
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(changes: Arc<Mutex<Changes>>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // Reading the file makes access events: they are no news.
        if event.kind.is_access() {
            return;
        }
        for (folder, change) in &*lock(&changes) {
            let is_there = |path: &PathBuf| path == folder || path.parent() == Some(folder);
            // Without a path, some events were lost.
            if event.paths.is_empty() || event.paths.iter().any(is_there) {
                change.send_replace(());
            }
        }
    })
}
