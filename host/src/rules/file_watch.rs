//! Notices that a component's file changed, and swaps.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch as channel;

use super::file::{self, Stamp};
use super::load::{load_version, read_file};
use super::{Loaded, MAX_CHANGES, Manifest, RecordError, Refused, RulesLoader, author, record};
use crate::batch::{Digest, Version};
use crate::judge::Rules as _;
use crate::retry::Retry;
use crate::sandbox::{LoadError, World};
use crate::store::{Action, Request};

/// How long the folder must be quiet before the file is looked at: copying a file makes several changes.
const SETTLE: Duration = Duration::from_millis(200);
/// After so long it is looked at all the same: another tenant's file in the folder may never come to rest.
const MAX_SETTLE: Duration = Duration::from_secs(2);
/// How often the file is looked at in any case: network mounts tell of no changes.
const POLL: Duration = Duration::from_secs(5);
/// A file that is gone for no longer is being replaced.
const GONE: Duration = Duration::from_secs(2);

/// Where the looks at a file have led so far.
#[derive(Default)]
struct Seen {
    /// When it was read last and was at rest.
    stamp: Option<Stamp>,
    /// The version that was refused last.
    refused: Option<Refused<Stamp>>,
    /// Since when nobody has seen it.
    gone_since: Option<Instant>,
    /// Whether it was told that the file is gone.
    is_gone_told: bool,
    /// Why the file cannot be read, as it was told.
    unreadable: Option<String>,
    /// A refusal that is not told before the file is at rest.
    pending: Option<(Stamp, Digest, LoadError)>,
    /// Since when there are such refusals.
    changing_since: Option<Instant>,
}

/// What came of a look.
enum Look {
    /// Nothing that was not known.
    NoNews,
    /// The file is not there.
    Gone,
    Unreadable(std::io::Error),
    /// It holds the version in force.
    InForce(Stamp),
    Loaded(Stamp, Box<Loaded>),
    Refused(Stamp, Digest, LoadError),
}

