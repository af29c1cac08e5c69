#!/usr/bin/env bash
# Fuzzes with libFuzzer. Run it by `just fuzz`.
#
#   scripts/fuzz.sh TARGET [SECONDS]    one target, by default for a minute
#   scripts/fuzz.sh all [SECONDS]       each target in turn, by default 5 seconds each
#   scripts/fuzz.sh --list              the targets
#
# Only the crates of this repository are instrumented: coverage of the wasm compiler is
# useless, and takes ten minutes to build. So everything else is built
# as for the tests, and shared with them. `cargo fuzz run --fuzz-dir guest-tests/fuzz
# --features libfuzzer fuzz_TARGET` does it the usual way.
#
# Failing inputs are kept in target/fuzz/artifacts, and the corpus in
# target/fuzz/corpus; put an input into guest-tests/fuzz/seeds/TARGET to keep it for ever.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
seeds=$root/guest-tests/fuzz/seeds
targets=(control device direct_abi frames racing snapshot state vfio_user)

die() { printf 'fuzz: error: %s\n' "$*" >&2; exit 2; }

# As the compiler of this repository's crates alone.
if [ "${1:-}" = --compile ]; then
    shift
    compiler=$1 name='' platform=''
    shift
    arguments=("$@")
    while [ $# -gt 0 ]; do
        case $1 in
            --crate-name) name=$2 ;;
            --target) platform=$2 ;;
        esac
        shift
    done
    # What is part of a target, and of no build script.
    case $name,$platform in
        manatee, | manatee_device, | manatee_conformance, | manatee_fuzz, | manatee_kit, | manatee_world, | fuzz_*,) ;;
        *) exec "$compiler" "${arguments[@]}" ;;
    esac
    exec "$compiler" "${arguments[@]}" --cfg fuzzing \
        -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares \
        -Ccodegen-units=1
fi

[ "${1:-}" = --list ] && { printf '%s\n' "${targets[@]}"; exit; }
case ${1:-} in
    all) chosen=("${targets[@]}") seconds=${2:-5} ;;
    *)
        [[ " ${targets[*]} " = *" ${1:-} "* ]] || die "there is no target '${1:-}': give all, or one of ${targets[*]}"
        chosen=("$1") seconds=${2:-60} ;;
esac
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "'$seconds' is not a number of seconds"

command -v c++ >/dev/null || die "libFuzzer is C++, and there is no c++ here: install g++"
# Artifacts are valid only for the same wrapper; a change of its name makes cargo rebuild.
wrapper=$target/fuzz/rustc-$(sed -n '/^if .*--compile/,/^fi/p' "$root/scripts/fuzz.sh" | cksum | cut -d ' ' -f 1)
mkdir -p "$target/fuzz"
printf '#!/bin/sh\nexec bash %q --compile "$@"\n' "$root/scripts/fuzz.sh" >"$wrapper"
chmod +x "$wrapper"
# With an example among them, the dependencies are those of `cargo test --workspace`.
# shellcheck disable=SC2086 # the packages are words
RUSTC_WORKSPACE_WRAPPER=$wrapper cargo build --manifest-path "$root/Cargo.toml" \
    ${FUZZ_PACKAGES:---workspace} --example alike --bin 'fuzz_*' --features manatee-fuzz/libfuzzer

for name in "${chosen[@]}"; do
    corpus=$target/fuzz/corpus/$name artifacts=$target/fuzz/artifacts/$name
    mkdir -p "$corpus" "$artifacts"
    log=$target/fuzz/$name.log
    # Only the count is printed; the rest is in the log.
    if "$target/debug/fuzz_$name" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$artifacts/" "$corpus" "$seeds/$name" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        echo "fuzz: $name: ${runs:-0} inputs in $seconds s, nothing found"
    else
        tail -n 40 "$log" >&2
        die "$name found something: the input is in $artifacts, the log is $log"
    fi
done
