#!/usr/bin/env bash
# Tests the Debian package as a user gets it: installs it in a fresh chroot, uses it there as an ordinary
# user, and removes it. Run it by `just package`. It needs root, for the chroot.
#
# The chroot lives in namespaces of its own, so that no process and no mount is left.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${CARGO_TARGET_DIR:-$root/target}/package
fail() { echo "package: error: $*" >&2; exit 1; }
say() { printf '  %-12s%s\n' "$1" "$2"; }

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || exec sudo "CARGO_TARGET_DIR=${out%/package}" "$0"
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    fresh=$(mktemp -d "$out/fresh.XXXXXX")
    trap 'rm -rf --one-file-system "$fresh"' EXIT
    tar --extract --file "$out/chroot-$suite.tar" --directory "$fresh"
    cp "$out"/manatee_*_amd64.deb "$fresh/var/tmp/manatee.deb"
    echo "The Debian package in a fresh Debian $suite"
    unshare --mount --pid --fork --kill-child --mount-proc="$fresh/proc" "$0" inside "$fresh" | tee "$out/report.txt"
    echo "package: ok"
    exit
fi
fresh=$2

in_chroot() {
    chroot "$fresh" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
# quietly COMMAND...: shows its output only when it fails.
quietly() {
    local output
    output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; fail "failed: $*"; }
}
as_user() {
    in_chroot HOME=/home/somebody setpriv --reuid somebody --regid somebody --init-groups --inh-caps=-all "$@"
}
# field '  "KEY"': the text under a key of JSON, indented as much.
field() { sed -n "s/^$1: \"\(.*\)\",\{0,1\}$/\1/p"; }
owned() { in_chroot find / -xdev \( -iname '*manatee*' -o -name 'vfio-user*' \) -not -path '/var/tmp/*' -not -path '/var/cache/man/*'; }

# --- install: apt finds what the package depends on ------------------------------
[ -z "$(owned)" ] || fail "the chroot is not fresh: $(owned)"
before=$(in_chroot dpkg-query --show | wc -l)
quietly in_chroot apt-get install --yes --no-install-recommends /var/tmp/manatee.deb
after=$(in_chroot dpkg-query --show | wc -l)
quietly in_chroot apt-get install --yes --no-install-recommends man-db
quietly in_chroot useradd --create-home --user-group somebody
mapfile -t listed < <(in_chroot dpkg-query --listfiles manatee)
size=$(stat --format=%s "$fresh/usr/bin/manatee")
[ "$size" -le 30000000 ] || fail "the command has $size bytes, more than 30 MB"
[ -z "$(nm "$fresh/usr/bin/manatee" 2>/dev/null)" ] || fail "the command is not stripped"
say install "$(stat --format=%s "$fresh/var/tmp/manatee.deb" | numfmt --to=si)B, the command $(numfmt --to=si "$size")B; apt added $((after - before - 1)) packages that it depends on"
[ "$(in_chroot getent passwd manatee | cut -d: -f7)" = /usr/sbin/nologin ] || fail "there is no user manatee without a shell"

# --- the command, as an ordinary user ------------------------------------------
level=x86-64-v2
! grep -q '^ *x86-64-v3 (supported' <<<"$(in_chroot /lib64/ld-linux-x86-64.so.2 --help)" || level=x86-64-v3
version=$(as_user manatee --version --json)
for found in "$(field '    "precompiled"' <<<"$version")" "$(as_user manatee describe --json | field '  "precompiled"')"; do
    [ "$found" = "$level" ] || fail "code for '$found' is used, and the processor has level $level"
done
wasmtime=$(field '  "wasmtime"' <<<"$version")
say version "$(field '  "version"' <<<"$version"), commit $(field '  "commit"' <<<"$version"), wasmtime $wasmtime"
checked=$(as_user manatee check 2>&1) || fail "manatee check says: $checked"
say check "$(tail -n 1 <<<"$checked")"
grep -q '"type": "net"' <<<"$(as_user /usr/libexec/vfio-user-mana --print-capabilities)" || fail "the backend has no capabilities"

