#!/usr/bin/env bash
# Makes a Debian package of the command, with its SBOMs: target/package. Run it by `just package`, which
# tests it too. host/cli/Cargo.toml says what is in it; what has to be generated is made here.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/package
files=$target/dist/package
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
cd "$root"

# The same commit makes the same files.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH CARGO_TARGET_DIR=$target PATH=$target/tools/bin:$PATH
# Any x86-64 processor runs the command itself.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

# The command has the component's machine code for two levels of processors, and takes the first that
# the machine has. A file next to it would be trusted code outside the program, would have to be of its
# version, and could not be opened from the jail.
mkdir -p "$out"
cargo build --release --locked --package manatee-cli
"$target/release/manatee" precompile --processor x86-64-v3,x86-64-v2 "$out/device.cwasm"
MANATEE_DEVICE_CODE=$out/device.cwasm cargo build --profile dist --locked --package manatee-cli
cargo build --release --locked --manifest-path host/top/Cargo.toml --target-dir "$target/top"
cp "$target/top/release/manatee-top" "$target/dist/"
manatee=$target/dist/manatee

rm -rf "$files" "$out"/*.deb "$out"/*.cdx.json
mkdir -p "$files"/{man,completions,changelog,sbom}
"$manatee" man "$files/man"
echo '.so man1/manatee-keep.1' >"$files/man/manatee-keeper.1"
"$manatee" completions bash >"$files/completions/manatee"
"$manatee" completions zsh >"$files/completions/_manatee"
"$manatee" completions fish >"$files/completions/manatee.fish"
cp CHANGELOG.md "$files/changelog/changelog"
cat >"$files/changelog/changelog.Debian" <<END
manatee ($version-1) unstable; urgency=medium

  * changelog.gz says what is new, and what to do on an upgrade.

 -- Manatee maintainers <manatee-vmm@users.noreply.github.com>  $(date --utc --date="@$SOURCE_DATE_EPOCH" --rfc-email)
END
gzip --best --no-name "$files"/man/* "$files"/changelog/*

# cargo-cyclonedx writes next to each manifest of a workspace, so it gets a copy.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z -- '*.toml' '*.rs' '*.lock' | tar --create --null --files-from=- | tar --extract --directory "$copy"
for program in manatee:host/cli manatee-top:host/top; do
    (cd "$copy/${program#*:}" && cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename sbom)
    # Paths of this machine are nobody's business.
    sed "s|file://$copy|file:///manatee|g" "$copy/${program#*:}/sbom.json" >"$files/sbom/${program%:*}.cdx.json"
done
cp "$files"/sbom/*.cdx.json "$out"

cargo deb --profile dist --no-build --strip --locked --quiet --manifest-path host/cli/Cargo.toml --output "$out/" >/dev/null
printf 'package: %s\n' "$out"/*.deb "$out"/*.cdx.json
