#!/usr/bin/env bash
# Builds the image twice and compares the results byte by byte.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-reproducible.XXXXXX")
trap 'rm -rf "$work"' EXIT
for build in a b; do "$here/build.sh" --out "$work/$build"; done
cmp "$work/a/tshyve-amd64.iso" "$work/b/tshyve-amd64.iso"
echo "Both builds are identical: $(cut -d' ' -f1 "$work/a/tshyve-amd64.iso.sha256")"
