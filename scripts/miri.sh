#!/usr/bin/env bash
# Runs under miri what it can run: the tests of the kit and of the device, natively, whose
# `unsafe` is the access to windows and the records that are handed to the host. Run it by
# `just miri`.
#
# One line says what was not run, and why.
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
    echo "not run: miri, which no toolchain here has; add it by \`rustup component add --toolchain nightly miri rust-src\`"
    exit
fi

cd "$root"
# Files are read by tests; time and randomness are as always.
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" CARGO_TARGET_DIR=$target/miri
# shellcheck disable=SC2086 # an empty one is no argument
cargo $toolchain miri test --package device-kit --package manatee-device --lib -- \
    --skip properties:: "$@"
echo "not run: the device's properties under miri, whose model maps guest memory"
echo "not run: the host's tests under miri, which has no mmap, membarrier or compiled wasm"
