#!/usr/bin/env bash
# Lints what is shipped for aarch64. Run it by `just lint`.
#
# By whichever toolchain has a standard library for it: rustup's own, whose clippy lints, or
# Debian's, which builds the library from source, and has no clippy: then it is checked only.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
arm_target=aarch64-unknown-linux-gnu
packages=(--package manatee --package manatee-cli --package manatee-device)
cd "$root"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc

if [ -d "$(rustc --print sysroot)/lib/rustlib/$arm_target/lib" ]; then
    cargo clippy --target "$arm_target" "${packages[@]}" --lib --bins -- -D warnings
else
    echo "not run: clippy for aarch64, which Debian's toolchain has not; it is checked instead"
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" \
        /usr/bin/cargo check -Zbuild-std=std,panic_abort --target "$arm_target" "${packages[@]}" --lib --bins
fi
