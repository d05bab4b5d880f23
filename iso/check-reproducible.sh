#!/usr/bin/env bash
# Builds the image twice and compares the results byte by byte. Arguments go to build.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-reproducible.XXXXXX")
trap 'rm -rf "$work"' EXIT
# Each with a cache of its own, so that Go links its programs twice, too.
for build in a b; do TSHYVE_CACHE=$work/cache-$build "$here/build.sh" --out "$work/$build" "$@"; done
for image in "$work"/a/*.iso; do
	cmp "$image" "$work/b/${image##*/}"
	echo "Both builds are identical: $(cut -d' ' -f1 "$image.sha256")"
done
