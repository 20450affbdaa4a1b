#!/usr/bin/env bash
# Provides the JSON-Schema-Test-Suite, at <cache>/json-schema-test-suite-<version>. It comes with the sources of Python's
# jsonschema, from PyPI. Their digest is in schemas.txt, and pip checks it. What pip builds besides, it throws away.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

requirement=$(cd "${BASH_SOURCE[0]%/*}" && pwd)/schemas.txt
version=$(sed -n 's/^jsonschema==\([0-9.]*\).*/\1/p' "$requirement")
suite=json-schema-test-suite-$version

[[ ! -d $cache/$suite ]] || exit 0
lock_cache schemas
[[ ! -d $cache/$suite ]] || exit 0
echo "Fetching the JSON-Schema-Test-Suite into $cache/$suite, once: 1 to 3 minutes"
work=$cache/schemas.partial # of an interrupted run, if it is there: the lock is ours
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir "$work"
python3 -m venv "$work/venv" &&
    "$work/venv/bin/pip" download --quiet --no-binary jsonschema --no-deps --require-hashes \
        --requirement "$requirement" --dest "$work" ||
    fail "could not fetch the sources of jsonschema $version: it takes python3 with venv, and PyPI"
tar -xzf "$work/jsonschema-$version.tar.gz" -C "$work" "jsonschema-$version/json"
mv "$work/jsonschema-$version/json" "$cache/$suite"
