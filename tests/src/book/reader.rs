//! Does what a page says, as its reader would: in a folder of their own, with the real program on the path.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process_group};
use sluicegate_demo::servers::{Options, Redis};

use super::page::{Fence, Page, repository};
use super::shown::is_as_shown;
use crate::tool::{cache, new_projects_lock, script};
use crate::wait::until;
use crate::{Scene, guests, kits, service};

/// Names the folder of the cache with the servers' clients: see `tests/setup/servers.sh`.
const SERVERS: &str = "servers-trixie-2";

/// Ends a command that hangs. One that builds for the first time takes a minute of a processor.
const COMMAND_SECONDS: &str = "600";

/// Restores in the state `$1` what the commands before have left, runs those of number `$2`, and keeps what they leave unless
/// `$3` says that they go on.
const SCRIPT: &str = r#"exec 2>&1
state=$1
[ ! -f "$state/environment" ] || . "$state/environment"
cd "$(cat "$state/folder")"
[ "$3" = background ] || trap 'export -p >"$state/environment"; pwd >"$state/folder"' EXIT
set -eu -o pipefail
. "$state/commands-$2"
"#;

/// Has a folder, a Redis and a database, and a shell that goes from one block of commands to the next.
pub struct Reader {
    scene: Scene,
    redis: Redis,
    /// Holds what the shell keeps, out of the way of what it works on.
    state: PathBuf,
    background: Vec<Child>,
    /// Is the page's own: all of 127.0.0.0/8 is this machine's.
    address: Ipv4Addr,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    pub fn new() -> Self {
        let scene = Scene::new();
        let redis = Redis::start(&Options::default()).expect("a Redis of the reader's own");
        let state = scene.folder().join("state");
        let (bin, work) = (state.join("bin"), scene.folder().join("work"));
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir(&work).unwrap();
        fs::write(state.join("folder"), work.to_str().unwrap()).unwrap();
        provide(&bin);
        static COUNT: AtomicU8 = AtomicU8::new(2);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, high, low, COUNT.fetch_add(1, Ordering::Relaxed));
        Self { scene, redis, state, background: Vec::new(), address }
    }

    /// Goes through a page from its beginning to its end.
    pub fn follow(mut self, page: &Page) {
        for (number, fence) in page.fences.iter().enumerate().filter(|(_, fence)| !fence.has("ignore")) {
            let place = format!("{}:{}", page.path, fence.line);
            if fence.file().is_some() {
                self.write(fence, number, &place);
            } else if fence.is("sh") {
                let next = page.fences.get(number + 1).filter(|next| next.has("output"));
                self.run(fence, number, next.map(|next| next.text.as_str()), &place);
            }
        }
    }

    /// Writes a file that the page shows, from the folder in which the reader is.
    fn write(&self, fence: &Fence, number: usize, place: &str) {
        let kept = self.state.join(format!("file-{number}"));
        fs::write(&kept, &fence.text).unwrap();
        let file = fence.file().unwrap_or_default();
        let commands = format!("mkdir -p \"$(dirname '{file}')\"\ncp '{}' '{file}'\n", kept.display());
        let (succeeded, found) = self.commands(&commands, number);
        assert!(succeeded, "{place}: {file} cannot be written:\n{found}");
    }

    fn run(&mut self, fence: &Fence, number: usize, shown: Option<&str>, place: &str) {
        if fence.has("background") {
            self.keep_commands(&fence.text, number);
            let file = self.state.join(format!("log-{number}"));
            let log = fs::File::create(&file).unwrap();
            let mut shell = self.shell(number, "background");
            self.background.push(shell.stdout(log).process_group(0).spawn().unwrap());
            // It is the service, in all pages, and a reader sees it run.
            until("the service to run", || match fs::read_to_string(&file).unwrap() {
                log if log.contains("running redis=") => Ok(()),
                _ => Err(self.logs()),
            });
            return;
        }
        let look = || {
            let (succeeded, found) = self.commands(&fence.text, number);
            let is_meant = succeeded != fence.has("fails");
            match is_meant && shown.is_none_or(|shown| is_as_shown(shown, &found)) {
                true => Ok(()),
                false => Err(format!(
                    "{place}: the commands\n{}\nended {}, with\n{found}\nand the page shows\n{}{}",
                    fence.text,
                    if succeeded { "well" } else { "badly" },
                    shown.unwrap_or("nothing"),
                    self.logs(),
                )),
            }
        };
        match fence.has("repeat") {
            true => until("what the page shows", look),
            false => look().unwrap_or_else(|problem| panic!("{problem}")),
        }
    }

    /// Returns what was written by what goes on in the background.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.state).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log-"));
        let texts = logs.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.map(|text| format!("\nin the background:\n{}", crate::service::tail(&text))).collect()
    }

    fn keep_commands(&self, commands: &str, number: usize) {
        fs::write(self.state.join(format!("commands-{number}")), commands).unwrap();
    }

    /// Returns whether commands succeeded, and what they printed.
    fn commands(&self, commands: &str, number: usize) -> (bool, String) {
        self.keep_commands(commands, number);
        let shell = self.shell(number, "foreground").stdout(Stdio::piped()).spawn().unwrap();
        let output = shell.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn shell(&self, number: usize, ground: &str) -> Command {
        const END_WITH_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
        let [setpriv, arguments @ ..] = END_WITH_PARENT;
        let mut shell = Command::new(setpriv);
        shell.args(arguments).args(["timeout", "--foreground", "--kill-after=5", COMMAND_SECONDS]);
        shell.args(END_WITH_PARENT).args(["bash", "-c", SCRIPT, "bash"]);
        shell.arg(&self.state).args([&number.to_string(), ground]);
        shell.current_dir(self.scene.folder()).stdin(Stdio::null());
        // Nothing is to be installed on the way, and the compiler is to be the one of this test.
        let kept = [
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "RUSTUP_AUTO_INSTALL",
            "USER",
            "TMPDIR",
        ];
        let tools = Path::new(env!("CARGO")).parent().unwrap();
        shell.env_clear().envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{}:{path}", self.state.join("bin").display(), tools.display()));
        shell.env("LANG", "C.UTF-8").env("COMPONENTS", guests::folder());
        shell.env("REDIS_URL", self.redis.url()).env("POSTGRES_URL", for_psql(&self.scene.database.url()));
        shell.env("ADMIN_LISTEN", format!("{}:8700", self.address)).envs([kits::OFFLINE]);
        shell
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.background {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// Leaves out of a URL what only sqlx knows.
fn for_psql(url: &str) -> String {
    let (server, query) = url.split_once('?').unwrap_or((url, ""));
    let pairs = query.split('&').filter(|pair| !pair.starts_with("statement-cache-capacity="));
    format!("{server}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Puts onto the path what a reader has: the program, clients of the servers, and the tools of each language.
fn provide(bin: &Path) {
    // It ends with the shell that started it, however that ends.
    script(
        bin,
        "sluicegate",
        &format!("exec setpriv --pdeathsig KILL {} \"$@\"", service::program().display()),
    );
    for client in ["redis-cli", "psql"] {
        // Else the machine has its own, as it has its own servers.
        let unpacked = cache().join(SERVERS).join("bin").join(client);
        if unpacked.is_file() {
            script(bin, client, &format!("exec {} \"$@\"", unpacked.display()));
        }
    }
    let shared = guests::program("new-projects");
    fs::create_dir_all(&shared).unwrap();
    // All projects share what they are made of, in the versions of this repository, which are here already. To cargo they are
    // the same project, whose sources have changed if they are newer than what was built last. Other tests run beside this
    // one, and some of them have limits of time.
    let lines = format!(
        "[ -e Cargo.lock ] || cp {lock} .\n[ -e target ] || ln -s {target} target\nfind . -name '*.rs' -exec touch {{}} +\nunset RUSTFLAGS\nexport CARGO_PROFILE_RELEASE_LTO=off\nexec nice -n 19 {cargo} \"$@\"",
        lock = repository().join("Cargo.lock").display(),
        target = shared.display(),
        cargo = env!("CARGO"),
    );
    script(bin, "cargo", &lines);
    // Projects of one name have their component in one place, until make has copied it.
    let lines = format!(
        "make=$(PATH=${{PATH#*:}} command -v make)\n[ -e Cargo.toml ] || exec \"$make\" \"$@\"\nexec flock {lock} \"$make\" \"$@\"",
        lock = new_projects_lock().display(),
    );
    script(bin, "make", &lines);
    kits::provide(bin);
}
