//! Runs the program's commands, as an operator does, and finds the tools of others.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::guests;
use crate::service::Launch;

/// Holds what a run of the command gave.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `sluicegate dead-letters`.
pub fn told(launch: Launch, arguments: &[&str]) -> Told {
    run(launch, "dead-letters", arguments)
}

/// Runs `sluicegate rules`.
pub fn rules(launch: Launch, arguments: &[&str]) -> Told {
    run(launch, "rules", arguments)
}

/// Runs `sluicegate top`, which asks the services that the arguments name.
pub fn top(launch: Launch, arguments: &[&str]) -> Told {
    run(launch.unset("ADMIN_LISTEN"), "top", arguments)
}

fn run(launch: Launch, command: &str, arguments: &[&str]) -> Told {
    let arguments: Vec<&str> = [&[command], arguments].concat();
    let output = launch.tool(&arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Sums the counts of the lines `{count}  {rest}` of the summary that begin so.
pub fn counted(out: &str, rest: &str) -> u64 {
    let lines = out.lines().filter_map(|line| line.trim().split_once("  "));
    let counts = lines.filter(|(_, found)| found.starts_with(rest)).map(|(count, _)| count.replace(',', ""));
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Returns the second line of a replay's progress. The first says which rules it judges by.
pub fn second_line(replay: &mut Child) -> String {
    let lines = BufReader::new(replay.stderr.take().unwrap()).lines();
    lines.map_while(Result::ok).nth(1).unwrap_or_default()
}

/// Returns a tool that builds something, to be run. It gives way to the other tests: some of them have limits of time, and
/// the service compiles components at a low priority.
pub fn builder(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program);
    command
}

/// Returns the file that whoever builds a new project in Rust holds locked, until the component is copied: all of them share
/// a folder for what is built.
pub fn new_projects_lock() -> PathBuf {
    guests::program("new-projects.lock")
}

/// Finds the cache by the same rule as `tests/setup/cache.sh`.
pub(crate) fn cache() -> PathBuf {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SLUICEGATE_CACHE").unwrap_or_else(|| match rustix::process::geteuid().is_root() {
        true => PathBuf::from("/var/cache/sluicegate"),
        false => set("XDG_CACHE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".cache")))
            .unwrap_or_default()
            .join("sluicegate"),
    })
}

/// Puts a script onto the path.
pub(crate) fn script(bin: &Path, name: &str, lines: &str) {
    let file = bin.join(name);
    fs::write(&file, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Finds a program in the cache. The target of make provides it.
pub fn cached(program: &str, target: &str) -> PathBuf {
    let program = cache().join(program);
    assert!(program.is_file(), "{} is missing; run: make {target}", program.display());
    program
}
