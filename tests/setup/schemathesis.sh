#!/usr/bin/env bash
# Has schemathesis ask the admin API of a real service all that its OpenAPI document allows, and
# much that it does not: with a token of each role, and where no token is wanted. REDIS_URL and POSTGRES_URL name the
# servers. The tool is installed in the cache folder once. EXAMPLES (100) is the number of requests
# for each page and phase. The live tap is left out, because its stream does not end.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

folder=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
program=$folder/../../target/release/sluicegate
export SLUICEGATE_COMPONENT=$folder/../../target/wasm32-wasip2/guest/guest_default.wasm
export SCHEMATHESIS_HOOKS=schemathesis_hooks PYTHONPATH=$folder PYTHONDONTWRITEBYTECODE=1

ensure_schemathesis() {
    local version
    version=$(sed -n 's/^schemathesis==//p' "$folder/schemathesis.txt")
    tool=$cache/schemathesis-$version
    [[ ! -d $tool ]] || return 0
    lock_cache schemathesis
    [[ ! -d $tool ]] || return 0
    echo "Installing schemathesis $version into $tool"
    rm -rf "$tool.partial"
    python3 -m venv "$tool.partial" && "$tool.partial/bin/pip" install --quiet --requirement "$folder/schemathesis.txt" ||
        fail "could not install schemathesis: it takes python3 with venv, and PyPI"
    mv "$tool.partial" "$tool"
}

# Starts the service with the settings $2... and has schemathesis ask it, with the header $1 if there is one.
ask() {
    local header=$1 work service address="" failed=0
    shift
    work=$(mktemp -d)
    (cd "$work" && exec env STREAM_NAME=schemathesis ADMIN_LISTEN=127.0.0.1:0 "$@" "$program" run) >"$work/log" 2>&1 &
    service=$!
    # shellcheck disable=SC2064 # those of now are meant
    trap "kill $service 2>/dev/null; rm -rf '$work'" EXIT
    until grep -q 'running redis=' "$work/log"; do
        kill -0 $service 2>/dev/null || fail "the service has ended: $(tail -n 3 "$work/log")"
        sleep 0.1
    done
    address=$(sed -n 's/.*admin=\([0-9.:]*\).*/\1/p' "$work/log")
    (cd "$work" && exec "$tool/bin/python" "$tool/bin/schemathesis" --config-file "$folder/schemathesis.toml" run "http://$address/v1/openapi.json" ${header:+--header "$header"} \
        --checks all --max-examples "${EXAMPLES:-100}" --exclude-path-regex '/tap$' --continue-on-failure \
        --report-dir "$work") || failed=$?
    kill $service
    wait $service || fail "the service ended badly: $(tail -n 3 "$work/log")"
    rm -rf "$work"
    trap - EXIT
    return $failed
}

ensure_schemathesis
tokens=$(mktemp)
for role in admin viewer; do
    digest=$(printf %s "$role" | sha256sum)
    printf '[[token]]\nname = "%s"\nsha256 = "%s"\nrole = "%s"\n' $role "${digest%% *}" $role >>"$tokens"
done
ask "Authorization: Bearer admin" ADMIN_TOKENS_FILE="$tokens"
ask "Authorization: Bearer viewer" ADMIN_TOKENS_FILE="$tokens"
ask ""
rm -f "$tokens"