# Starts a device some times, and prints for each the microseconds until a VMM can attach. What runs must be
# compiled already.
starts() {
    cd "$HOME"
    for _ in {1..11}; do
        local log line ready='' begun=${EPOCHREALTIME/[.,]/}
        exec {log}< <(exec manatee serve --socket-path nic.sock --control nic.control --port null 2>&1)
        local process=$!
        while [ -z "$ready" ] && read -r line <&"$log"; do
            [[ $line != *"ready: a VMM can attach"* ]] || ready=$((${EPOCHREALTIME/[.,]/} - begun))
        done
        echo "${ready:?manatee serve ended: $line}"
        manatee inspect --control nic.control component | grep -q "\"precompiled\": \"$1\"" || exit 1
        kill "$process"
        wait "$process" || exit 1
        exec {log}<&-
    done
}
times=$(as_user bash -euc "$(declare -f starts); starts $level" | sort -n) || fail "manatee serve did not start, serve and end"
say start "until a VMM can attach: median $(sed -n 6p <<<"$times") us, worst of 11 $(tail -n 1 <<<"$times") us; code for $level, nothing compiled"

# --- pages, completions, SBOMs ---------------------------------------------------
pages=0
for file in "${listed[@]}"; do
    case $file in
        /usr/bin/*) [[ " ${listed[*]} " == *" /usr/share/man/man1/${file##*/}.1.gz "* ]] || fail "$file has no page" ;;
        /usr/share/man/man1/*.gz)
            text=$(as_user man --pager=cat "$(basename "$file" .1.gz)" 2>&1)
            grep -q '^NAME' <<<"$text" || fail "$file can't be read: $text"
            pages=$((pages + 1)) ;;
    esac
done
completions=/usr/share/bash-completion/completions/manatee
as_user bash -euc "source $completions; complete -p manatee" >/dev/null || fail "bash does not complete"
grep -q '^#compdef manatee' "$fresh/usr/share/zsh/vendor-completions/_manatee" || fail "zsh does not complete"
grep -q '^complete -c manatee' "$fresh/usr/share/fish/vendor_completions.d/manatee.fish" || fail "fish does not complete"
say pages "$pages pages of the manual, completions of bash, zsh and fish"
for name in manatee manatee-top; do
    sbom=$fresh/usr/share/doc/manatee/$name.cdx.json
    grep -q '"bomFormat": *"CycloneDX"' "$sbom" || fail "$sbom is no SBOM"
    say SBOM "$name: $(grep -c '"purl": *"pkg:cargo/' "$sbom") crates"
done
grep -q "\"purl\": *\"pkg:cargo/wasmtime@$wasmtime\"" "$fresh/usr/share/doc/manatee/manatee.cdx.json" || fail "the SBOM lacks the wasmtime that the command has"

# --- units ------------------------------------------------------------------------
for unit in manatee@.service manatee-keep@.service; do
    exposure=$(in_chroot systemd-analyze security --offline=true --threshold=20 --no-pager "/usr/lib/systemd/system/$unit") ||
        fail "$unit is exposed too much: $exposure"
    say unit "$unit: $(grep -o 'Overall exposure.*' <<<"$exposure")"
done
quietly in_chroot systemd-analyze verify manatee@tap0.service manatee-keep@tap0.service manatee@tap0.socket manatee-control@tap0.socket

# --- upgrade, removal, purge --------------------------------------------------------
quietly in_chroot systemctl enable manatee@tap0.socket manatee-keep@tap1.service
mkdir "$fresh/etc/manatee"
echo 'MANATEE_OPTIONS=--log-format json' >"$fresh/etc/manatee/tap0.env"
quietly in_chroot dpkg --install /var/tmp/manatee.deb
quietly in_chroot dpkg --remove manatee
[ -e "$fresh/etc/manatee/tap0.env" ] || fail "a removal takes an adapter's settings away"
quietly in_chroot dpkg --purge manatee
[ -z "$(owned)" ] || fail "a purge leaves $(owned)"
for file in "${listed[@]}"; do
    [ -d "$fresh$file" ] || [ ! -e "$fresh$file" ] || fail "a purge leaves $file"
done
say purge "nothing is left but the user \`manatee\`"
