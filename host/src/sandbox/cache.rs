//! Keeps the native code of components in files, so that a later start need not compile them again.
//!
//! This code runs unchecked. So the folder must be one that nobody but this user can write to, which is checked each
//! time before code is read or written; whoever can write to it can run programs as this user anyway. The digest in
//! each file guards against accidents, such as half-written files and bad disks. A file is named by the component's
//! digest, and by a hash of the compiler's version and of the settings that code depends on.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wasmtime::Engine;

use super::code::{self, NativeCode};
use crate::batch::{Digest, Digester};
use crate::config::Config;
use crate::text::hex;

/// Says how many files are kept at least. Those that nobody has used for the longest time go first.
const MIN_FILES: usize = 32;
/// Says how many files are kept for each tenant, where that makes more: the version in force, and the one before it to
/// go back to.
const FILES_A_TENANT: usize = 2;
/// Says how many files are kept for the commands of a user. One of a component in Python has some 50 MB.
const FILES_OF_USER: usize = 8;
/// Names the cache of the service.
const OF_SERVICE: &str = "GUEST_CACHE";
/// Names the cache of a user's commands, which no setting names.
const OF_USER: &str = "the cache of this user's commands, in XDG_CACHE_HOME or else ~/.cache";
/// Names the extension of the cache's files.
const EXTENSION: &str = "native";
/// Holds Linux's `O_NOFOLLOW`, by the name that rustix has for it.
const NO_LINKS: u32 = rustix::fs::OFlags::NOFOLLOW.bits();

/// Says how many bytes the digest has that each file begins with.
const DIGEST_BYTES: u64 = 32;

/// Writes to a file and hashes what is written.
struct Both<'a, W>(&'a mut W, &'a mut Digester);

impl<W: Write> Write for Both<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.add(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Keeps native code in a folder.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Says what it is, in the words of whoever can change it.
    name: &'static str,
    max_files: usize,
}

impl Cache {
    /// Returns the cache in this folder, for the components of so many tenants.
    pub(super) fn new(folder: &Path, tenants: usize) -> Self {
        let max_files = MIN_FILES.max(tenants.saturating_mul(FILES_A_TENANT));
        Self { folder: folder.to_owned(), name: OF_SERVICE, max_files }
    }

    /// Returns the cache that the settings name, if they name one.
    pub(super) fn configured(config: &Config) -> Option<Self> {
        config.guest_cache.as_deref().map(|folder| Self::new(folder, config.room_for_tenants()))
    }

    /// Returns the cache in which this user's commands keep what they compile, if its folder is there or can be made.
    pub(super) fn of_user() -> Option<Self> {
        // By the XDG Base Directory Specification, a path that is not absolute does not count.
        let set = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
        let folder = caches.join("sluicegate/compiled");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
        Some(Self { folder, name: OF_USER, max_files: FILES_OF_USER })
    }

    /// Returns how many bytes of code there are of this component, or 0 if there are none.
    pub(super) fn bytes(&self, engine: &Engine, component: Digest) -> u64 {
        let found = fs::symlink_metadata(self.file(engine, component));
        found.map_or(0, |found| found.len().saturating_sub(DIGEST_BYTES))
    }

