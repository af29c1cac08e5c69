#!/usr/bin/env bash
# Lints what is compiled for wasm only. Run it by `just lint`.
#
# It uses the toolchain that compiles the component: rustup's, with clippy, or
# Debian's, which builds the library from source and has no clippy: then it compiles
# with warnings as errors.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
wasm_target=wasm32-unknown-unknown
cd "$root"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/component

# Each alone: together, common dependencies would have the union of their features.
each() {
    "$@" --package manatee-device --features component
    "$@" --package manatee-device --features component,faults
    "$@" --package manatee-testbed
    "$@" --package manatee-runner
}

common=(--locked --lib --profile component --target "$wasm_target")

lint() {
    cargo clippy "${common[@]}" "$@" -- -D warnings
}

check() {
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" \
        /usr/bin/cargo check -Zbuild-std=core,alloc "${common[@]}" "$@"
}

if [ -d "$(rustc --print sysroot)/lib/rustlib/$wasm_target/lib" ]; then
    each lint
else
    echo "not linted: clippy for wasm, which Debian's toolchain lacks; it is compiled with warnings as errors instead"
    each check
fi
