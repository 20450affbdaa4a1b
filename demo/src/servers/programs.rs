//! Finds the servers' programs: unpacked by `tests/setup/servers.sh`, or on the system.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::Error;

/// Names the folder that `tests/setup/servers.sh` unpacks into, inside the cache folder.
const UNPACKED: &str = "servers-trixie-2";
/// Names the folder that the script unpacks into with the argument `redis-7.0`.
const REDIS_7_0: &str = "redis-7.0-bookworm-1";

/// Finds the cache folder by the same rule as `tests/setup/cache.sh`.
fn cache_folder() -> PathBuf {
    let set = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("SLUICEGATE_CACHE").unwrap_or_else(|| {
        if geteuid().is_root() {
            PathBuf::from("/var/cache/sluicegate")
        } else {
            set("XDG_CACHE_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
                .unwrap_or_default()
                .join("sluicegate")
        }
    });
    std::path::absolute(&folder).unwrap_or(folder)
}

pub(super) fn redis_server() -> Result<PathBuf, Error> {
    let cache = cache_folder();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(cache.join(UNPACKED).join("bin"))
        .chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute()))
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file())
        .ok_or(Error::Missing { what: "redis-server", cache, package: "redis-server", variable: "REDIS_URL" })
}

pub(super) fn redis_7_0() -> Result<PathBuf, Error> {
    let cache = cache_folder();
    let program = cache.join(REDIS_7_0).join("bin/redis-server");
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::MissingRedis70 { program }),
    }
}

/// Returns the folder of `initdb` and `postgres`; on the system, of the newest with TimescaleDB.
pub(super) fn postgres() -> Result<PathBuf, Error> {
    let cache = cache_folder();
    let unpacked = cache.join(UNPACKED).join("bin");
    if unpacked.join("postgres").is_file() {
        return Ok(unpacked);
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| {
            *version >= 14
                && Path::new(&format!("/usr/share/postgresql/{version}/extension/timescaledb.control"))
                    .is_file()
                && Path::new(&format!("/usr/lib/postgresql/{version}/bin/postgres")).is_file()
        })
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .ok_or(Error::Missing {
            what: "PostgreSQL with TimescaleDB",
            cache,
            package: "postgresql-17-timescaledb",
            variable: "POSTGRES_URL",
        })
}
