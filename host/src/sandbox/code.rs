//! Holds the native code of components in memory, with one copy of each that nobody can change, and counts the room for
//! all of them.
//!
//! What wasmtime serialises holds the images of a component's memories too, with a zero for each byte between the first
//! and the last one that is set: two bytes of data that are 16 MiB apart take 16 MiB. Code and images are mapped from a
//! file, and used where they are. So the length of that file is what a component takes for as long as it is loaded.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, WasmBacktraceDetails, WasmFeatures};

use super::{Limits, LoadError};

/// Holds the WebAssembly proposals that components may use. All others are off.
///
/// wasmtime is built without garbage collection, threads and asynchronous components. It still accepts some code of
/// these proposals if it is not told otherwise. When such code runs, it meets a part of wasmtime that is not there,
/// which can end the process (RUSTSEC-2026-0570).
const PROPOSALS: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::COMPONENT_MODEL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .difference(WasmFeatures::GC_TYPES);

/// Says how many bytes of native code a component may always have, whatever room the others take: rules in Rust take 2
/// MiB, QuickJS takes 4. So no tenant with a large component can keep those with small ones from starting.
const SMALL_BYTES: u64 = 16 << 20;

/// Holds native code in a file in memory. The file is sealed: it stays as it was written, for ever.
pub(super) struct NativeCode {
    file: File,
    pub(super) bytes: u64,
}

