#!/usr/bin/env bash
# Builds the guest image from Debian packages. See README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$here/out
force=no
suite=bookworm
arch=amd64
flavour=''
# Every date in the image. Raise it together with VERSION.
export SOURCE_DATE_EPOCH=1795500000
export LC_ALL=C TZ=UTC
umask 022

usage() {
	cat <<EOF
Usage: iso/build.sh [--arch amd64|arm64] [--minikube] [--out DIR] [--force]

Builds the guest image (of amd64, if nothing else is said) into DIR (default: iso/out):
  tshyve-ARCH.iso         bootable image; holds kernel, initrd and root file system
  tshyve-ARCH.iso.sha256  its checksum
  manifest.json           versions of everything in it (manifest-arm64.json)

With --minikube, it builds tshyve-minikube-ARCH.iso: with crictl, cri-dockerd and CNI plugins (built by Go), and with
Debian's kernel for all machines, which knows 9p, hence "minikube mount".

Does nothing when DIR holds an image of the same inputs, unless --force is given.
TSHYVE_DEBIAN_MIRROR names a Debian mirror other than the default one, e.g. a dated snapshot.

Examples:
  iso/build.sh
  iso/build.sh --out /tmp/image --force
  iso/build.sh --minikube
  iso/build.sh --arch arm64    on any host: emulates what is foreign, without a trace outside its own namespace
EOF
}
while [ $# -gt 0 ]; do
	case $1 in
	--out)
		[ $# -ge 2 ] || { echo "build.sh: --out needs a folder" >&2; exit 2; }
		out=$2
		shift
		;;
	--arch)
		case ${2:-} in
		amd64 | arm64) arch=$2 ;;
		*) echo "build.sh: --arch needs amd64 or arm64" >&2; exit 2 ;;
		esac
		shift
		;;
	--minikube) flavour=-minikube ;;
	--force) force=yes ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		echo "build.sh: unknown argument \"$1\"; see iso/build.sh --help" >&2
		exit 2
		;;
	esac
	shift
done

name=tshyve$flavour-$arch suffix=$flavour compiler=gcc tools=() packages=("$here/build-packages.txt") foreign=no
if [ "$arch" = arm64 ]; then
	suffix+=-arm64
	packages+=("$here/build-packages-arm64.txt")
	if [ "$(uname -m)" != aarch64 ]; then
		foreign=yes compiler=aarch64-linux-gnu-gcc
		tools+=(qemu-aarch64-static unshare)
	fi
elif [ "$(uname -m)" != x86_64 ]; then
	echo "build.sh: the amd64 image can be built only on an amd64 host; this one builds --arch arm64" >&2
	exit 1
fi
missing=()
for tool in "$compiler" "${tools[@]}" mmdebstrap mksquashfs xorriso grub-mkimage mformat mcopy cpio depmod modprobe sha256sum; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
	echo "build.sh: missing tools: ${missing[*]}. Install them with:" >&2
	echo "  apt-get install --no-install-recommends $(grep -hv '^#' "${packages[@]}" | tr '\n' ' ')" >&2
	exit 1
fi
PATH=$PATH:/usr/sbin:/sbin

inputs=$(cd "$here" && find VERSION build.sh customize.sh go-tools.sh spec init overlay overlay-arm64 overlay-minikube -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ "$force" = no ] && [ -s "$out/$name.iso" ] && [ "$(cat "$out/inputs$suffix" 2>/dev/null)" = "$inputs" ]; then
	echo "The image in $out is up to date."
	exit 0
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
phase() {
	[ -z "${phase_name:-}" ] || printf '  %-44s %3d s\n' "$phase_name" $((SECONDS - phase_start))
	phase_name=${1:-}
	phase_start=$SECONDS
}
list() { grep -vE '^[[:space:]]*(#|$)' "$here/spec/$1"; }
# Builds a static program for the guest.
compile() {
	"$compiler" -std=c17 -Os -static -Wall -Wextra -Werror -ffile-prefix-map="$here=." -Wl,--build-id=none -s -o "$2" "$1"
}
# What the kernel calls the console of QEMU's machine: a 16550 or a PL011. On Macs tshyve appends console=hvc0.
command_line() {
	if [ "$arch" = amd64 ]; then list cmdline; else list cmdline | sed 's/console=ttyS0/console=ttyAMA0/'; fi
}
version=$(cat "$here/VERSION")
echo "Building the guest image $version$flavour for $arch (about a minute; four when it is foreign)"

if [ -n "$flavour" ]; then
	phase 'Go programs'
	"$here/go-tools.sh" "$arch" "$work/tools"
