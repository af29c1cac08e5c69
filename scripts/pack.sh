#!/usr/bin/env bash
# Packages the library's crates, and uses them as an embedder would. Run it by `just pack`.
#
# Nothing is uploaded. The crates are unpacked into a folder outside of this workspace, where
# the example `embed` is built with them, with a compiler and without, and sends a packet.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
embed=$root/component/embed
crates=(manatee-common manatee-wasm-build manatee-component manatee-vfio-user manatee-control manatee)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
cd "$root"

# The packaged crates contain the component that this tree builds, and the contract.
cargo build --quiet --package manatee-component
built=$(find "$target"/debug/build/manatee-component-*/out -name device.wasm -printf '%T@ %p\n' | sort -n | tail -n 1)
clean() { rm -rf "$embed"/device.wasm "$embed"/device.wasm.sha256 host/wit "${outside:-}"; }
trap clean EXIT
mkdir host/wit
cp wit/device.wit host/wit
cp "${built#* }" "$embed/device.wasm"
sha256sum "$embed/device.wasm" | cut -d' ' -f1 >"$embed/device.wasm.sha256"
cargo package --allow-dirty --no-verify "${crates[@]/#/--package=}"

outside=$(mktemp -d)
mkdir "$outside/src"
cp host/examples/embed/*.rs "$outside/src"
cat >"$outside/Cargo.toml" <<END
[package]
name = "embedder"
edition = "2024"

[features]
compiler = ["manatee/compiler"]

[dependencies]
anyhow = "1"
manatee = { version = "0.1.0", default-features = false }
rustix = { version = "1", features = ["fs"] }
# The guest's side: a driver.
manatee-conformance = { path = "$root/guest-tests/conformance" }
mana-wire = { path = "$root/component/wire" }

[workspace]

[patch.crates-io]
END
for crate in "${crates[@]}"; do
    tar -xzf "$target/package/$crate-$version.crate" -C "$outside"
    printf '%s = { path = "%s" }\n' "$crate" "$crate-$version" >>"$outside/Cargo.toml"
done
cp Cargo.lock "$outside/Cargo.lock"
export CARGO_TARGET_DIR=$target/embedder
cd "$outside"
cargo run --quiet --features compiler
cargo run --quiet --features compiler -- "$outside/device.cwasm"
# Now without a compiler, with the component's machine code built in.
MANATEE_DEVICE_CODE=$outside/device.cwasm cargo run --quiet
echo "pack: ok"