/// Returns an empty file in memory, for native code to be written to.
pub(super) fn new_file() -> io::Result<File> {
    Ok(memfd_create("sluicegate-guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

impl NativeCode {
    /// Seals a file to which the code was written.
    pub(super) fn seal(file: File) -> io::Result<Self> {
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { bytes: file.metadata()?.len(), file })
    }

    /// Returns the file, to be read from its beginning.
    pub(super) fn reader(&self) -> io::Result<&File> {
        (&self.file).rewind()?;
        Ok(&self.file)
    }

    /// Returns another descriptor of the same file.
    pub(super) fn duplicate(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Makes native code runnable without copying it. This happens in a worker, which has the code's file as this
/// descriptor.
#[expect(unsafe_code, reason = "native code of our own making: see the comment")]
pub(super) fn load(engine: &Engine, code: &impl AsRawFd) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize_file` maps the file and runs what is in it. The file must not change, and must hold what
    // wasmtime has serialised.
    //
    // The file is in memory, has no name, and is sealed: nobody can change it, the service and this process included.
    //
    // It was written by one of three. One is a child that is the service's own program (`/proc/self/exe`), with the same
    // compiler, while nobody else had the file. Then that compiler is trusted: that whatever it reads, what it emits
    // keeps to the sandbox, and that reading does not take it over. Another is the service itself, which compiles only
    // components that came with the program (`Sandbox::load_trusted`), with that compiler. The third is `Cache`, which
    // copied it from a file that such a child had made, in this run or an earlier one: it looks each time that folder and
    // file are this user's alone, and that the bytes copied are those that were written. Then this user is trusted.
    //
    // Besides, wasmtime checks that the code is of its own version and settings.
    unsafe { Component::deserialize_file(engine, format!("/proc/self/fd/{}", code.as_raw_fd())) }
}

/// Returns the settings that compiled code depends on, and no others: they must be the same wherever code is compiled
/// and run.
pub(super) fn code_config(limits: &Limits) -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all().difference(PROPOSALS), false)
        .epoch_interruption(true)
        .consume_fuel(limits.fuel > 0)
        .max_wasm_stack(limits.stack_bytes)
        // With these two, results have the same bits on every processor (invariant 5).
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // The asynchronous component model is not needed, and it slows calls.
        .concurrency_support(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// Counts the room for the native code of all tenants' components, which `GUEST_CODE` bounds.
#[derive(Debug)]
pub(super) struct CodeRoom {
    limit: u64,
    /// Bounds what one component may take of it. Where there are several tenants, this is half.
    share: u64,
    used: Mutex<u64>,
}

/// Holds the room that a component takes, for as long as it is loaded.
#[derive(Debug)]
pub(super) struct TakenRoom {
    room: Arc<CodeRoom>,
    bytes: u64,
}

impl CodeRoom {
    pub(super) fn new(limit: u64, tenants: usize) -> Self {
        Self { limit, share: if tenants > 1 { limit / 2 } else { limit }, used: Mutex::new(0) }
    }

    /// Reserves room for a component that is to be compiled: so many bytes, or what is left for it. The room
    /// [shrinks](TakenRoom::shrink) when it is known what the component takes.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> TakenRoom {
        let mut used = self.used.lock();
        let left = self.limit.saturating_sub(*used).min(self.share).max(SMALL_BYTES);
        let bytes = bytes.min(left);
        *used = used.saturating_add(bytes);
        TakenRoom { room: Arc::clone(self), bytes }
    }

    /// Takes room for a component of this size, if there is any for it.
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

    /// Gives back what is beyond so many bytes.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        let mut used = self.room.used.lock();
        *used = used.saturating_sub(excess);
    }

    /// Returns the error for a component that takes more than was reserved.
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

    /// Returns a component around a core module of these parts.
    fn component(parts: &str) -> Vec<u8> {
        wat::parse_str(format!("(component (core module {parts}))"))
            .unwrap_or_else(|error| panic!("{parts}: {error}"))
    }

    /// Returns why the component does not compile, if it does not.
    fn refusal(engine: &Engine, component: &[u8]) -> Option<String> {
        engine.precompile_component(component).err().map(|error| format!("{error:#}"))
    }

    fn engine() -> Engine {
        Engine::new(&code_config(&Limits::default())).expect("an engine")
    }

    /// Each component would need a part of wasmtime that is not built in, and could end the process where it runs.
    #[test]
    fn code_of_a_proposal_that_is_not_built_in_is_refused_by_name() {
        let engine = engine();
        let core = [
            // These have types that others may refine, wherever a module may have types.
            "(type (sub (func)))",
            "(type (sub final (func))) (type $s (sub (func))) (type (sub $s (func)))",
            "(rec (type $a (sub (func))) (type (sub $a (func))))",
            "(type $t (sub (func))) (import \"a\" \"b\" (func (type $t)))",
            "(type $t (sub (func))) (table 1 funcref) (func (call_indirect (type $t) (i32.const 0)))",
            "(type $t (sub (func))) (table 1 funcref) (func (return_call_indirect (type $t) (i32.const 0)))",
            // These use references to types.
            "(type $t (func)) (func (param (ref null $t)))",
            "(type $t (func)) (func (local (ref null $t)))",
            "(type $t (func)) (table 1 (ref null $t))",
            "(type $t (func)) (global (ref null $t) (ref.null $t))",
            "(func (param (ref func)))",
            "(table 1 (ref func) (ref.func 0)) (func)",
            "(type $t (func)) (func (param funcref) (drop (ref.cast (ref $t) (local.get 0))))",
            "(type $t (func)) (func (param funcref) (drop (ref.test (ref $t) (local.get 0))))",
            "(func (param funcref) (drop (ref.test (ref func) (local.get 0))))",
            "(func (param funcref) (drop (ref.cast (ref null nofunc) (local.get 0))))",
            "(func (param funcref) (drop (block (result funcref) (br_on_cast 0 funcref (ref func) (local.get 0)))))",
            "(func (param funcref) (drop (block (result funcref) (br_on_cast_fail 0 funcref (ref func) (local.get 0)))))",
            "(type $t (func)) (func $f) (elem declare func $f) (func (call_ref $t (ref.func $f)))",
            "(type $t (func)) (func $f) (elem declare func $f) (func (return_call_ref $t (ref.func $f)))",
            "(func (param funcref) (drop (ref.as_non_null (local.get 0))))",
            "(func (param funcref) (block (br_on_null 0 (local.get 0)) drop))",
            "(func (result funcref) (block (result (ref func)) (br_on_non_null 0 (ref.null func)) unreachable))",
            "(func (drop (ref.null nofunc)))",
            "(elem (ref null func) (ref.null func)) (func (param nullfuncref))",
            // These use a heap.
            "(type (struct (field i32)))",
            "(type (array i8))",
            "(type (array (mut funcref)))",
            "(type $s (struct)) (func (drop (struct.new $s)))",
            "(func (drop (ref.i31 (i32.const 1))))",
            "(func (param i31ref) (drop (i31.get_u (local.get 0))))",
            "(func (param anyref))",
            "(func (param eqref eqref) (drop (ref.eq (local.get 0) (local.get 1))))",
            "(func (param externref))",
            "(func (param externref) (drop (any.convert_extern (local.get 0))))",
            "(func (drop (ref.null extern)))",
            "(func (drop (ref.null none)))",
            "(func (param exnref))",
            "(table 1 externref)",
            "(table 1 anyref)",
            "(global externref (ref.null extern))",
            // These use exceptions, today's and those of before.
            "(tag)",
            "(tag $t (param i32)) (func (throw $t (i32.const 1)))",
            "(func (param exnref) (throw_ref (local.get 0)))",
            "(func (block (try_table (catch_all 0))))",
            "(func try catch_all end)",
            // These use threads.
            "(memory 1 1 shared)",
            "(memory 1) (func (drop (memory.atomic.notify (i32.const 0) (i32.const 1))))",
            "(memory 1) (func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))",
            "(memory 1) (func (drop (memory.atomic.wait64 (i32.const 0) (i64.const 0) (i64.const -1))))",
            "(memory 1) (func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))",
            "(func (atomic.fence))",
            "(table shared 1 (ref null (shared func)))",
            // These use stacks, and other proposals that are not settled.
            "(type $f (func)) (type (cont $f))",
            "(type $f (func)) (type $c (cont $f)) (func $g) (elem declare func $g) (func (drop (cont.new $c (ref.func $g))))",
            "(func (param i64 i64 i64 i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))",
            "(memory 1 (pagesize 1))",
        ];
        let whole = [
            "(component (core func (canon task.cancel)))",
            "(component (core func (canon backpressure.inc)))",
            "(component (core func (canon subtask.drop)))",
            "(component (type (stream u8)))",
            "(component (type (future u8)))",
            "(component (type (func async)))",
            "(component (type error-context))",
            "(component (core func (canon thread.yield)))",
            "(component (core func (canon waitable-set.new)))",
            "(component (core func (canon context.get i32 0)))",
            "(component (type (list u8 4)))",
            "(component (type (map u8 u8)))",
        ];
        let whole = whole.map(|text| wat::parse_str(text).unwrap_or_else(|error| panic!("{text}: {error}")));
        let components = core.iter().map(|parts| component(parts)).chain(whole);
        let is_taken = |bytes: &Vec<u8>| refusal(&engine, bytes).is_none();
        let taken: Vec<String> =
            components.filter(is_taken).map(|bytes| bytes.escape_ascii().to_string()).collect();
        assert!(taken.is_empty(), "{taken:#?}");
    }

    #[test]
    fn code_of_the_usual_proposals_is_taken() {
        let engine = engine();
        for parts in [
            "(func (result i32 i32) (i32.const 1) (i32.const 2))",
            "(memory 1) (memory 1) (func (memory.copy 0 1 (i32.const 0) (i32.const 0) (i32.const 9)))",
            "(memory i64 1) (func (drop (i32.load (i64.const 0))))",
            "(func $f (return_call $f))",
            "(func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
            "(table 2 funcref) (func (table.set (i32.const 0) (ref.null func)))",
            "(func (drop (i32.extend8_s (i32.trunc_sat_f64_s (f64.const 1)))))",
            "(import \"a\" \"b\" (global i32)) (global i32 (i32.add (global.get 0) (i32.const 1)))",
        ] {
            assert_eq!(refusal(&engine, &component(parts)), None, "{parts}");
        }
    }
}
