#!/usr/bin/env bash
# Runs under miri what it can run: the tests of the device and of the kit, natively, whose
# `unsafe` is the access to windows and the records that are handed to the host. Run it by
# `just miri`. The models that the device is compared with have no windows there, since
# nothing can be mapped; the kit's own tests have windows over memory of theirs.
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
# A case takes a second, where it takes a millisecond otherwise.
export PROPTEST_CASES=${PROPTEST_CASES:-2}
# shellcheck disable=SC2086 # an empty one is no argument
cargo $toolchain miri test --package manatee-device --package device-kit --lib "$@"
echo "not run: the host's tests under miri, which has no mmap, membarrier or compiled wasm"
