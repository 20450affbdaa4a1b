#!/usr/bin/env bash
# Makes sure that guests can be built (the target wasm32-wasip2). With the argument `wasmtime` it
# also provides the wasmtime command line, at <cache>/wasmtime-48.0.8/bin/wasmtime; with `wac` the program that
# composes components, at <cache>/wac-0.12.0/bin/wac. With `deny` and names of checks, it has cargo-deny make them. With
# `mdbook` and arguments, it runs mdBook.
set -euo pipefail

# shellcheck source=cache.sh
source "${BASH_SOURCE[0]%/*}/cache.sh"

target=wasm32-wasip2
wasmtime=48.0.8
wac=0.12.0
deny=0.20.2
mdbook=0.5.4

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

# Builds the program $1 of the crate $2 in version $3 into <cache>/$1-$3/bin, once. What follows goes to cargo.
ensure_program() {
    local program=$1 crate=$2 version=$3 work
    local folder=$cache/$program-$version
    [[ ! -x $folder/bin/$program ]] || return 0
    lock_cache "$program"
    [[ ! -x $folder/bin/$program ]] || return 0

    echo "Building $crate $version into $folder, once: 1 to 6 minutes"
    work=$cache/$program.partial # of an interrupted run, if it is there: the lock is ours
    rm -rf "$work"
    # shellcheck disable=SC2064 # the folder of now is meant
    trap "rm -rf '$work'" EXIT
    mkdir "$work"
    # A test asks little of it: to compile it quickly is worth more than that it is quick.
    CARGO_TARGET_DIR=$work/target CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        cargo install "$crate" --version "$version" --locked --quiet --no-track "${@:4}" \
        --root "$work" ||
        fail "could not build $crate: run \`cargo install $crate --version $version --locked --root $folder\` to see why"
    mkdir -p "$folder/bin"
    mv "$work/bin/$program" "$folder/bin"
}

ensure_wasmtime() {
    ensure_program wasmtime wasmtime-cli $wasmtime \
        --no-default-features --features run,component-model,cranelift,wat,wasi-config
}

# It works for a moment only, so it is not worth the time to optimise it.
ensure_wac() {
    CARGO_PROFILE_DEV_DEBUG=false ensure_program wac wac-cli $wac --debug --no-default-features
}

case ${1:-} in
"") ensure_target ;;
wac) ensure_wac ;;
wasmtime) ensure_target && ensure_wasmtime ;;
deny)
    ensure_program cargo-deny cargo-deny $deny
    exec "$cache/cargo-deny-$deny/bin/cargo-deny" --locked check "${@:2}"
    ;;
mdbook)
    ensure_program mdbook mdbook $mdbook --no-default-features --features search
    exec "$cache/mdbook-$mdbook/bin/mdbook" "${@:2}"
    ;;
*) fail "expected no argument, \`wasmtime\`, \`wac\`, \`deny\` or \`mdbook\`, found \`$1\`" ;;
esac
