# The scripts beside this one source it: it says where servers and tools are kept between runs.
# demo/src/servers/programs.rs follows the same rule.

umask 022 # as root, PostgreSQL runs as another user, who must be able to read all this

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

if [[ -n ${SLUICEGATE_CACHE:-} ]]; then
    cache=$SLUICEGATE_CACHE
elif ((EUID == 0)); then
    cache=/var/cache/sluicegate
elif [[ -n ${XDG_CACHE_HOME:-} ]]; then
    cache=$XDG_CACHE_HOME/sluicegate
elif [[ -n ${HOME:-} ]]; then
    cache=$HOME/.cache/sluicegate
else
    fail "HOME is not set: set SLUICEGATE_CACHE to a folder that may be written to"
fi

# Lets one run at a time work on the thing $1. A second run waits, and then finds the work done.
lock_cache() {
    mkdir -p "$cache" || fail "cannot create $cache: set SLUICEGATE_CACHE to a folder that may be written to"
    cache=$(cd "$cache" && pwd)
    command -v flock >/dev/null || fail "no flock on PATH: install util-linux"
    exec 9>"$cache/$1.lock"
    flock 9
}