    /// Returns the code of this component, if it is here and in order.
    pub(super) fn get(&self, engine: &Engine, component: Digest, most: u64) -> Option<NativeCode> {
        match self.try_get(&self.file(engine, component), most) {
            Ok(code) => Some(code),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "the cache of compiled guests is not used");
                None
            }
        }
    }

    /// Returns a copy of the code, made and hashed piece by piece: the file itself may change later.
    fn try_get(&self, file: &Path, most: u64) -> io::Result<NativeCode> {
        self.check_folder()?;
        let file = OpenOptions::new().read(true).custom_flags(NO_LINKS.cast_signed()).open(file)?;
        let found = file.metadata()?;
        if !found.is_file() || found.uid() != user() || found.mode() & 0o022 != 0 {
            return Err(io::Error::other("found a file that others may have written; wanted our own"));
        }
        // The file was used, so others are removed before it. A failure of this is not worth an error.
        let _ = file.set_modified(SystemTime::now());
        let damaged = || io::Error::other("found a damaged file, which is made anew");
        if found.len() > most.saturating_add(DIGEST_BYTES) {
            return Err(damaged());
        }
        let mut wanted = [0; 32];
        let mut file = file;
        file.read_exact(&mut wanted).map_err(|_| damaged())?;
        let (mut copy, mut digest) = (code::new_file()?, Digester::default());
        io::copy(&mut file.take(most), &mut Both(&mut copy, &mut digest))?;
        match digest.digest().as_bytes() == wanted {
            true => NativeCode::seal(copy),
            false => Err(damaged()),
        }
    }

    /// Keeps the code. A failure costs time at the next start and no more.
    pub(super) fn put(&self, engine: &Engine, component: Digest, code: &NativeCode) {
        if let Err(error) = self.try_put(&self.file(engine, component), code) {
            tracing::warn!(%error, folder = %self.folder.display(), "the compiled guest is not kept");
        }
    }

    fn try_put(&self, file: &Path, code: &NativeCode) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.check_folder()?;
        let mut new = tempfile::NamedTempFile::new_in(&self.folder)?; // with the mode 0600
        new.write_all(&[0; 32])?;
        let mut digest = Digester::default();
        io::copy(&mut code.reader()?, &mut Both(&mut new, &mut digest))?;
        new.rewind()?;
        new.write_all(digest.digest().as_bytes())?;
        new.persist(file)?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if file.path().extension().is_some_and(|found| found == EXTENSION) {
                files.push((file.metadata()?.modified()?, file.path()));
            }
        }
        files.sort();
        let excess = files.len().saturating_sub(self.max_files);
        files.iter().take(excess).try_for_each(|(_, file)| fs::remove_file(file))
    }

    /// Checks that nobody else can have put anything here.
    fn check_folder(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.folder)?;
        if !found.is_dir() || found.uid() != user() || found.mode() & 0o077 != 0 {
            let what = if found.is_dir() { "a folder" } else { "no folder" };
            return Err(io::Error::other(format!(
                "{}: found {what} of the user {} with the mode {:o}; wanted a folder of the user {} with the mode 700",
                self.name,
                found.uid(),
                found.mode() & 0o777,
                user()
            )));
        }
        Ok(())
    }

    fn file(&self, engine: &Engine, component: Digest) -> PathBuf {
        let mut engine_key = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut engine_key);
        let digest = hex(component.as_bytes());
        self.folder.join(format!("{digest}-{:016x}.{EXTENSION}", engine_key.finish()))
    }
}

