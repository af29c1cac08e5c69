# All tasks. `just` alone lists them.

set positional-arguments

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# The file with the component's machine code.
export MANATEE_DEVICE_CODE := target / "device.cwasm"

# List the tasks
default:
    @just --list --unsorted

# Install what is missing: a wasm compiler, QEMU, tools and a kernel for the guest
setup:
    scripts/setup.sh

# Build the component and the host, optimised
build:
    @scripts/setup.sh build
    cargo build --release --workspace
    @"{{target}}/release/manatee" precompile "{{target}}/device.cwasm"
    cargo build --release --workspace
    @{{just_executable()}} top

# Build `manatee top`, a workspace of its own, and copy it next to the command
[private]
top:
    cargo build --release --locked --manifest-path host/top/Cargo.toml --target-dir "{{target}}/top"
    @cp "{{target}}/top/release/manatee-top" "{{target}}/release/"

# Show a stock Linux guest on the network: kernel=6.12 (the default), kernel=6.1, or kernel=PATH modules=DIR
demo *settings:
    #!/usr/bin/env bash
    set -euo pipefail
    kernel=6.12 options=()
    for setting in "$@"; do
        case $setting in
            kernel=*) kernel=${setting#kernel=} ;;
            modules=*) options+=(--modules "${setting#modules=}") ;;
            *) echo "demo: unknown setting '$setting': give kernel=6.12, kernel=6.1, or kernel=PATH modules=DIR" >&2; exit 2 ;;
        esac
    done
    scripts/setup.sh build
    case $kernel in
        6.12 | 6.1) scripts/setup.sh guest "$kernel" ;;
        *) scripts/setup.sh guest none ;;
    esac
    {{just_executable()}} guest-programs
    "{{target}}/release/demo" --kernel "$kernel" "${options[@]}"

# Give a stock Linux guest a network without any privilege, behind passt, as an ordinary user: --kernel 6.1
demo-rootless *arguments:
    #!/usr/bin/env bash
    set -euo pipefail
    scripts/setup.sh
    scripts/setup.sh passt
    {{just_executable()}} guest-programs
    if [ "$(id -u)" = 0 ]; then
        # The demonstration must not need root's privileges.
        exec setpriv --reuid 65534 --regid 65534 --clear-groups "{{target}}/release/demo-rootless" "$@"
    fi
    exec "{{target}}/release/demo-rootless" "$@"

# Replace the device 100 times under a stock guest's traffic, and count losses: --swaps N, --kernel 6.1
swap-demo *arguments:
    @scripts/setup.sh
    @{{just_executable()}} guest-programs
    @"{{target}}/release/swap-demo" "$@"

# Replace the process 50 times under a stock guest's traffic, and count losses: --upgrades N, --kernel 6.1
upgrade-demo *arguments:
    @scripts/setup.sh
    cargo build --release --package manatee-cli --package manatee-guest-linux --features manatee-cli/first-format
    cp "{{target}}/release/manatee" "{{target}}/release/manatee-first-format"
    @{{just_executable()}} guest-programs
    @"{{target}}/release/upgrade-demo" "$@"

# Kill the process under a stock guest that talks, 200 times, and count what is lost: --kills N, --kernel 6.1
kill-demo *arguments:
    @scripts/setup.sh
    @{{just_executable()}} guest-programs
    @"{{target}}/release/kill-demo" "$@"

# Crash the device in five ways under a stock guest's traffic: --kernel 6.1
fault-demo *arguments:
    @scripts/setup.sh
    @{{just_executable()}} guest-programs
    @"{{target}}/release/fault-demo" "$@"

# Serve a stock guest from a confined process, and try every way out of its jail: --kernel 6.1
jail-demo *arguments:
    @scripts/setup.sh
    cargo build --release --package manatee-cli --features escape
    cp "{{target}}/release/manatee" "{{target}}/release/manatee-escape"
    @{{just_executable()}} guest-programs
    @"{{target}}/release/jail-demo" "$@"

# Build the programs of the stock guest's demonstrations and tests, with the guest's own program linked statically
[private]
guest-programs:
    cargo build --release --package manatee-cli --package manatee-guest-linux
    cargo rustc --release --package manatee-traffic --bin traffic -- -C target-feature=+crt-static -C strip=symbols

# Test the device as plain wasm, under the wasmtime command: names, --list, --exact, --format json
guest-tests *arguments:
    @scripts/setup.sh build >&2
    @scripts/setup.sh wasmtime >&2
    cargo build --package manatee-compose
    @"{{target}}/debug/compose-guest-tests" "{{target}}/guest-tests.wasm"
    @"{{target}}/tools/bin/wasmtime" run "{{target}}/guest-tests.wasm" "$@"

