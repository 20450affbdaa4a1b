//! Notices that the component's file changed, and swaps.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Guests, read};
use crate::batch::Digest;

/// How long the folder must be quiet before the file is read: copying a file
/// makes several changes.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the file is looked at in any case: network mounts tell of no changes.
const POLL: Duration = Duration::from_secs(5);

impl Guests {
    /// Watches the file and puts each new version into force, until `shutdown`.
    ///
    /// A version that is refused is logged once with the reason, and the old
    /// one goes on. Compiling happens on a thread of its own.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let Some(file) = self.file.clone() else { return shutdown.cancelled().await };
        let changed = Arc::new(Notify::new());
        let _watcher = match watch_folder(&file, Arc::clone(&changed)) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the guest's folder cannot be watched; looking every {POLL:?} instead");
                None
            }
        };
        let mut refused = None;
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = changed.notified() => settle(&changed).await,
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.cancelled() => return,
            }
            self.look(&file, &mut refused).await;
        }
    }

    /// Reads the file and swaps if it is another version than the one in force.
    async fn look(self: &Arc<Self>, file: &Path, refused: &mut Option<Digest>) {
        let in_force = self.digest();
        let (guests, path, known) = (Arc::clone(self), file.to_owned(), *refused);
        let looked = tokio::task::spawn_blocking(move || {
            // A file that is gone for the moment is being replaced.
            let bytes = read(&path, guests.sandbox.limits().component_bytes).ok()?;
            let digest = Digest::of(&bytes);
            let is_news = digest != in_force && Some(digest) != known;
            is_news.then(|| (digest, guests.sandbox.load(&bytes)))
        });
        match looked.await {
            Ok(None) => {}
            Ok(Some((digest, Ok(guest)))) => {
                self.put_in_force(guest);
                *refused = None;
                tracing::info!(from = %in_force, to = %digest, "new guest loaded; it takes effect with the next batch");
            }
            Ok(Some((digest, Err(error)))) => {
                *refused = Some(digest);
                tracing::error!(guest = %digest, in_force = %in_force, %error, "new guest refused; the old one goes on");
            }
            Err(error) => tracing::error!(%error, "loading the new guest panicked; the old one goes on"),
        }
    }
}

/// Waits until nothing has changed for a while.
async fn settle(changed: &Notify) {
    while tokio::time::timeout(SETTLE, changed.notified()).await.is_ok() {}
}

/// Watches the folder, not the file: editors, `mv` and Kubernetes replace the
/// file, or a link on the way to it, rather than write into it.
fn watch_folder(file: &Path, changed: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file makes access events: they are no news.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
