#!/usr/bin/env bash
# Builds the lab machine: see README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/out
force=no
export LC_ALL=C TZ=UTC
usage() {
	cat <<EOF
Usage: test/lab/build.sh [--out DIR] [--force]

Builds the lab machine into DIR (default: test/lab/out):
  vmlinuz, initrd   its kernel
  root.squashfs     its root: Debian with QEMU, Node, and Debian's stock kernels to be booted as guests (/opt/lab/kernels)
  scratch.img       an empty ext4 file system, its writable disk
  qemu/             the QEMU that runs it, with its libraries

Does nothing when DIR holds a lab of the same inputs, unless --force is given.
TSHYVE_DEBIAN_MIRROR names a Debian mirror other than the default one.
EOF
}
fail() {
	printf 'build.sh: %s\n' "$*" >&2
	exit 1
}
while [ $# -gt 0 ]; do
	case $1 in
	--out)
		[ $# -ge 2 ] || fail '--out needs a folder'
		out=$2
		shift
		;;
	--force) force=yes ;;
	-h | --help)
		usage
		exit 0
		;;
	*) fail "unknown argument \"$1\"; see test/lab/build.sh --help" ;;
	esac
	shift
done
PATH=$PATH:/usr/sbin:/sbin
for tool in mmdebstrap mksquashfs cpio modprobe gcc node mkfs.ext4 dpkg-deb; do
	command -v "$tool" >/dev/null || fail "$tool is missing. scripts/test.sh installs what is needed; or install the packages of iso/build-packages.txt."
done

list() { grep -vE '^[[:space:]]*(#|$)' "$1"; }
node=$(node -p process.execPath)
inputs=$({
	cd "$here" && find build.sh machine -type f -print0 | sort -z | xargs -0 sha256sum
	sha256sum <"$node"
} | sha256sum | cut -d' ' -f1)
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ "$force" = no ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then
	echo "The lab in $out is up to date."
	exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-lab.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
echo 'Building the lab machine (two minutes)'

# Node and the libraries that come with it rather than with the lab's Debian.
mkdir -p "$work/hook/usr/local/bin" "$work/hook/opt/lab"
cp "$node" "$work/hook/usr/local/bin/node"
cp "$here/machine/start" "$work/hook/opt/lab/start"
chmod 755 "$work/hook/opt/lab/start" "$work/hook/usr/local/bin/node"
cp "$here/machine/customize.sh" "$here/machine/stock-kernels.txt" "$work/"
list "$here/machine/initrd-modules.txt" >"$work/initrd-modules"
list "$here/machine/guest-modules.txt" >"$work/guest-modules"
cp "$here/machine/initrd-init" "$work/initrd-init"
mkdir "$work/out"
chmod -R go+rX "$work"
chmod go+rwx "$work/out"
mirror=${TSHYVE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
if ! mmdebstrap --quiet --variant=essential --arch=amd64 \
	--aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
	--include="$(list "$here/machine/packages.txt" | paste -sd,)" \
	--customize-hook="$work/customize.sh \"\$1\" $work" \
	bookworm "$work/root.tar" \
	"deb $mirror bookworm main" "deb $mirror bookworm-updates main" \
	"deb ${mirror/%\/debian/\/debian-security} bookworm-security main" \
	"deb $mirror bookworm-backports main" >"$work/mmdebstrap.log" 2>&1; then
	tail -n 30 "$work/mmdebstrap.log" >&2
	fail 'mmdebstrap failed; the lines above say why'
fi
# Not compressed: the host has it in its page cache, the lab's slow processors need not unpack it.
mksquashfs - "$work/root.squashfs" -tar -quiet -no-progress -noI -noD -noF -noX <"$work/root.tar" >/dev/null

# The QEMU that runs the lab: bookworm's own (7.2) crashes the lab's kernel now and then, see README.md.
if ! mmdebstrap --quiet --variant=extract --arch=amd64 --aptopt='APT::Install-Recommends "false"' \
	--aptopt='APT::Default-Release "bookworm-backports"' --include=qemu-system-x86 bookworm "$work/qemu.tar" \
	"deb $mirror bookworm main" "deb $mirror bookworm-backports main" >"$work/mmdebstrap.log" 2>&1; then
	tail -n 30 "$work/mmdebstrap.log" >&2
	fail 'mmdebstrap failed; the lines above say why'
fi

truncate -s 24G "$work/scratch.img"
mkfs.ext4 -q -L scratch -E lazy_itable_init=1,lazy_journal_init=1,nodiscard "$work/scratch.img"

rm -rf "$out/inputs" "$out/qemu"
mkdir "$out/qemu"
tar -C "$out/qemu" -xf "$work/qemu.tar" ./lib ./usr/lib ./usr/bin ./usr/share
for file in root.squashfs scratch.img out/vmlinuz out/initrd out/manifest.txt; do
	cp --sparse=always "$work/$file" "$out/$(basename "$file")"
done
echo "$inputs" >"$out/inputs"
echo "Done in $SECONDS s:"
sed 's/^/  /' "$out/manifest.txt"
