#!/usr/bin/env bash
# Builds what the guest image is compared with: the same Debian packages and kernel as a disk with ordinary defaults.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
iso=$here/../../iso
out=$here/out/untuned
case ${1:-} in
-h | --help)
	cat <<'USAGE'
Usage: test/bench/untuned-root.sh

Builds test/bench/out/untuned: disk.img (ext4), kernel, initrd (initramfs-tools), id_ed25519 (logs in as "docker").
The root has the packages of iso/spec/packages.txt and the image's kernel; systemd, udev, networkd, PAM and Docker are
as Debian configures them. Does nothing when it is up to date. TSHYVE_DEBIAN_MIRROR names another Debian mirror.
USAGE
	exit 0
	;;
?*)
	echo "untuned-root.sh: unknown argument \"$1\"; see --help" >&2
	exit 2
	;;
esac
for tool in mmdebstrap mke2fs ssh-keygen unshare; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || {
		echo "untuned-root.sh: $tool is missing. Install the packages of iso/build-packages.txt." >&2
		exit 1
	}
done
PATH=$PATH:/usr/sbin:/sbin
[ -s "$iso/out/manifest.json" ] || {
	echo "untuned-root.sh: the guest image is missing. Build it with iso/build.sh." >&2
	exit 1
}
kernel=$(sed -n 's/.*"kernel": "\(.*\)".*/\1/p' "$iso/out/manifest.json")
inputs=$(cat "${BASH_SOURCE[0]}" "$iso/spec/packages.txt" "$iso/out/manifest.json" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/inputs" 2>/dev/null)" = "$inputs" ]; then exit 0; fi
echo "Building the untuned Debian root to compare with (about two minutes)"

rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-untuned.XXXXXX")
trap 'rm -rf "$work"' EXIT
ssh-keygen -q -t ed25519 -N '' -C tshyve-bench -f "$out/id_ed25519"
mkdir "$work/hook"
cp "$out/id_ed25519.pub" "$work/hook/authorized_keys"
cat >"$work/hook/customize.sh" <<'HOOK'
#!/bin/sh
set -eu
chroot "$1" groupadd -f docker
chroot "$1" useradd --uid 1000 --gid docker --shell /bin/bash --create-home --password '*' docker
mkdir -m 700 "$1/home/docker/.ssh"
cp "$2/authorized_keys" "$1/home/docker/.ssh/"
chroot "$1" chown -R docker:docker /home/docker/.ssh
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$1/etc/systemd/network/80-dhcp.network"
chroot "$1" systemctl enable systemd-networkd.service
echo '/dev/vda / ext4 defaults 0 1' >"$1/etc/fstab"
echo untuned >"$1/etc/hostname"
HOOK
chmod 755 "$work/hook/customize.sh"
chmod -R go+rX "$work"
packages=$(grep -vE '^[[:space:]]*(#|$)' "$iso/spec/packages.txt" | paste -sd,)
mmdebstrap --quiet --variant=minbase --arch=amd64 --aptopt='APT::Install-Recommends "false"' \
	--include="$packages,initramfs-tools,linux-image-$kernel,libpam-systemd,dbus" \
	--customize-hook="$work/hook/customize.sh \"\$1\" $work/hook" \
	bookworm "$work/root.tar" ${TSHYVE_DEBIAN_MIRROR:+"$TSHYVE_DEBIAN_MIRROR"} >"$work/mmdebstrap.log" 2>&1 || {
	tail -n 30 "$work/mmdebstrap.log" >&2
	echo "untuned-root.sh: mmdebstrap failed; the lines above say why" >&2
	exit 1
}
tar -xOf "$work/root.tar" "./boot/vmlinuz-$kernel" >"$out/kernel"
tar -xOf "$work/root.tar" "./boot/initrd.img-$kernel" >"$out/initrd"
# Inside a user namespace files can get their owners without being root.
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(unshare --map-auto --map-root-user)
# shellcheck disable=SC2016 # the inner shell expands
"${as_root[@]}" sh -euc '
	mkdir "$1/root"
	tar -xf "$1/root.tar" -C "$1/root" --exclude="./dev/*" --numeric-owner
	mke2fs -q -t ext4 -L untuned -d "$1/root" "$2/disk.img" 4G >/dev/null
	rm -rf "$1/root"' sh "$work" "$out"
echo "$inputs" >"$out/inputs"