# Seed faults into a copy of the device, and show the share that the suite catches: names, --list, --format json
guest-tests-mutants *arguments:
    @scripts/setup.sh build >&2
    cargo build --package manatee-mutants
    @"{{target}}/debug/guest-tests-mutants" "$@"

# Measure all rows (9 minutes), or some: device windows shapes sges latency tap queues hash guest start scale growth memory swap upgrade death instructions
bench *rows:
    @scripts/setup.sh
    @scripts/setup.sh bench
    cargo build --release --package manatee-cli --package manatee-bench
    @"{{target}}/release/manatee" precompile "{{target}}/device.cwasm"
    @just guest-programs
    cargo build --release --package manatee-cli --package manatee-bench
    @"{{target}}/release/bench" "$@"

# Measure ring windows against wasmtime's compile-time builtins (builds wasmtime by itself: 6 minutes)
bench-builtins *arguments:
    cargo run --release --locked --manifest-path guest-tests/builtins/Cargo.toml --target-dir "{{target}}" "$@"

# Run every test: those of the workspace, 5 s of each fuzz target, then the guest's
test: setup && test-guest
    @scripts/setup.sh prometheus
    @scripts/setup.sh tshark
    cargo test --workspace
    cargo test --locked --manifest-path host/top/Cargo.toml --target-dir "{{target}}/top"
    @scripts/setup.sh fuzz
    scripts/fuzz.sh all 5

# Run the hostile components against the host: names, --list, --exact
attacks *arguments:
    @scripts/setup.sh build
    cargo test --workspace --test attacks -- "$@"

# Fuzz a target, or `all`, for some seconds: control device direct_abi frames racing snapshot state vfio_user
fuzz target *seconds:
    @scripts/setup.sh build
    @scripts/setup.sh fuzz
    @scripts/fuzz.sh "$@"

# Run the tests that miri supports, if the toolchain has it
miri:
    @scripts/miri.sh

# Check the dependencies against deny.toml: licences, sources and duplicates (advisories need a network: `cargo deny check advisories`)
deny:
    @scripts/setup.sh deny
    "{{target}}/tools/bin/cargo-deny" check licenses sources bans
    "{{target}}/tools/bin/cargo-deny" --manifest-path host/top/Cargo.toml --config deny.toml check licenses sources bans

# Make a book of the documentation: target/book
book:
    @scripts/setup.sh book
    "{{target}}/tools/bin/mdbook" build docs

# Record `just swap-demo` as docs/media/swap-demo.svg, which the README shows
record:
    @scripts/setup.sh
    @{{just_executable()}} guest-programs
    @mkdir -p docs/media
    @scripts/record.py docs/media/swap-demo.svg "just swap-demo --swaps 30" "{{target}}/release/swap-demo" --swaps 30

# Package the library's crates, and build an embedder with them outside of this workspace (7 minutes; nothing is uploaded)
pack:
    @scripts/setup.sh build
    @scripts/pack.sh

# Make a Debian package with its SBOMs, and test it in a fresh chroot: target/package (25 minutes the first time)
package:
    @scripts/setup.sh build
    @scripts/setup.sh package
    @scripts/package.sh
    @scripts/package-test.sh

# Run the tests that take hours: long fuzzing, 10,000 swaps and 1,000 crashes
test-long minutes="10": setup
    MANATEE_LONG=1 cargo test --workspace --test attacks --test jail
    scripts/fuzz.sh all "$(({{minutes}} * 60))"
    @scripts/miri.sh
    @scripts/pack.sh
    @{{just_executable()}} package

# Run the stock-Linux tests; arguments are libtest's, and --kernel 6.1. Programs are built as `cargo test`
# builds them: nothing is compiled twice, and overflows and assertions are checked
test-guest *arguments:
    @scripts/setup.sh
    cargo build --workspace --bins --tests
    cargo rustc --package manatee-traffic --bin traffic -- -C target-feature=+crt-static -C strip=symbols
    @"{{target}}/debug/guest-tests" "$@"

# Check the formatting, and lint with warnings as errors
lint:
    @scripts/setup.sh build
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo fmt --manifest-path host/top/Cargo.toml --check
    cargo clippy --locked --manifest-path host/top/Cargo.toml --target-dir "{{target}}/top" --all-targets -- -D warnings
    cargo clippy --package manatee-device --features faults -- -D warnings
    cargo clippy --package manatee --no-default-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    scripts/lint-wasm.sh
    @scripts/setup.sh arm
    scripts/lint-arm.sh

# Format the code
fmt:
    cargo fmt --all
    cargo fmt --manifest-path host/top/Cargo.toml
