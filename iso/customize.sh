#!/bin/sh
# mmdebstrap's customize hook: turns the installed packages into the guest's root. $1 root, $2 folder of build.sh.
set -eu
root=$1
hook=$2
arch=$(cat "$hook/arch")
list() { cat "$hook/$1"; }

# The kernel is unpacked, not installed: its maintainer scripts would want an initramfs and a boot loader.
# apt is not in the guest; mmdebstrap lends the host's, configured for the new root.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(cat "$hook/kernel")
package=$(apt-cache depends "$kernel" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
(cd "$root/tmp" && apt-get -qq -o APT::Sandbox::User=root download "$package")
mkdir -p "$root/tmp/kernel"
chroot "$root" sh -c 'dpkg-deb -x /tmp/linux-image-*.deb /tmp/kernel && rm /tmp/linux-image-*.deb'
version=${package#linux-image-}
mkdir -p "$root/usr/lib/modules"
mv "$root/tmp/kernel/lib/modules/$version" "$root/usr/lib/modules/$version"
list trim-modules | while read -r pattern; do
	# shellcheck disable=SC2086 # the pattern must expand
	rm -rf "$root/usr/lib/modules/$version/kernel/"$pattern
done
# Where kubeadm looks for it.
mv "$root/tmp/kernel/boot/config-$version" "$root/usr/lib/modules/$version/config"
chroot "$root" depmod "$version"
cp "$root/tmp/kernel/boot/vmlinuz-$version" "$hook/out/vmlinuz"
if [ "$arch" = arm64 ]; then
	# Virtualization.framework waits for ever on a kernel that is not a plain Image ("ARMd" at 0x38, arm64/booting.rst).
	[ "$(tail -c +57 "$hook/out/vmlinuz" | head -c 4)" = ARMd ] || { echo "customize.sh: the kernel is no Image" >&2; exit 1; }
	# The host has GRUB's tools, but not its modules for this architecture.
	(cd "$root/tmp" && apt-get -qq -o APT::Sandbox::User=root download grub-efi-arm64-bin)
	chroot "$root" sh -c 'dpkg-deb -x /tmp/grub-efi-*.deb /tmp/grub && rm /tmp/grub-efi-*.deb'
	mv "$root/tmp/grub/usr/lib/grub/arm64-efi" "$hook/out/grub"
	rm -rf "$root/tmp/grub"
fi
tar -C "$root/usr" --sort=name -cf "$hook/out/modules.tar" "lib/modules/$version"
rm -rf "$root/tmp/kernel"
echo "$version" >"$hook/out/kernel-version"
# shellcheck disable=SC2016 # the braces are dpkg-query's
chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort >"$hook/out/packages"
{ echo "$kernel $version"; list tools; } >>"$hook/out/packages"

# Under unshare, cp -a would give the files of the overlay a foreign owner.
cp -dR --preserve=mode,timestamps "$hook/overlay/." "$root/"
chroot "$root" groupadd -f docker
chroot "$root" useradd --uid 1000 --gid docker --shell /bin/bash --create-home --password '*' docker
mkdir -p "$root/usr/lib/tshyve/home" "$root/mnt/data" "$root/iso" "$root/data"
cp -a "$root/home/docker/." "$root/usr/lib/tshyve/home/"
while read -r directory; do mkdir -p "$root/$directory"; done <"$root/usr/lib/tshyve/persistent-directories.txt"
mkdir -p "$root/var/lib/boot2docker/etc"
ln -sf /run/resolv.conf "$root/etc/resolv.conf"
# In the unit itself, not in a drop-in: minikube writes a docker.service of its own, which must not be overridden.
sed -i 's|^ExecStart=.*|ExecStart=/usr/lib/tshyve/dockerd|' "$root/lib/systemd/system/docker.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
list masked | while read -r unit; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
rm -f "$root"/etc/systemd/system/multi-user.target.wants/* "$root"/etc/systemd/system/sockets.target.wants/* \
	"$root"/etc/systemd/system/timers.target.wants/* "$root"/etc/rc?.d/*
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
list enabled | while read -r unit; do
	path=/lib/systemd/system/$unit
	[ ! -e "$root/etc/systemd/system/$unit" ] || path=/etc/systemd/system/$unit
	[ -e "$root$path" ] || { echo "customize.sh: no unit $unit" >&2; exit 1; }
	ln -sf "$path" "$root/etc/systemd/system/multi-user.target.wants/$unit"
done
list trim | while read -r pattern; do
	# shellcheck disable=SC2086 # the pattern must expand
	rm -rf "$root"$pattern
done
: >"$root/etc/machine-id"
chmod 440 "$root/etc/sudoers.d/docker"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf.orig"