impl RulesLoader {
    /// Watches the file and puts each new version into force, until the shutdown.
    ///
    /// A version that is refused is logged once with the reason, and the old
    /// one goes on. Compiling happens on a thread of its own.
    pub async fn watch(self: Arc<Self>, refused: Option<Refused<Stamp>>) {
        let shutdown = self.shutdown.clone();
        let Some(file) = self.tenant.guest.clone() else { return shutdown.cancelled().await };
        let folders = Arc::clone(&self.sources.folders);
        let mut changed = folders.subscribe(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "the guest's folder cannot be watched; looking every {POLL:?} instead");
            channel::channel(()).1
        });
        let mut seen = Seen { refused, ..Seen::default() };
        let mut again = POLL;
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = until_changed(&mut changed) => settle(&mut changed).await,
                () = tokio::time::sleep(again) => {}
                () = shutdown.cancelled() => return,
            }
            again = self.look(&file, &folders, &mut seen).await;
        }
    }

    /// Looks at the file, and swaps if it holds another version than the one in force. Returns when to look again, if
    /// nothing happens before.
    async fn look(self: &Arc<Self>, file: &Path, folders: &Arc<Folders>, seen: &mut Seen) -> Duration {
        let in_force = self.version();
        let (loader, path, folders) = (Arc::clone(self), file.to_owned(), Arc::clone(folders));
        let (stamp, refused, pending) = (seen.stamp.clone(), seen.refused.clone(), seen.pending.take());
        let span = tracing::Span::current();
        let look = move || span.in_scope(|| loader.look_now(&path, &folders, stamp, refused, pending));
        let look = match tokio::task::spawn_blocking(look).await {
            Ok(look) => look,
            Err(error) => {
                tracing::error!(%error, "loading the new guest panicked; the old one goes on");
                return POLL;
            }
        };
        if matches!(look, Look::Gone) {
            return tell_gone(file, in_force, seen);
        }
        if std::mem::take(&mut seen.is_gone_told) && !matches!(look, Look::Unreadable(_)) {
            tracing::info!(file = %file.display(), "the guest's file is there again");
        }
        seen.gone_since = None;
        match look {
            Look::NoNews | Look::Gone => {}
            Look::Unreadable(error) => {
                // It is told once, and again when the reason is another.
                let reason = error.to_string();
                if seen.unreadable.replace(reason.clone()) != Some(reason) {
                    tracing::error!(file = %file.display(), %in_force, %error, "the guest cannot be read; the old one goes on");
                }
            }
            Look::InForce(stamp) => {
                *seen = Seen { stamp: at_rest(stamp), ..Seen::default() };
                self.try_report(|report| report.refused = None).await;
            }
            Look::Loaded(stamp, guest) => {
                // What was changed meanwhile is looked at again.
                if self.enter(*guest, file).await {
                    *seen = Seen { stamp: at_rest(stamp), ..Seen::default() };
                }
            }
            Look::Refused(stamp, digest, error) => {
                seen.unreadable = None;
                // Half of a file is no component. It is told when nobody writes any more.
                let since = *seen.changing_since.get_or_insert_with(Instant::now);
                let rest = stamp.until_rest();
                if !rest.is_zero() && since.elapsed() < MAX_CHANGES {
                    seen.pending = Some((stamp, digest, error));
                    return rest;
                }
                seen.changing_since = None;
                let refused = Refused::new(stamp.clone(), &error, seen.refused.as_ref());
                tracing::error!(
                    guest = %digest, %in_force, error = refused.reason,
                    again_in_s = refused.stands_for().as_secs(),
                    "new guest refused; the old one goes on"
                );
                self.tell_refused(digest, &refused.reason).await;
                (seen.stamp, seen.refused) = (Some(stamp), Some(refused));
            }
        }
        POLL
    }

    /// Records what the file holds, and puts it into force. Returns `false` if that did not happen, because the file was
    /// changed meanwhile or the shutdown came first.
    async fn enter(&self, loaded: Loaded, file: &Path) -> bool {
        let (from, to) = (self.version(), loaded.guest.version());
        let read = || read_file(file, self.tenant.guest_component.bytes(), to.component);
        let author = author(&self.sources.database);
        let request = Request { tenant: &self.tenant.name, author: &author, message: "" };
        let mut retry =
            Retry::new("the new guest was not recorded; the old one goes on meanwhile; trying again");
        let (version, deployment) = loop {
            let recorded = record(&self.sources.database, &request, &loaded.made, Action::File, read).await;
            let error = match recorded {
                Ok(recorded) => break recorded,
                Err(RecordError::Load(_)) => return false,
                Err(RecordError::Store(error)) => error,
            };
            tokio::select! {
                () = tokio::time::sleep(retry.failed(&error)) => {}
                () = self.shutdown.cancelled() => return false,
            }
        };
        self.put_in_force(loaded.guest.with_version(version));
        tracing::info!(
            %from, %to, from_component = %from.component, component = %to.component,
            "new guest loaded; it takes effect with the next batch"
        );
        self.try_report(|report| (report.deployment, report.refused) = (deployment, None)).await;
        true
    }

    /// Takes into the history that a component was refused, if the database is there.
    async fn tell_refused(&self, component: Digest, reason: &str) {
        self.counters.deployed(true);
        let author = author(&self.sources.database);
        let request = Request { tenant: &self.tenant.name, author: &author, message: reason };
        let noted = self.sources.database.note_deployment(&request, Action::Refused, Some(component)).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "the history of rules does not tell that a guest was refused");
        }
        self.try_report(|report| report.refused = Some(reason.to_owned())).await;
    }

    /// Reads the file only if it is another one than at the last look, and keeps it only if it is another version.
    fn look_now(
        &self,
        file: &Path,
        folders: &Folders,
        stamp_before: Option<Stamp>,
        refused: Option<Refused<Stamp>>,
        pending: Option<(Stamp, Digest, LoadError)>,
    ) -> Look {
        // Before the reading: what is written meanwhile is looked at the next time.
        let stamp = match Stamp::read(file) {
            Ok(stamp) => stamp,
            Err(error) if error.kind() == ErrorKind::NotFound => return Look::Gone,
            Err(error) => return Look::Unreadable(error),
        };
        if let Some((_, digest, error)) = pending.filter(|(before, ..)| *before == stamp) {
            return Look::Refused(stamp, digest, error);
        }
        let is_known = match &refused {
            Some(refused) => refused.stands(&stamp),
            None => stamp_before.as_ref() == Some(&stamp),
        };
        if is_known {
            return Look::NoNews;
        }
        let most = self.tenant.guest_component.bytes();
        let digest = match folders.one_at_a_time(|| file::digest(file, most)) {
            Ok(digest) => digest,
            Err(error) if error.kind() == ErrorKind::NotFound => return Look::Gone,
            Err(error) => return Look::Unreadable(error),
        };
        // With other settings the same component is another version.
        let is_in_force =
            |world| Manifest::new(digest, world, &self.tenant).digest() == self.version().digest;
        if digest == self.version().component && World::ALL.into_iter().any(is_in_force) {
            return Look::InForce(stamp);
        }
        let sandbox = match self.sources.engine.tenant_sandbox(&self.tenant) {
            Ok(sandbox) => sandbox,
            Err(error) => {
                return Look::Refused(stamp, digest, LoadError::Compiler(format!("wasmtime: {error}")));
            }
        };
        match load_version(&sandbox, &self.tenant, file, digest, &stamp) {
            Ok(loaded) => Look::Loaded(stamp, Box::new(loaded)),
            Err(error) => Look::Refused(stamp, digest, error),
        }
    }
}

/// The stamp, unless the file was changed so lately that another change might leave the same one.
fn at_rest(stamp: Stamp) -> Option<Stamp> {
    stamp.until_rest().is_zero().then_some(stamp)
}

/// Tells once that the file is gone, if it is not only being replaced. Returns when to look again.
fn tell_gone(file: &Path, in_force: Version, seen: &mut Seen) -> Duration {
    let since = *seen.gone_since.get_or_insert_with(Instant::now);
    let left = GONE.saturating_sub(since.elapsed());
    if left.is_zero() && !std::mem::replace(&mut seen.is_gone_told, true) {
        tracing::warn!(file = %file.display(), %in_force, "the guest's file is gone; the version in force goes on, until the next start");
    }
    if left.is_zero() { POLL } else { left }
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
    let _ = tokio::time::timeout(MAX_SETTLE, quiet).await;
}

/// Watches the folders of all tenants' files: the system has few watchers to give.
#[derive(Default)]
pub struct Folders {
    /// Made when it is needed first.
    watcher: Mutex<Option<RecommendedWatcher>>,
    changes: Arc<Mutex<Changes>>,
    /// Held by who reads a file.
    reading: Mutex<()>,
}

/// Who is to be told of a change in a folder.
type Changes = HashMap<PathBuf, channel::Sender<()>>;

impl Folders {
    /// Reads while nobody else does: a change in a folder with a hundred files would otherwise have all of them read at once.
    pub(super) fn one_at_a_time<T>(&self, read: impl FnOnce() -> T) -> T {
        let _reading = lock(&self.reading);
        read()
    }

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
    value.lock()
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
