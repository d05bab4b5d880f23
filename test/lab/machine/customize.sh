#!/bin/bash
# Called by mmdebstrap with the lab's new root: makes its initrd, adds Debian's stock kernels, each with an archive of the
# modules its guests load and busybox; the guests' own programs come later, with the work disk.
# Usage: customize.sh ROOT WORK
set -euo pipefail
root=$1 work=$2
export PATH=$PATH:/usr/sbin:/sbin
list() { grep -vE '^[[:space:]]*(#|$)' "$1"; }

# initrd NAME KERNEL-ROOT VERSION MODULES-FILE: an initrd of the folder $work/NAME with these modules, in load order.
make_initrd() {
	local folder=$work/$1 kernel=$2 version=$3 module file
	mkdir -p "$folder/modules" "$folder/bin"
	cp "$root/usr/bin/busybox" "$folder/bin/busybox"
	depmod -b "$kernel" "$version"
	# Not every kernel has every module: built in, or left out of the cloud flavour.
	while read -r module; do
		modprobe -d "$kernel" -S "$version" --show-depends --ignore-install "$module" 2>/dev/null || true
	done <"$4" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		cp "$file" "$folder/modules/"
		basename "$file" >>"$folder/modules/order"
	done
	[ -s "$folder/modules/order" ] || { echo "no kernel modules found for $version" >&2; exit 1; }
	(cd "$folder" && find . -mindepth 1 | sort | cpio --quiet -R 0:0 -H newc -o)
}

version=$(basename "$root"/boot/vmlinuz-*)
version=${version#vmlinuz-}
cp "$root/boot/vmlinuz-$version" "$work/out/vmlinuz"
mkdir -p "$work/lab"/{dev,lower,upper,root}
cp "$work/initrd-init" "$work/lab/init"
make_initrd lab "$root" "$version" "$work/initrd-modules" >"$work/out/initrd"

cp -dR "$work/hook/." "$root/"
chroot "$root" node --version >/dev/null || {
	echo "This host's Node does not run on Debian 12; install one from nodejs.org, whose builds run everywhere." >&2
	exit 1
}
echo "lab kernel $version" >"$work/out/manifest.txt"

mkdir "$work/debs"
list "$work/stock-kernels.txt" | while read -r name package suite; do
	apt() { APT_CONFIG=$MMDEBSTRAP_APT_CONFIG "$@" ${suite:+-t "$suite"}; }
	# The meta package depends on the kernel of the day.
	candidate=$(apt apt-cache policy "$package" | awk '$1 == "Candidate:" { print $2 }')
	image=$(apt apt-cache show "$package=$candidate" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
	(cd "$work/debs" && apt apt-get download -q "$image")
	deb=$(echo "$work/debs"/*.deb)
	mkdir "$work/kernel"
	dpkg-deb --extract "$deb" "$work/kernel"
	rm "$deb"
	[ -e "$work/kernel/lib" ] || ln -s usr/lib "$work/kernel/lib"
	version=$(basename "$work"/kernel/boot/vmlinuz-*)
	version=${version#vmlinuz-}
	mkdir -p "$root/opt/lab/kernels/$name"
	cp "$work/kernel/boot/vmlinuz-$version" "$root/opt/lab/kernels/$name/vmlinuz"
	make_initrd "initrd-$name" "$work/kernel" "$version" "$work/guest-modules" >"$root/opt/lab/kernels/$name/modules.cpio"
	echo "$version" >"$root/opt/lab/kernels/$name/version"
	echo "guest kernel $name $version" >>"$work/out/manifest.txt"
	rm -rf "$work/kernel"
done
cd "$root"
rm -rf boot/* var/cache/* usr/share/qemu/edk2* lib/modules/*/kernel/drivers/{gpu,media,scsi}
