//! A component's file: what can be known of it without reading it, its digest, and its bytes.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::batch::{Digest, Digester};

/// `O_NONBLOCK` of Linux, by rustix's name for it.
const NO_WAITING: u32 = rustix::fs::OFlags::NONBLOCK.bits();
/// A file that was written more recently may still be being written.
pub(super) const REST: Duration = Duration::from_secs(1);

/// By what a file shows that it was written or replaced, without being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    pub(super) bytes: u64,
    /// Seconds and nanoseconds of the last change of content, and of the file's own data, which nobody can set.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Follows links: Kubernetes replaces one on the way to the file.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(file)?))
    }

    /// How long ago the file was changed; nothing, if the clock was set back meanwhile.
    fn age(&self) -> Duration {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let nanoseconds = u64::try_from(self.changed.1).unwrap_or(0);
        let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(changed)
    }

    /// How much longer the file must stay as it is, until it is at rest.
    pub(crate) fn until_rest(&self) -> Duration {
        REST.saturating_sub(self.age())
    }
}

impl From<&Metadata> for Stamp {
    fn from(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The digest of the whole file, or of its beginning if it is larger than any component may be. Keeps nothing of it.
pub(super) fn digest(file: &Path, most: usize) -> io::Result<Digest> {
    let mut file = open(file, most)?;
    let (mut buffer, mut digester) = (vec![0; 64 << 10], Digester::default());
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.digest()),
            Ok(read) => digester.add(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The whole file, or its beginning if it is larger than any component may be.
pub(crate) fn read(file: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = open(file, most)?;
    let expected = file.get_ref().metadata()?.len().min(file.limit());
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0).saturating_add(1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open(file: &Path, most: usize) -> io::Result<io::Take<File>> {
    // A pipe would otherwise be waited for until somebody writes into it.
    let file = OpenOptions::new().read(true).custom_flags(NO_WAITING.cast_signed()).open(file)?;
    if let Some(found) = another_kind(file.metadata()?.file_type()) {
        return Err(io::Error::other(format!("found {found}; wanted a regular file")));
    }
    Ok(file.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_digest_is_that_of_what_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 200_000]).expect("written");
        for most in [1_000_000, 200_000, 199_999, 65_536, 0] {
            let bytes = read(&path, most).expect("read");
            assert_eq!(bytes.len(), 200_000.min(most + 1));
            assert_eq!(digest(&path, most).expect("read"), Digest::new(&bytes));
        }
    }

    #[test]
    fn a_stamp_tells_of_each_way_to_replace_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&path, b"one").expect("written");
        let first = Stamp::read(&path).expect("a stamp");
        assert_eq!(Stamp::read(&path).expect("a stamp"), first);
        assert!(first.until_rest() > Duration::ZERO, "just written");
        fs::write(&other, b"two").expect("written");
        fs::rename(&other, &path).expect("moved");
        assert_ne!(Stamp::read(&path).expect("a stamp"), first, "another of the same size");
    }
}
