#!/usr/bin/env bash
# Builds the image twice and compares the results byte by byte. Arguments go to build.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-reproducible.XXXXXX")
trap 'rm -rf "$work"' EXIT
# For the users that the build maps.
chmod go+rx "$work"
# Of a copy in another folder, with other permissions and under another umask, and with a cache of its own, so that Go links
# its programs each time, too.
mkdir "$work/copy of iso"
tar -C "$here" --exclude=./out -c . | tar -C "$work/copy of iso" -x
chmod -R g+w "$work/copy of iso"
build() (
	umask 077
	TSHYVE_CACHE=$work/$1-cache TMPDIR=$work "$work/copy of iso/build.sh" --out "$work/$1" "${@:2}"
)

# The image that is there is one of both, unless Debian has newer packages since.
first=$here/out
"$here/build.sh" "$@"
build second "$@"
for manifest in "$work"/second/manifest*.json; do
	cmp -s "$manifest" "$first/${manifest##*/}" || { first=$work/first && build first "$@"; }
done
for image in "$work"/second/*.iso; do
	cmp "$first/${image##*/}" "$image" || {
		echo 'check-reproducible.sh: two builds differ. Should another compiler have made the one in iso/out: iso/build.sh --force' >&2
		exit 1
	}
	echo "Both builds are identical: $(cut -d' ' -f1 "$image.sha256")"
done
