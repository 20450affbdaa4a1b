#!/usr/bin/env bash
# Makes sure that a Redis server and a PostgreSQL with TimescaleDB are there for private use. If the
# machine has none, it unpacks Debian 13's packages in the cache folder, without root and without
# touching the system. demo/src/servers/mod.rs starts the servers.
# With the argument `redis-7.0` it provides Debian 12's Redis 7.0 instead, beside the others, for
# the tests: that is the oldest version that the service supports. With `prometheus` it provides
# Prometheus, and its own check of metrics, from Debian 13's package.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

# The tags count up with the layout written below. demo/src/servers/programs.rs and tests/src/book/reader.rs name them too.
servers=servers-trixie-2
redis_7_0=redis-7.0-bookworm-1
prometheus=prometheus-trixie-1

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

# Prints the machine's own source of its Debian release. A third party's is passed over by origin.
# Where apt has no lists yet, no origin is known, and the Debian keyring below refuses the source.
debian_source() {
    local codename
    # shellcheck source=/dev/null
    codename=$(source /etc/os-release && echo "${VERSION_CODENAME:-}")
    # shellcheck disable=SC2016 # apt-get fills in $(REPO_URI) and the others
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' |
        awk -v codename="$codename" \
            '$2 == codename && $3 == "main" && ($4 == "Debian" || $4 == "$(ORIGIN)") { print $1; exit }'
}

# Downloads packages of a Debian release into $1/archives. This apt knows only $1 and how the
# machine reaches the network (proxies and the like): no other source, no pin, no hook.
download() {
    local apt=$1 uri=$2 keyring=$3 suite=$4
    shift 4
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
        apt-get -qq install --download-only --no-install-recommends --yes "$@"
}

# Writes a script that starts program $2 by the root's own loader, with the root's own libraries.
# The script finds the root from its own place, so that the root may be moved.
wrap() {
    local wrapper=$1 program=$2 up=$3
    cat >"$wrapper" <<WRAPPER
#!/bin/sh
root=\${0%/*}$up
exec "\$root/$loader" --library-path "\$root/$libraries" "\$root/$program" "\$@"
WRAPPER
    chmod 755 "$wrapper"
}

# Unpacks packages into a root, and finds the root's loader and libraries.
unpack() {
    local root=$1 archives=$2 package folder
    mkdir -p "$root/bin"
    for package in "$archives"/*.deb; do
        dpkg-deb -x "$package" "$root"
    done
    rm -rf "$root"/usr/share/{doc,locale,man}
    # The libc of Debian 12 is not under usr yet.
    for folder in "$root"/lib*; do
        [[ -L $folder || ! -d $folder ]] || cp -a "$folder" "$root/usr/"
    done

    loader=$(cd "$root" && echo usr/lib*/ld-linux-*.so.*)
    libraries=$(cd "$root" && echo usr/lib/*-linux-gnu*)
    [[ -x $root/$loader ]] || fail "no dynamic loader among the packages: found $loader"
    [[ -d $root/$libraries ]] || fail "no folder of libraries among the packages: found $libraries"
}

wrap_postgres() {
    local root=$1 postgresql=usr/lib/postgresql/17/bin
    # initdb looks for postgres beside itself, and runs it.
    mv "$root/$postgresql/postgres" "$root/$postgresql/postgres.real"
    wrap "$root/$postgresql/postgres" $postgresql/postgres.real /../../../../..
    wrap "$root/bin/postgres" $postgresql/postgres.real /..
    wrap "$root/bin/initdb" $postgresql/initdb /..
    wrap "$root/bin/psql" $postgresql/psql /..
    "$root/$postgresql/postgres" --version >/dev/null || fail "the unpacked postgres does not start here"
}

wrap_redis() {
    local root=$1
    wrap "$root/bin/redis-server" usr/bin/redis-server /..
    wrap "$root/bin/redis-cli" usr/bin/redis-cli /..
    "$root/bin/redis-server" --version >/dev/null || fail "the unpacked redis-server does not start here"
}

wrap_prometheus() {
    local root=$1 program
    for program in prometheus promtool; do
        wrap "$root/bin/$program" usr/bin/$program /..
        "$root/bin/$program" --version >/dev/null || fail "the unpacked $program does not start here"
    done
}

# Fetches packages of release $3 into the cache's folder $1, and hands that to the commands in $2.
fetch() {
    local tag=$1 wraps=$2 suite=$3 what=$4 root work uri keyring program
    shift 4
    for program in apt-get dpkg-deb; do
        command -v $program >/dev/null || fail "found no $what, and no $program to fetch it with.
$alternatives"
    done
    uri=$(debian_source)
    keyring=$(compgen -G '/usr/share/keyrings/debian-archive-keyring.[gp]*' | head -n 1 || true)
    [[ -n $uri && -n $keyring ]] ||
        fail "found no $what, and apt has no source of Debian's own to fetch it from.
$alternatives"

    lock_cache servers
    root=$cache/$tag
    [[ ! -d $root ]] || return 0

    echo "Fetching $what into $root"
    work=$cache/servers.partial # of an interrupted run, if it is there: the lock is ours
    rm -rf "$work"
    # shellcheck disable=SC2064 # the folder of now is meant
    trap "rm -rf '$work'" EXIT
    mkdir "$work"
    download "$work/apt" "$uri" "$keyring" "$suite" "$@" ||
        fail "could not download packages of Debian's $suite: see above.
$alternatives"
    unpack "$work/root" "$work/apt/archives"
    for program in $wraps; do
        "$program" "$work/root"
    done
    mv "$work/root" "$root"
}

case ${1:-} in
"")
    alternatives="Either run \`docker compose up -d\` and export REDIS_URL and POSTGRES_URL as compose.yaml says,
or install both: on Debian 13, \`apt-get install postgresql-17-timescaledb redis-server\`."
    if [[ -n ${REDIS_URL:-} && -n ${POSTGRES_URL:-} ]] || [[ -d $cache/$servers ]] || on_system; then
        exit 0
    fi
    fetch $servers "wrap_postgres wrap_redis" trixie \
        "Redis and PostgreSQL with TimescaleDB (95 MB, 400 MB unpacked)" postgresql-17-timescaledb redis-server
    ;;
redis-7.0)
    alternatives="Put one there by hand, as $cache/$redis_7_0/bin/redis-server."
    [[ ! -d $cache/$redis_7_0 ]] || exit 0
    fetch $redis_7_0 wrap_redis bookworm "Redis 7.0 (23 MB, 110 MB unpacked)" redis-server
    ;;
prometheus)
    alternatives="Put prometheus and promtool there by hand, in $cache/$prometheus/bin."
    [[ ! -d $cache/$prometheus ]] || exit 0
    fetch $prometheus wrap_prometheus trixie "Prometheus (215 MB unpacked)" prometheus
    ;;
*) fail "expected no argument, \`redis-7.0\` or \`prometheus\`, found \`$1\`" ;;
esac
