#!/usr/bin/env bash
# Makes sure that the tools of rules in JavaScript and Python are there: what the projects of `sluicegate rules new` install, by
# their own lists of versions and hashes, in <cache>/kit-js/node_modules and <cache>/kit-python/venv. It takes npm and PyPI, once.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

templates=$(cd "${BASH_SOURCE[0]%/*}/../../host/src/author/new/templates" && pwd)

# Installs what the list $2 of the templates names into <cache>/$1, by the command $3, unless it was made of the same list.
ensure() {
    local folder=$cache/$1 list=$templates/$2 install=$3
    local kept=$folder/${2##*/}
    ! cmp --silent "$list" "$kept" || return 0
    lock_cache "$1"
    ! cmp --silent "$list" "$kept" || return 0
    echo "Installing the tools of $list into $folder"
    rm -rf "$folder"
    mkdir "$folder"
    "$install" "$folder" "${list%/*}"
    cp "$list" "$kept"
}

install_js() {
    local file
    command -v npm >/dev/null || fail "no npm on PATH: install Node.js 20 or later"
    for file in package.json package-lock.json; do
        sed 's/{{name}}/kit/' "$2/$file" >"$1/$file"
    done
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel error || fail "could not install the packages of $2/package.json"
}

# The folder is not moved afterwards: programs of a venv begin with its path.
install_python() {
    python3 -m venv "$1/venv" &&
        "$1/venv/bin/pip" install --quiet --require-hashes --requirement "$2/requirements.txt" ||
        fail "could not install the packages of $2/requirements.txt: it takes python3 with venv, and PyPI"
}

ensure kit-js js/package-lock.json install_js
ensure kit-python python/requirements.txt install_python
