#!/usr/bin/env bash
# Runs a command that may start arm64 programs. The emulator is registered with the kernel only for the user namespace
# made here, and is gone with it. Needs Linux 6.7, the first where binfmt_misc belongs to a user namespace
# (Documentation/admin-guide/binfmt-misc.rst); an older host has to register qemu-user-static itself.
set -euo pipefail
[ $# -gt 0 ] || { echo "Usage: iso/foreign.sh COMMAND [ARGUMENT...]" >&2; exit 2; }
[ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || exec "$@"
# shellcheck disable=SC2016 # expanded by the inner shell
inside='mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 70
grep "^:" /usr/lib/binfmt.d/qemu-aarch64.conf >/proc/sys/fs/binfmt_misc/register || exit 70
exec "$@"'
status=0
if [ "$(id -u)" -ne 0 ]; then
	unshare --user --map-root-user --map-auto --mount sh -c "$inside" sh "$@" || status=$?
else
	# Root may map all users as they are, without an entry in /etc/subuid; unshare itself would ask for one.
	ready=$(mktemp -d)
	trap 'rm -rf "$ready"' EXIT
	mkfifo "$ready/unshared" "$ready/mapped"
	# The namespace gives its capabilities to a program that starts once root is mapped, hence the second shell.
	# shellcheck disable=SC2016 # expanded by that shell
	unshare --user --mount sh -c 'echo >"$1/unshared"; read -r _ <"$1/mapped"; shift; inside=$1; shift; exec sh -c "$inside" sh "$@"' \
		sh "$ready" "$inside" "$@" &
	child=$!
	read -r _ <"$ready/unshared"
	echo '0 0 65536' >"/proc/$child/uid_map"
	echo '0 0 65536' >"/proc/$child/gid_map"
	echo >"$ready/mapped"
	wait "$child" || status=$?
fi
[ "$status" -ne 70 ] || echo "foreign.sh: this kernel has no binfmt_misc of its own for a user namespace (Linux 6.7). Register qemu-aarch64 on the host, e.g. with the package binfmt-support, and try again." >&2
exit "$status"