/// Checks whether compiled guests can be kept in this folder. One that is missing is made when it is needed.
pub fn check_cache(folder: &Path) -> io::Result<()> {
    match Cache::new(folder, 1).check_folder() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const MOST: u64 = 1 << 20;

    fn native(bytes: &[u8]) -> NativeCode {
        let mut file = code::new_file().expect("a file in memory");
        file.write_all(bytes).expect("not sealed yet");
        NativeCode::seal(file).expect("sealed")
    }

    fn get(cache: &Cache, engine: &Engine, digest: Digest) -> Option<Vec<u8>> {
        let code = cache.get(engine, digest, MOST)?;
        let mut bytes = Vec::new();
        code.reader().and_then(|mut reader| reader.read_to_end(&mut bytes)).expect("a file in memory");
        Some(bytes)
    }

    fn set() -> (tempfile::TempDir, Cache, Engine, Digest) {
        let scratch = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(&scratch.path().join("cache"), 1);
        (scratch, cache, Engine::default(), Digest::new(b"component"))
    }

    #[test]
    fn what_was_put_is_found_and_nothing_else() {
        let (_scratch, cache, engine, digest) = set();
        assert_eq!(get(&cache, &engine, digest), None, "no folder yet");
        cache.put(&engine, digest, &native(b"code"));
        assert_eq!(get(&cache, &engine, digest).as_deref(), Some(&b"code"[..]));
        assert_eq!(get(&cache, &engine, Digest::new(b"other")), None);
        let mut config = wasmtime::Config::new();
        config.consume_fuel(true);
        let other = Engine::new(&config).expect("an engine");
        assert_eq!(get(&cache, &other, digest), None, "code of other settings");
    }

    #[test]
    fn what_others_may_have_written_is_not_used() {
        let (scratch, cache, engine, digest) = set();
        cache.put(&engine, digest, &native(b"code"));
        let file = cache.file(&engine, digest);
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
        };
        let get = || get(&cache, &engine, digest);
        for bad in [0o770, 0o707, 0o750, 0o701] {
            mode(&cache.folder, bad);
            assert_eq!(get(), None, "a folder with the mode {bad:o}");
        }
        mode(&cache.folder, 0o700);
        mode(&file, 0o660);
        assert_eq!(get(), None, "a file that the group may write");
        mode(&file, 0o600);
        assert!(get().is_some());

        let elsewhere = scratch.path().join("elsewhere");
        fs::rename(&file, &elsewhere).expect("moved");
        symlink(&elsewhere, &file).expect("a link");
        assert_eq!(get(), None, "a link to a file");
        fs::remove_file(&file).expect("removed");
        fs::rename(&elsewhere, &file).expect("moved back");
        let moved = scratch.path().join("moved");
        fs::rename(&cache.folder, &moved).expect("moved");
        symlink(&moved, &cache.folder).expect("a link");
        assert_eq!(get(), None, "a link to a folder");
    }

    /// Who has set no `GUEST_CACHE` does not look for it.
    #[test]
    fn a_folder_that_is_refused_is_named_as_what_it_is() {
        let (_scratch, of_service, engine, digest) = set();
        of_service.put(&engine, digest, &native(b"code"));
        fs::set_permissions(&of_service.folder, fs::Permissions::from_mode(0o755)).expect("our own");
        let why = |cache: &Cache| cache.check_folder().expect_err("others may read it").to_string();
        assert!(why(&of_service).starts_with("GUEST_CACHE: found a folder of the user "));
        let of_user = Cache { name: OF_USER, ..of_service };
        assert!(
            why(&of_user).starts_with(
                "the cache of this user's commands, in XDG_CACHE_HOME or else ~/.cache: found a "
            )
        );
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let (_scratch, cache, engine, digest) = set();
        cache.put(&engine, digest, &native(b"code"));
        let file = cache.file(&engine, digest);
        let whole = fs::read(&file).expect("a file");
        for length in 0..whole.len() {
            fs::write(&file, whole.get(..length).unwrap_or_default()).expect("written");
            assert_eq!(get(&cache, &engine, digest), None, "{length} bytes of it");
        }
        let mut changed = whole.clone();
        *changed.last_mut().expect("bytes") ^= 1;
        fs::write(&file, changed).expect("written");
        assert_eq!(get(&cache, &engine, digest), None, "a bit of it");
        cache.put(&engine, digest, &native(b"code"));
        assert!(get(&cache, &engine, digest).is_some(), "made anew");
    }

    #[test]
    fn what_was_not_used_for_long_goes_when_there_are_many() {
        let (_scratch, cache, engine, _) = set();
        assert_eq!((cache.max_files, Cache::new(&cache.folder, 100).max_files), (MIN_FILES, 200));
        let digests: Vec<Digest> = (0..40_u8).map(|i| Digest::new(&[i])).collect();
        let is_there = |digest: &Digest| cache.file(&engine, *digest).exists();
        for (digest, age) in digests.iter().zip((0..40).rev()) {
            cache.put(&engine, *digest, &native(b"code"));
            let then = SystemTime::now() - std::time::Duration::from_secs(100 + age);
            OpenOptions::new()
                .write(true)
                .open(cache.file(&engine, *digest))
                .and_then(|file| file.set_modified(then))
                .expect("our own");
            // The first is used again and again.
            assert!(get(&cache, &engine, digests[0]).is_some(), "in use");
        }
        assert_eq!(digests.iter().filter(|digest| is_there(digest)).count(), MIN_FILES);
        assert!(
            is_there(&digests[39]) && !is_there(&digests[1]),
            "the newest, and the oldest that is not used"
        );
    }
}
