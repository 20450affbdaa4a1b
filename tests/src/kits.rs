//! Lets projects in JavaScript and Python install their tools as they would for anybody, but from the cache.

use std::path::{Path, PathBuf};

use crate::tool::{cached, script};

/// What commands that install need besides [`provide`]: pip asks nobody for what is there already.
pub const OFFLINE: (&str, &str) = ("PIP_NO_INDEX", "1");

/// Puts an `npm` and a `python3` onto the path that install what `tests/setup/kits.sh` has fetched, by links: nothing is
/// written to what all projects share.
pub fn provide(bin: &Path) {
    let kept = cached("kit-js/package-lock.json", "kits").with_file_name("node_modules");
    let kept = kept.display();
    let install = format!("mkdir node_modules\nln -s {kept}/* {kept}/.[!.]* node_modules/");
    script(
        bin,
        "npm",
        &format!("[ \"$*\" = ci ] || {{ echo \"nothing but npm ci is here\" >&2; exit 64; }}\n{install}"),
    );
    let kept = cached("kit-python/requirements.txt", "kits").with_file_name("venv");
    let install = format!("mkdir .venv\nln -s {}/* .venv/", kept.display());
    let python = on_the_path("python3");
    script(
        bin,
        "python3",
        &format!("[ \"$*\" = '-m venv .venv' ] || exec {} \"$@\"\n{install}", python.display()),
    );
}

/// Returns where a program of this machine is.
fn on_the_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is not on the path"))
}
