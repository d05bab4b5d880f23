#!/usr/bin/env bash
# Makes a disk as clouds have them, and what it reads at its first boot. See --help.
set -euo pipefail
case ${1:-} in
-h | --help)
	cat <<'EOT'
Usage: test/firmware/debian-disk.sh DIR

Makes DIR/debian.img, a raw disk with GPT, an EFI system partition with GRUB, and Debian bookworm with cloud-init, OpenSSH
and Docker, of Debian's packages; and DIR/seed.iso, from which its cloud-init learns what to do (docs/usage.md).
EOT
	exit 0
	;;
esac
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-debian.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod go+rx "$work"
root_mib=1900
# The partitions' places in sectors of 512 bytes, the disk's size in MiB.
esp_start=2048 esp_mib=16
root_start=$((esp_start + esp_mib * 2048))

# The hook's lines run on the host, $1 is the new root.
packages=systemd-sysv,udev,dbus,linux-image-cloud-amd64,openssh-server,sudo,cloud-init,iproute2,iptables,curl,docker.io
cat >"$work/hook" <<'EOT'
set -eu
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n[DHCPv4]\nClientIdentifier=mac\n' >"$1/etc/systemd/network/80-dhcp.network"
printf 'LABEL=cloud-root / ext4 defaults 0 1\n' >"$1/etc/fstab"
# The network is the image's own, and no package is to be had from it.
printf 'network: {config: disabled}\n' >"$1/etc/cloud/cloud.cfg.d/90-network.cfg"
printf 'datasource_list: [NoCloud, None]\n' >"$1/etc/cloud/cloud.cfg.d/90-datasource.cfg"
: >"$1/etc/apt/sources.list"
: >"$1/etc/machine-id"
rm -f "$1"/etc/ssh/ssh_host_*
# docker-machine counts on Docker's own package, which it would install from the network.
ln -s ../sbin/dockerd "$1/usr/bin/dockerd"
chroot "$1" systemctl -q enable systemd-networkd.service
EOT
mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --include="$packages" --customize-hook="sh $work/hook \"\$1\"" \
	bookworm "$work/root.tar" ${TSHYVE_DEBIAN_MIRROR:+"$TSHYVE_DEBIAN_MIRROR"} 2>"$work/mmdebstrap.log" || {
	tail -n 30 "$work/mmdebstrap.log" >&2
	exit 1
}
# Files of several users, which takes a root, if only one of a namespace.
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(unshare --user --map-root-user --map-auto)
mkdir "$work/root"
# shellcheck disable=SC2016 # expanded by the inner shell
(cd "$work" && "${as_root[@]}" sh -euc 'tar -xf root.tar -C root --exclude="./dev/*"; rm root.tar
	mke2fs -q -F -t ext4 -L cloud-root -d root root.ext4 "$1"; ls root/boot >boot; rm -rf root' sh "${root_mib}M")
kernel=$(grep ^vmlinuz- "$work/boot")

cat >"$work/grub.cfg" <<EOT
search --no-floppy --label cloud-root --set=root
linux /boot/$kernel root=LABEL=cloud-root ro quiet console=ttyS0 net.ifnames=0
initrd /boot/initrd.img-${kernel#vmlinuz-}
boot
EOT
grub-mkimage -O x86_64-efi -c "$work/grub.cfg" -p /boot/grub -o "$work/BOOTX64.EFI" \
	part_gpt ext2 search search_label linux normal
truncate -s ${esp_mib}M "$work/esp.img"
mformat -i "$work/esp.img" -v EFI ::
mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$work/esp.img" "$work/BOOTX64.EFI" ::/EFI/BOOT/
# The end is GPT's second copy.
truncate -s $((root_start / 2048 + root_mib + 2))M "$out/debian.img"
printf 'label: gpt\nstart=%s, size=%sMiB, type=uefi\nstart=%s, size=%sMiB, type=linux\n' \
	$esp_start $esp_mib $root_start $root_mib | sfdisk -q "$out/debian.img"
dd if="$work/esp.img" of="$out/debian.img" bs=1M seek=$((esp_start / 2048)) conv=notrunc,sparse status=none
dd if="$work/root.ext4" of="$out/debian.img" bs=1M seek=$((root_start / 2048)) conv=notrunc,sparse status=none

printf 'instance-id: tshyve\n' >"$work/meta-data"
cp "$(dirname "${BASH_SOURCE[0]}")/user-data" "$work/user-data"
xorriso -as mkisofs -quiet -V cidata -J -r -o "$out/seed.iso" "$work/user-data" "$work/meta-data"
