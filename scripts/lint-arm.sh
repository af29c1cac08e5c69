#!/usr/bin/env bash
# Lints what is shipped for aarch64. Run it by `just lint`.
#
# It uses the toolchain that has a standard library for it: rustup's, with clippy, or
# Debian's, which builds the library from source and has no clippy: then it only checks.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
arm_target=aarch64-unknown-linux-gnu
packages=(--package manatee --package manatee-cli --package manatee-device)
cd "$root"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc

if [ -d "$(rustc --print sysroot)/lib/rustlib/$arm_target/lib" ]; then
    cargo clippy --target "$arm_target" "${packages[@]}" --lib --bins -- -D warnings
else
    echo "not run: clippy for aarch64, which Debian's toolchain lacks; it is checked instead"
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="-D warnings" \
        /usr/bin/cargo check -Zbuild-std=std,panic_abort --target "$arm_target" "${packages[@]}" --lib --bins
fi
