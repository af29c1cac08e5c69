#!/usr/bin/env bash
# Runs the tests that miri supports: those of the kit and of the device, natively. Their
# `unsafe` accesses windows and the records that are passed to the host. Run it by
# `just miri`.
#
# A line names each part that was not run, and why.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

toolchain=
for candidate in '' +nightly; do
    # shellcheck disable=SC2086 # an empty one is no argument
    if cargo $candidate miri --version >/dev/null 2>&1; then
        toolchain=$candidate
        found=yes
        break
    fi
done
if [ -z "${found:-}" ]; then
    echo "not run: miri, which no toolchain here has; add it with \`rustup component add --toolchain nightly miri rust-src\`"
    exit
fi

cd "$root"
# The tests read files; without isolation, time and randomness are real.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" CARGO_TARGET_DIR=$target/miri
# shellcheck disable=SC2086 # an empty one is no argument
cargo $toolchain miri test --package device-kit --package manatee-device --lib -- \
    --skip properties:: "$@"
echo "not run: the device's properties under miri, whose model maps guest memory"
echo "not run: the host's tests under miri, which has no mmap, membarrier or compiled wasm"
