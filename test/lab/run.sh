#!/usr/bin/env bash
# Boots the lab machine and runs a command in it. See README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
lab=$here/out
cpus=1 memory=9216 timeout=1500 results='' shell=no
usage() {
	cat <<EOF
Usage: test/lab/run.sh [OPTIONS] -- COMMAND [ARGUMENT...]
       test/lab/run.sh [OPTIONS] --shell

Boots a machine of QEMU's own processor emulation that has nested virtualization, with this checkout at /tshyve, and runs
COMMAND there as root. Its output and its exit code are this program's.

  --cpus N        processors (default $cpus)
  --memory MIB    memory (default $memory)
  --timeout S     seconds after which it is ended (default $timeout)
  --results DIR   where the files go that the command leaves in /results
  --shell         an interactive shell instead of a command

Exit code 125: the lab itself failed; 124: out of time. LAB_CONSOLE names a file for the console of a machine that failed.
EOF
}
fail() {
	printf 'run.sh: %s\n' "$*" >&2
	exit 125
}
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 needs a positive number, not \"$2\""; }
while [ $# -gt 0 ]; do
	case $1 in
	--cpus | --memory | --timeout | --results)
		[ $# -ge 2 ] || fail "$1 needs a value"
		case $1 in
		--cpus) number "$1" "$2" && cpus=$2 ;;
		--memory) number "$1" "$2" && memory=$2 ;;
		--timeout) number "$1" "$2" && timeout=$2 ;;
		--results) results=$2 ;;
		esac
		shift
		;;
	--shell) shell=yes ;;
	-h | --help)
		usage
		exit 0
		;;
	--)
		shift
		break
		;;
	*) fail "unknown option \"$1\"; see test/lab/run.sh --help" ;;
	esac
	shift
done
[ $# -gt 0 ] || [ $shell = yes ] || fail 'there is no command; see test/lab/run.sh --help'
[ -s "$lab/inputs" ] || fail 'the lab is not built: run test/lab/build.sh'
available=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
[ "$available" -gt "$memory" ] || fail "the lab wants $memory MiB of memory, $available MiB are free: give --memory less"

work=$(mktemp -d "${TMPDIR:-/tmp}/tshyve-lab.XXXXXX")
machine='' reader=''
# shellcheck disable=SC2317 # called by the trap
finish() {
	# "timeout" passes the signal on.
	if [ -n "$machine" ] && kill "$machine" 2>/dev/null; then wait "$machine" || true; fi
	[ -z "$reader" ] || kill "$reader" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

make --silent -C "$here/guest"
"$here/pack.sh" "$work/work.squashfs"
cp --sparse=always "$lab/scratch.img" "$work/scratch.img"
# The job: the caller's environment matters only where it speaks to the tests.
{
	env | sed -n 's/^\(CI\|TSHYVE_[A-Z_0-9]*\|LAB_[A-Z_0-9]*\)=.*/\1/p' | while read -r name; do
		printf 'export %s=%q\n' "$name" "${!name}"
	done
	printf 'exec'
	printf ' %q' "$@"
	echo
} >"$work/job"
touch "$work/console.log" "$work/status"

# TCG keeps the processors' time stamp counters in step, which the kernel cannot know (tsc=reliable).
# shellcheck disable=SC2054 # commas belong to QEMU
arguments=(
	-nodefaults -no-user-config -name tshyve-lab -display none -no-reboot
	-machine q35 -accel tcg,thread=multi,tb-size=1024 -cpu max,+svm,+npt,-vgif,-cx16,-la57,-pku,-pks
	-smp "$cpus" -m "$memory" -nic none
	-kernel "$lab/vmlinuz" -initrd "$lab/initrd"
	-append "console=ttyS0 quiet tsc=reliable mitigations=off random.trust_cpu=on panic=-1 net.ifnames=0"
	-serial "file:$work/console.log"
	-device virtio-rng-pci -fw_cfg "name=opt/lab/job,file=$work/job" -device virtio-serial-pci
)
disk() { arguments+=(-drive "if=none,id=$1,format=raw,file=$2,cache=unsafe,$3" -device "virtio-blk-pci,drive=$1"); }
disk root "$lab/root.squashfs" readonly=on
disk work "$work/work.squashfs" readonly=on
disk scratch "$work/scratch.img" discard=unmap
# The lab's own QEMU with its own libraries, whatever this host's Linux is.
libraries=$lab/qemu/lib/x86_64-linux-gnu:$lab/qemu/usr/lib/x86_64-linux-gnu
qemu=("$lab/qemu/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$libraries" "$lab/qemu/usr/bin/qemu-system-x86_64"
	-L "$lab/qemu/usr/share/qemu" -L "$lab/qemu/usr/share/seabios")
if [ $shell = yes ]; then
	"${qemu[@]}" "${arguments[@]}" -chardev stdio,id=shell,signal=off -device virtconsole,chardev=shell
	exit 0
fi
port() { arguments+=(-chardev "file,id=$1,path=$2" -device "virtserialport,chardev=$1,name=lab.$1"); }
mkfifo "$work/output"
port output "$work/output"
port results "$work/results.tar"
port status "$work/status"
cat "$work/output" &
reader=$!
timeout --kill-after=5 "$timeout" "${qemu[@]}" "${arguments[@]}" </dev/null &
machine=$!
ended=0
wait "$machine" || ended=$?
machine=''
wait "$reader" || true
reader=''
if [ -n "$results" ] && [ -s "$work/results.tar" ]; then
	mkdir -p "$results"
	tar -C "$results" -xf "$work/results.tar"
fi
code=$(tr -d '\n' <"$work/status")
if [[ ! $code =~ ^[0-9]+$ ]]; then
	echo 'run.sh: the lab machine gave no exit code; the end of its console:' >&2
	[ -z "${LAB_CONSOLE:-}" ] || cp "$work/console.log" "$LAB_CONSOLE"
	tail -n 20 "$work/console.log" >&2
	[ "$ended" -ne 124 ] || { echo "run.sh: it was ended after $timeout s (--timeout)" >&2; exit 124; }
	exit 125
fi
exit "$code"
