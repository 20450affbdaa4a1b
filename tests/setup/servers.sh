#!/usr/bin/env bash
# Makes sure that a Redis server and a PostgreSQL with TimescaleDB are there for private use.
# Takes what the machine has; else unpacks Debian 13's packages in the cache folder, without root and
# without touching the system. Starting them is the affair of host/src/demo/servers.rs.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

suite=trixie
tag=$suite-1 # counts up with the layout written below; host/src/demo/servers/programs.rs names it too
alternatives="Either run \`docker compose up -d\` and export REDIS_URL and POSTGRES_URL as compose.yaml says,
or install both: on Debian 13, \`apt-get install postgresql-17-timescaledb redis-server\`."

on_system() {
    local control version
    command -v redis-server >/dev/null || return 1
    for control in /usr/share/postgresql/*/extension/timescaledb.control; do
        version=${control#/usr/share/postgresql/}
        version=${version%%/*}
        if [[ $version =~ ^[0-9]+$ ]] && ((version >= 14)) && [[ -x /usr/lib/postgresql/$version/bin/postgres ]]; then
            return 0
        fi
    done
    return 1
}

# The machine's own source of its own Debian release. A third party's is passed over by its origin; where apt
# has no lists yet, so that no origin is known, the Debian keyring below refuses it.
debian_source() {
    local codename
    # shellcheck source=/dev/null
    codename=$(source /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt-get fills in $(REPO_URI) and the others
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk -v codename="$codename" \
            '$2 == codename && $3 == "main" && ($4 == "Debian" || $4 == "$(ORIGIN)") { print $1; exit }'
}

# Downloads Debian 13's packages into $1/archives, by an apt that knows nothing but $1 and how this machine
# reaches the network (proxies and the like): no other source, no pin, no hook.
download() {
    local apt=$1 uri=$2 keyring=$3
    mkdir -p "$apt"/{sources,lists/partial,archives/partial}
    : >"$apt/status"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$uri" "$suite" "$keyring" >"$apt/sources/debian.sources"
    apt-config dump | grep -E '^(Acquire|APT::Sandbox)::[^" ]*[^": ] ' >"$apt/apt.conf" || true
    cat >>"$apt/apt.conf" <<CONFIGURATION
Dir::Etc { Main "/dev/null"; Parts "/dev/null"; SourceList "/dev/null"; SourceParts "$apt/sources";
           Preferences "/dev/null"; PreferencesParts "/dev/null"; };
Dir::State "$apt"; Dir::State::Lists "$apt/lists"; Dir::State::status "$apt/status";
Dir::Cache "$apt"; Dir::Cache::archives "$apt/archives"; Dir::Log "$apt";
Acquire::Languages "none"; APT::Update::Error-Mode "any"; Debug::NoLocking "1";
CONFIGURATION
    export APT_CONFIG=$apt/apt.conf
    apt-get -qq update &&
        apt-get -qq install --download-only --no-install-recommends --yes \
            postgresql-17-timescaledb redis-server
}

# A script that starts program $2 by the root's own loader, with the root's own libraries.
# It finds the root from its own place, so that the root may be moved.
wrap() {
    local wrapper=$1 program=$2 up=$3
    cat >"$wrapper" <<WRAPPER
#!/bin/sh
root=\${0%/*}$up
exec "\$root/$loader" --library-path "\$root/$libraries" "\$root/$program" "\$@"
WRAPPER
    chmod 755 "$wrapper"
}

unpack() {
    local root=$1 archives=$2 package loader libraries
    local postgresql=usr/lib/postgresql/17/bin
    mkdir -p "$root/bin"
    for package in "$archives"/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$root"/usr/share/{doc,locale,man}

    loader=$(cd "$root" && echo usr/lib*/ld-linux-*.so.*)
    libraries=$(cd "$root" && echo usr/lib/*-linux-gnu*)
    [[ -x $root/$loader ]] || fail "no dynamic loader among the packages of $suite: found $loader"
    [[ -d $root/$libraries ]] || fail "no folder of libraries among the packages of $suite: found $libraries"

    # initdb looks for postgres beside itself, and runs it.
    mv "$root/$postgresql/postgres" "$root/$postgresql/postgres.real"
    wrap "$root/$postgresql/postgres" $postgresql/postgres.real /../../../../..
    wrap "$root/bin/postgres" $postgresql/postgres.real /..
    wrap "$root/bin/initdb" $postgresql/initdb /..
    wrap "$root/bin/redis-server" usr/bin/redis-server /..

    "$root/bin/redis-server" --version >/dev/null || fail "redis-server of $suite does not start here"
    "$root/$postgresql/postgres" --version >/dev/null || fail "postgres of $suite does not start here"
}

if [[ -n ${REDIS_URL:-} && -n ${POSTGRES_URL:-} ]]; then
    exit 0
fi
if [[ -d $cache/servers-$tag ]] || on_system; then
    exit 0
fi

for program in apt-get dpkg-deb; do
    command -v $program >/dev/null ||
        fail "found no Redis and no PostgreSQL with TimescaleDB, and no $program to fetch them with.
$alternatives"
done
uri=$(debian_source)
keyring=$(compgen -G '/usr/share/keyrings/debian-archive-keyring.[gp]*' | head -n 1 || true)
[[ -n $uri && -n $keyring ]] ||
    fail "found no Redis and no PostgreSQL with TimescaleDB, and apt has no source of Debian's own to fetch them from.
$alternatives"

lock_cache servers
root=$cache/servers-$tag
[[ ! -d $root ]] || exit 0

echo "Fetching Redis and PostgreSQL with TimescaleDB into $root (95 MB, 400 MB unpacked)"
work=$cache/servers.partial # of an interrupted run, if it is there: the lock is ours
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work"
download "$work/apt" "$uri" "$keyring" || fail "could not download Debian $suite's packages: see above.
$alternatives"
unpack "$work/root" "$work/apt/archives"
mv "$work/root" "$root"
