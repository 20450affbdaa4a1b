//! Builds the walls around a process that works for a guest: limits of the kernel (rlimits), and a filter of
//! system calls (seccomp).
//!
//! wasmtime is the first wall. These hold when it fails: whoever has taken over the process has nothing in it but its
//! guest's batch, and can do nothing with it but answer.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Names the walls that this kernel does not have.
#[derive(Default)]
pub(in crate::sandbox) struct Missing(pub(in crate::sandbox) Vec<String>);

impl Missing {
    fn note<T, E: std::fmt::Display>(&mut self, wall: &str, built: Result<T, E>) {
        if let Err(error) = built {
            self.0.push(format!("{wall}: {error}"));
        }
    }
}

/// Builds the walls that stand before anything is read: the process has no descriptors of others, ends with the one
/// that started it, gains no privileges, writes no file longer than so many bytes and no core, and is the first that
/// the kernel ends where memory is short.
pub(in crate::sandbox) fn before_reading(niceness: i32, file_bytes: u64) -> Missing {
    let mut missing = Missing::default();
    missing.note("no descriptors of others", close_descriptors());
    missing.note("death with the parent", set_parent_process_death_signal(Some(Signal::KILL)));
    missing.note("no new privileges", set_no_new_privs(true));
    missing.note("no core", limit(Resource::Core, 0));
    missing.note("size of files", limit(Resource::Fsize, file_bytes));
    missing.note("first to end where memory is short", fs::write("/proc/self/oom_score_adj", "1000"));
    // A priority that is lower already is as good.
    let _ = nice(niceness);
    missing
}

/// Builds the walls that stand before guest code runs: the process may have only so many bytes more of memory, and the
/// walls of [`lock_down`] are built too.
pub(in crate::sandbox) fn before_guest(more_bytes: u64, missing: &mut Missing) {
    match memory() {
        Ok([address_space, data]) => {
            missing.note("size of data", limit(Resource::Data, data.saturating_add(more_bytes)));
            let address_space = address_space.saturating_add(more_bytes);
            missing.note("size of the address space", limit(Resource::As, address_space));
        }
        Err(error) => missing.note("size of data", Err::<(), _>(error)),
    }
    lock_down(missing);
}

/// Locks the process down: from here on the process opens nothing, starts nothing, and makes few system calls.
pub(in crate::sandbox) fn lock_down(missing: &mut Missing) {
    missing.note("number of files", limit(Resource::Nofile, 0));
    missing.note("number of processes", limit(Resource::Nproc, 0));
    missing.note("filter of system calls", filter_system_calls());
}

/// Closes what the service was started with and has passed on: all but the three that every process has.
#[expect(unsafe_code, reason = "descriptors that nothing in this process uses: see the comment")]
fn close_descriptors() -> std::io::Result<()> {
    // SAFETY: a descriptor that is closed must not be in use, or its next owner would be mistaken for it. This is the
    // first that the process does, on its only thread: nothing in it has opened a descriptor but the three that stay.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

pub(in crate::sandbox) fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    // A limit that is stricter already stays.
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// Returns the bytes of this process's address space and of its data, as Linux counts them for its limits.
fn memory() -> Result<[u64; 2], String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| format!("found no {name} in /proc/self/status"))
    };
    Ok([bytes("VmSize:")?, bytes("VmData:")?])
}

/// Holds the system calls that are allowed without a condition; three more, with one each, stand below. Among these are those for the channel, for memory, for time, for locks
/// and for signals.
const UNCONDITIONAL: [i64; 22] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Sets a filter on all threads that ends the process at any system call that is not allowed.
fn filter_system_calls() -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let equals = |argument: u8, operator: SeccompCmpOp, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| text(&error))
    };
    let protection = u64::try_from(libc::PROT_EXEC).map_err(|error| text(&error))?;
    // Memory never becomes code.
    let no_code = || equals(2, SeccompCmpOp::MaskedEq(protection), 0);
    // `abort` sends its signal to its own process. No other signal is sent, and none to other processes.
    let condition = |argument: u8, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .map_err(|error| text(&error))
    };
    let abort = u64::try_from(libc::SIGABRT).map_err(|error| text(&error))?;
    let to_itself = vec![condition(0, std::process::id().into())?, condition(2, abort)?];
    let to_itself = SeccompRule::new(to_itself).map_err(|error| text(&error))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        UNCONDITIONAL.into_iter().map(|number| (number, Vec::new())).collect();
    rules.insert(libc::SYS_mmap, vec![no_code()?]);
    rules.insert(libc::SYS_mprotect, vec![no_code()?]);
    rules.insert(libc::SYS_tgkill, vec![to_itself]);
    let machine =
        std::env::consts::ARCH.try_into().map_err(|error: seccompiler::BackendError| text(&error))?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, machine)
        .map_err(|error| text(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| text(&error))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| text(&error))
}