fi

phase 'root file system from Debian packages'
# The hook runs with the new root as $1; what it needs is handed over as files.
mkdir "$work/hook"
list packages.txt >"$work/packages"
kernel=linux-image-cloud-$arch
: >"$work/hook/trim-modules"
: >"$work/hook/tools"
cp -dR --preserve=mode,timestamps "$here/overlay" "$work/hook/overlay"
mkdir -p "$work/hook/overlay/usr/lib/tshyve"
cp "$here/spec/persistent-directories.txt" "$work/hook/overlay/usr/lib/tshyve/"
sed -i "s/@VERSION@/$version/g" "$work"/hook/overlay/usr/lib/tshyve/os-release.*
list masked-units.txt >"$work/hook/masked"
list enabled-units.txt >"$work/hook/enabled"
if [ "$arch" = arm64 ]; then
	# A kernel without KEYBOARD_GPIO: the power button of a machine that has no ACPI needs a listener of ours.
	cp -dR --preserve=mode,timestamps "$here/overlay-arm64/." "$work/hook/overlay/"
	compile "$here/init/power-key.c" "$work/hook/overlay/usr/lib/tshyve/power-key"
	echo tshyve-power-key.service >>"$work/hook/enabled"
fi
if [ -n "$flavour" ]; then
	list minikube/packages.txt >>"$work/packages"
	kernel=linux-image-$arch
	list minikube/trim-modules.txt >"$work/hook/trim-modules"
	cp -dR --preserve=mode,timestamps "$here/overlay-minikube/." "$work/hook/overlay/"
	cp -dR --preserve=mode,timestamps "$work/tools/." "$work/hook/overlay/"
	list minikube/go-tools.txt | cut -d' ' -f1,2 >"$work/hook/tools"
fi
# Git keeps no more of a mode than who may run it; the rest is of the umask it was checked out with.
chmod -R u=rwX,go=rX "$work/hook/overlay"
echo "$kernel" >"$work/hook/kernel"
echo "$arch" >"$work/hook/arch"
list trim.txt >"$work/hook/trim"
cp "$here/customize.sh" "$work/hook/customize.sh"
mkdir "$work/hook/out"
chmod -R go+rX "$work"
chmod go+rwx "$work/hook/out"
debootstrap=(mmdebstrap)
[ $foreign = no ] || debootstrap=("$here/foreign.sh" mmdebstrap --mode=root)
if ! "${debootstrap[@]}" --quiet --variant=essential --arch="$arch" \
	--aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--include="$(paste -sd, "$work/packages")" \
	--customize-hook="$work/hook/customize.sh \"\$1\" $work/hook" \
	"$suite" "$work/root.tar" ${TSHYVE_DEBIAN_MIRROR:+"$TSHYVE_DEBIAN_MIRROR"} >"$work/mmdebstrap.log" 2>&1; then
	tail -n 30 "$work/mmdebstrap.log" >&2
	echo "build.sh: mmdebstrap failed; the lines above say why" >&2
	exit 1
fi
kernel_version=$(cat "$work/hook/out/kernel-version")

phase 'squashfs'
mksquashfs - "$work/root.squashfs" -tar -quiet -no-progress -comp zstd -Xcompression-level 6 -b 128K -reproducible \
	<"$work/root.tar" >/dev/null

phase 'initrd'
initrd=$work/initrd
mkdir -p "$initrd/modules" "$work/kernel"
tar -xf "$work/hook/out/modules.tar" -C "$work/kernel"
compile "$here/init/init.c" "$initrd/init"
while read -r module; do
	modprobe -d "$work/kernel" -S "$kernel_version" --show-depends --ignore-install "$module" 2>/dev/null || true
done < <(list initrd-modules.txt) | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
	cp "$file" "$initrd/modules/"
	basename "$file" >>"$initrd/modules/order"
done
[ -s "$initrd/modules/order" ] || { echo "build.sh: no kernel modules found for $kernel_version" >&2; exit 1; }
archive() { (cd "$1" && find . -mindepth 1 -exec touch -hd "@$SOURCE_DATE_EPOCH" {} + && find . -mindepth 1 | sort | cpio --quiet --reproducible -R 0:0 -H newc -o); }
archive "$initrd" >"$work/initrd.small"
# The full initrd is the small one, then a second archive whose only file, the squashfs, starts on a page boundary so
# that it can be mounted where it lies inside the ISO.
header_size=$(printf 'root.squashfs' | wc -c)
header_size=$(((110 + header_size + 1 + 3) / 4 * 4))
small_size=$(stat -c %s "$work/initrd.small")
padding=$(((4096 - (small_size + header_size) % 4096) % 4096))
mkdir "$work/second"
ln "$work/root.squashfs" "$work/second/root.squashfs"
chmod 644 "$work/second/root.squashfs"
{
	cat "$work/initrd.small"
	head -c "$padding" /dev/zero
	archive "$work/second"
} >"$work/initrd.full"

