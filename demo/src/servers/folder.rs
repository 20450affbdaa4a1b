//! Makes a server's data folder, runs programs in it, and ends both.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio_util::sync::CancellationToken;

use super::child::{spawn, wait};
use super::{Error, POLL, READY_DEADLINE};

const PREFIX: &str = "sluicegate-servers-";
const LOG_LINES_SHOWN: usize = 20;

/// Owns a server's temporary folder, and removes it when dropped. The lock says the owner lives.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    user: Option<User>,
    _lock: File,
}

impl Folder {
    pub(super) fn create(server: &str) -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The path is canonical, because it is compared with what /proc says.
        let temporary = std::env::temp_dir();
        let temporary =
            temporary.canonicalize().map_err(|source| Error::Folder { path: temporary, source })?;
        sweep(&temporary);

        let user = User::for_servers()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{}", std::process::id(), server);
        let path = temporary.join(name);
        let at = |source| Error::Folder { path: path.clone(), source };
        let make = |path: &Path| {
            fs::DirBuilder::new().mode(0o700).create(path)?;
            user.as_ref().map_or(Ok(()), |user| chown(path, Some(user.id), Some(user.group)))
        };
        make(&path).map_err(at)?;
        let lock = File::create(path.join("lock")).map_err(at)?;
        lock.lock().map_err(at)?;
        make(&path.join("data")).map_err(at)?;
        Ok(Self { path, user, _lock: lock })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(super) fn log_size(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    pub(super) fn log_since(&self, offset: u64) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.log())?;
            file.seek(SeekFrom::Start(offset))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(text)
        };
        read().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    pub(super) fn failed(&self, program: &str, problem: String, offset: u64) -> Error {
        let log = self.log_since(offset);
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines.iter().skip(lines.len().saturating_sub(LOG_LINES_SHOWN));
        let log = shown.map(|line| format!("  {line}\n")).collect();
        Error::Failed { program: program.to_owned(), problem, log }
    }

    /// Makes a command that runs as the servers' user, in a process group of its own, so that
    /// Ctrl-C reaches only this process. The command has only PATH of this process's environment,
    /// and the kernel sends it `death` when this process dies.
    pub(super) fn command(&self, program: &Path, death: &str) -> Result<Command, Error> {
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let at = |source| Error::Folder { path: self.log(), source };
        let log = log.map_err(at)?;
        let mut command = Command::new("setpriv");
        // A change of user would clear this signal, but setpriv sets it after the change.
        command.arg("--pdeathsig").arg(death);
        if let Some(user) = &self.user {
            let (id, group) = (user.id.to_string(), user.group.to_string());
            command.args(["--reuid", &id, "--regid", &group, "--clear-groups"]);
        }
        // Whoever started this in the background may have had SIGQUIT ignored: that is inherited.
        command.args(["env", "--default-signal=QUIT"]);
        // If this process died before setpriv asked for the signal, the signal would never come.
        command.args(["sh", "-c", r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#, "sh"]);
        command.arg(std::process::id().to_string()).arg(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")))
            .env("LC_ALL", "C")
            .current_dir(self.data())
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(log.try_clone().map_err(at)?)
            .stdout(log);
        Ok(command)
    }

    /// Runs a program to its end.
    pub(super) fn run(
        &self,
        program: &Path,
        arguments: &[&OsStr],
        stdin: Stdio,
        given_up: &CancellationToken,
    ) -> Result<(), Error> {
        let offset = self.log_size();
        let mut command = self.command(program, "KILL")?;
        command.args(arguments).stdin(stdin);
        let mut child = spawn(command, program)?;
        let problem = match wait(&mut child, READY_DEADLINE, given_up) {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => format!("failed with {status}"),
            Ok(None) => {
                let _ = child.kill().and_then(|()| child.wait());
                if given_up.is_cancelled() {
                    return Err(Error::GivenUp);
                }
                format!("was not done after {}s", READY_DEADLINE.as_secs())
            }
            Err(error) => format!("could not be waited for: {error}"),
        };
        Err(self.failed(&program.display().to_string(), problem, offset))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Children of a program that did not end by itself may still be writing here.
        for _ in 0..100 {
            let left = processes_in(&self.path);
            if left.is_empty() {
                break;
            }
            for process in left {
                let _ = kill_process(process, Signal::KILL);
            }
            sleep(POLL);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of owners that were killed, and ends whatever still runs in them.
fn sweep(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let owner = rest.split('-').next().unwrap_or(rest);
        // A live owner may not hold its lock yet; an unseen one, in another container, may hold it.
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        let lock = File::open(entry.path().join("lock"));
        if lock.is_ok_and(|lock| lock.try_lock().is_err()) {
            continue;
        }
        for process in processes_in(&entry.path()) {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Returns the processes whose working folder is in `folder`. They are those of one server,
/// including PostgreSQL's backends, which make process groups of their own.
pub(super) fn processes_in(folder: &Path) -> Vec<Pid> {
    let ours = |entry: fs::DirEntry| {
        let process = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let at = fs::read_link(entry.path().join("cwd")).ok()?;
        at.starts_with(folder).then_some(process)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(ours).collect()
}

/// Identifies the user that servers run as.
#[derive(Debug, Clone)]
struct User {
    id: u32,
    group: u32,
}

impl User {
    /// Returns `None` for an ordinary user, who runs the servers without a change of user.
    fn for_servers() -> Result<Option<Self>, Error> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let path = PathBuf::from("/etc/passwd");
        let users = fs::read_to_string(&path).map_err(|source| Error::Folder { path, source })?;
        let find = |name: &str| {
            users.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == name).then_some(())?;
                let id = fields.nth(1)?.parse().ok()?;
                let group = fields.next()?.parse().ok()?;
                Some(Self { id, group })
            })
        };
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(Error::NoUser)
    }
}
