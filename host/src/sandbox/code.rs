//! Native code of components: one copy of each in memory, which nobody can change, and the room for all of them.
//!
//! What wasmtime serialises holds the images of a component's memories too, with a zero for each byte between the first
//! and the last one that is set: two bytes of data 16 MiB apart are 16 MiB. Mapped from a file, both are used where they
//! are. So the length of that file is what a component takes for as long as it is loaded.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::LoadError;

/// Native code that needs no room of the others': rules in Rust take 2 MiB, QuickJS takes 4. So no tenant with large ones
/// can keep those with small ones from starting.
const SMALL_BYTES: u64 = 16 << 20;

/// A file in memory that holds native code, sealed: it is what was written, for ever.
pub(super) struct NativeCode {
    file: File,
    pub(super) bytes: u64,
}

/// An empty file in memory, for native code to be written to.
pub(super) fn new_file() -> io::Result<File> {
    Ok(memfd_create("sluicegate-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

impl NativeCode {
    /// Of a file that is written.
    pub(super) fn seal(file: File) -> io::Result<Self> {
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { bytes: file.metadata()?.len(), file })
    }

    /// To be read from its beginning.
    pub(super) fn reader(&self) -> io::Result<&File> {
        (&self.file).rewind()?;
        Ok(&self.file)
    }

    /// Makes it runnable, without a copy.
    #[expect(unsafe_code, reason = "native code of our own making: see the comment")]
    pub(super) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: `deserialize_file` maps the file and runs what is in it. The file must not change, and must hold what
        // wasmtime has serialised.
        //
        // It is in memory, has no name, and is sealed: nobody can change it, this process included.
        //
        // It was written by one of two. By a child that is this very program (`/proc/self/exe`), with the same compiler,
        // while nobody else had the file. Trusted is that compiler: that whatever it reads, what it emits keeps to the
        // sandbox, and that reading does not take it over. Compiling in this process would trust it just the same, and
        // with more to lose. Or by `Cache`, from a file that an earlier run had from such a child: it looks each time
        // that folder and file are this user's alone, and that the bytes copied are those that were written. Trusted is
        // this user.
        //
        // wasmtime checks besides that the code is of its own version and settings.
        unsafe { Component::deserialize_file(engine, format!("/proc/self/fd/{}", self.file.as_raw_fd())) }
    }
}

/// `GUEST_CODE`: the room for the native code of all tenants' components.
#[derive(Debug)]
pub(super) struct CodeRoom {
    limit: u64,
    /// What one component may take of it: where there are several tenants, not all.
    share: u64,
    used: Mutex<u64>,
}

/// The room that a component takes, for as long as it is loaded.
#[derive(Debug)]
pub(super) struct TakenRoom {
    room: Arc<CodeRoom>,
    bytes: u64,
}

impl CodeRoom {
    pub(super) fn new(limit: u64, tenants: usize) -> Self {
        Self { limit, share: if tenants > 1 { limit / 2 } else { limit }, used: Mutex::new(0) }
    }

    /// Room for a component that is to be compiled: so much, or what is left. It [shrinks](TakenRoom::shrink) when it is
    /// known what the component takes.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> TakenRoom {
        let mut used = self.used.lock();
        let left = self.limit.saturating_sub(*used).min(self.share).max(SMALL_BYTES);
        let bytes = bytes.min(left);
        *used = used.saturating_add(bytes);
        TakenRoom { room: Arc::clone(self), bytes }
    }

    /// Room for a component of this size.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<TakenRoom, LoadError> {
        let mut used = self.used.lock();
        let sum = used.saturating_add(bytes);
        if bytes > SMALL_BYTES && (bytes > self.share || sum > self.limit) {
            return Err(self.refusal(Some(bytes), *used));
        }
        *used = sum;
        Ok(TakenRoom { room: Arc::clone(self), bytes })
    }

    fn refusal(&self, bytes: Option<u64>, used: u64) -> LoadError {
        LoadError::NoRoom {
            found: bytes.map_or_else(|| "more than is left".to_owned(), |bytes| format!("{bytes} bytes")),
            used,
            share: self.share,
            limit: self.limit,
        }
    }
}

impl TakenRoom {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is not needed.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        let mut used = self.room.used.lock();
        *used = used.saturating_sub(excess);
    }

    /// Of a component that takes more than was reserved.
    pub(super) fn too_small(&self) -> LoadError {
        let used = *self.room.used.lock();
        self.room.refusal(None, used.saturating_sub(self.bytes))
    }
}

impl Drop for TakenRoom {
    fn drop(&mut self) {
        let mut used = self.room.used.lock();
        *used = used.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn room_is_summed_and_given_back() {
        let room = Arc::new(CodeRoom::new(100 * MIB, 2));
        assert_eq!(room.reserve(90 * MIB).bytes(), 50 * MIB, "half of it, and given back");
        assert!(room.take(51 * MIB).is_err(), "more than half");
        let first = room.take(50 * MIB).expect("half of it");
        let second = room.take(40 * MIB).expect("what is left, but ten");
        let error = room.take(20 * MIB).expect_err("more than is left").to_string();
        assert!(error.contains("20971520 bytes") && error.contains("GUEST_CODE"), "{error}");
        let small = room.take(SMALL_BYTES).expect("a small one always has room");
        assert_eq!(room.reserve(50 * MIB).bytes(), SMALL_BYTES);
        drop((first, small));
        let mut third = room.reserve(90 * MIB);
        assert!(room.take(20 * MIB).is_err(), "reserved by the third");
        third.shrink(20 * MIB);
        drop(room.take(20 * MIB).expect("it needed less"));
        drop((second, third));
        assert_eq!(*room.used.lock(), 0);
        let room = Arc::new(CodeRoom::new(100 * MIB, 1));
        assert_eq!(room.reserve(200 * MIB).bytes(), 100 * MIB, "all of it, for the only tenant");
    }

    #[test]
    fn what_is_sealed_cannot_be_changed() {
        let mut file = new_file().expect("a file in memory");
        file.write_all(b"code").expect("not sealed yet");
        let code = NativeCode::seal(file).expect("sealed");
        assert_eq!(code.bytes, 4);
        assert!((&code.file).write_all(b"more").is_err());
        assert!(code.file.set_len(0).is_err());
    }
}