phase 'ISO'
tree=$work/iso
mkdir -p "$tree/boot/grub" "$tree/EFI/BOOT"
cp "$work/hook/out/vmlinuz" "$tree/boot/bzimage"
mv "$work/initrd.full" "$tree/boot/initrd"
mv "$work/initrd.small" "$tree/boot/initrd.small"
command_line >"$tree/boot/cmdline"
cat >"$tree/boot/grub/grub.cfg" <<EOF
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
menuentry tshyve {
	linux /boot/bzimage $(command_line)
	initrd /boot/initrd
}
EOF
docker_version=$(awk '$1 == "docker.io" { print $2 }' "$work/hook/out/packages")
{
	printf '{\n  "version": "%s",\n  "architecture": "%s",\n  "kernel": "%s",\n  "docker": "%s",\n  "packages": {\n' \
		"$version" "$arch" "$kernel_version" "$docker_version"
	awk '{ printf "%s    \"%s\": \"%s\"", (NR > 1 ? ",\n" : ""), $1, $2 }' "$work/hook/out/packages"
	printf '\n  }\n}\n'
} >"$tree/boot/manifest.json"
cat >"$work/embedded.cfg" <<'EOF'
search --no-floppy --set=root --file /boot/bzimage
set prefix=($root)/boot/grub
configfile /boot/grub/grub.cfg
EOF
modules=(iso9660 part_gpt part_msdos search search_fs_file normal linux serial terminal configfile echo)
bios=()
if [ "$arch" = amd64 ]; then
	loader=BOOTX64.EFI
	grub-mkimage -O i386-pc -c "$work/embedded.cfg" -p /boot/grub -o "$work/core.img" biosdisk "${modules[@]}"
	cat /usr/lib/grub/i386-pc/cdboot.img "$work/core.img" >"$tree/boot/grub/bios.img"
	bios=(-b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table
		--grub2-mbr /usr/lib/grub/i386-pc/boot_hybrid.img -eltorito-alt-boot)
	grub-mkimage -O x86_64-efi -c "$work/embedded.cfg" -p /boot/grub -o "$tree/EFI/BOOT/$loader" "${modules[@]}"
else
	loader=BOOTAA64.EFI
	grub-mkimage -d "$work/hook/out/grub" -O arm64-efi -c "$work/embedded.cfg" -p /boot/grub \
		-o "$tree/EFI/BOOT/$loader" "${modules[@]}"
fi
truncate -s 4M "$work/efi.img"
touch -d "@$SOURCE_DATE_EPOCH" "$tree/EFI/BOOT/$loader"
mformat -i "$work/efi.img" -N 74736879 -v TSHYVE -h 64 -t 128 -s 1 ::
mmd -i "$work/efi.img" ::/EFI ::/EFI/BOOT
mcopy -m -i "$work/efi.img" "$tree/EFI/BOOT/$loader" ::/EFI/BOOT/
cp "$work/efi.img" "$tree/boot/grub/efi.img"
find "$tree" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
stamp=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S00)
xorriso -as mkisofs -quiet -R -J -V "b2d-v$version" --modification-date="$stamp" \
	--set_all_file_dates "$stamp" -uid 0 -gid 0 \
	"${bios[@]}" -e boot/grub/efi.img -no-emul-boot \
	-o "$work/$name.iso" "$tree" 2>"$work/xorriso.log" || { cat "$work/xorriso.log" >&2; exit 1; }

phase 'checksum'
sum=$(sha256sum "$work/$name.iso" | cut -d' ' -f1)
rm -f "$out/inputs$suffix"
cp "$tree/boot/manifest.json" "$out/manifest$suffix.json"
printf '%s  %s\n' "$sum" "$name.iso" >"$out/$name.iso.sha256"
cp "$work/$name.iso" "$out/.$name.iso.new"
mv "$out/.$name.iso.new" "$out/$name.iso"
echo "$inputs" >"$out/inputs$suffix"
phase
echo "Done in $SECONDS s: $out/$name.iso ($(($(stat -c %s "$out/$name.iso") / 1000000)) MB, kernel $kernel_version, docker $docker_version)"
