#!/usr/bin/env bash
# Makes sure that guests can be built (the target wasm32-wasip2). With the argument `wasmtime` it
# also provides the wasmtime command line, at <cache>/wasmtime-48.0.8/bin/wasmtime.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

target=wasm32-wasip2
version=48.0.8

ensure_target() {
    local sysroot
    command -v rustc >/dev/null || fail "no rustc on PATH: install Rust as Cargo.toml's rust-version asks"
    sysroot=$(rustc --print sysroot)
    [[ ! -d $sysroot/lib/rustlib/$target/lib ]] || return 0
    command -v rustup >/dev/null ||
        fail "the Rust in $sysroot has no target $target, and no rustup is on PATH to add it: install it as this Rust's own packager says"
    echo "Adding the Rust target $target"
    rustup --quiet target add $target ||
        fail "could not add the target that guests are built for: run \`rustup target add $target\` where the network allows it"
}

ensure_wasmtime() {
    local program=$cache/wasmtime-$version/bin/wasmtime work
    [[ ! -x $program ]] || return 0
    lock_cache wasmtime
    [[ ! -x $program ]] || return 0

    echo "Building wasmtime-cli $version into $cache/wasmtime-$version, once: about 6 minutes"
    work=$cache/wasmtime.partial # of an interrupted run, if it is there: the lock is ours
    rm -rf "$work"
    # shellcheck disable=SC2064 # the folder of now is meant
    trap "rm -rf '$work'" EXIT
    mkdir "$work"
    CARGO_TARGET_DIR=$work/target cargo install wasmtime-cli --version $version --locked --quiet --no-track \
        --no-default-features --features run,component-model,cranelift,wat,wasi-config --root "$work" ||
        fail "could not build wasmtime-cli: run \`cargo install wasmtime-cli --version $version --locked --root $cache/wasmtime-$version\` to see why"
    mkdir -p "${program%/*}"
    mv "$work/bin/wasmtime" "$program"
}

case ${1:-} in
"") ensure_target ;;
wasmtime) ensure_target && ensure_wasmtime ;;
*) fail "expected no argument or \`wasmtime\`, found \`$1\`" ;;
esac
