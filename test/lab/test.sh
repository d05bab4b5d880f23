#!/usr/bin/env bash
# Runs the lab's tests in the lab machine. See README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in
-h | --help)
	cat <<'EOT'
Usage: test/lab/test.sh [--short] [--reports DIR] [VITEST ARGUMENT...]

Builds the lab machine if needed, boots it, runs in it the tests of test/lab/inside and the end-to-end tests of
docker-machine, of suspending and of the tshyve command, here on the native core, each part in a boot of its own.
--short leaves out the newest kernel, all but the boots of the generic one, a test of all memory, most kills, shared folders,
vsock, and the end-to-end tests but those of docker-machine. --reports names the folder for vitest's JSON reports.
With further arguments there is one boot, and they go to vitest: -t PATTERN, or the name of a file to run only that, such as
test/e2e/suspend.test.ts. LAB_KERNEL names the only stock kernel to be booted, LAB_KILLS says how often a machine is killed
under a write load (default 10; 100 take a quarter of an hour).
EOT
	exit 0
	;;
esac
reports='' short=no
while :; do
	case ${1:-} in
	--short) short=yes ;;
	--reports)
		[ $# -ge 2 ] || { echo 'test.sh: --reports needs a folder' >&2; exit 2; }
		reports=$2
		shift
		;;
	*) break ;;
	esac
	shift
done
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
"$here/build.sh"
part=0 failed=0
# One boot of the lab machine: arguments for vitest. The emulation below loses a guest now and then (see README.md), which
# looks like a failed test: what fails is said, and has one more boot. The lab's own kernel may go down twice (125).
run() {
	local code again=0 down=0
	part=$((part + 1))
	while :; do
		code=0
		rm -f "$results/report.json"
		TSHYVE_HYPERVISOR=native "$here/run.sh" --timeout 2700 --results "$results" -- node node_modules/vitest/vitest.mjs run \
			--project lab --project e2e --reporter=verbose --reporter=json --outputFile.json=/results/report.json "$@" || code=$?
		case $code in
		0) break ;;
		125) [ $((down += 1)) -le 2 ] || break ;;
		124) break ;;
		*) [ $((again += 1)) -le 1 ] || break ;;
		esac
		echo "test.sh: PART $part ($*) FAILED WITH CODE $code, AND IS REPEATED IN A NEW LAB MACHINE" >&2
	done
	[ $code -eq 0 ] || failed=$code
	[ ! -e "$results/report.json" ] || [ -z "$reports" ] || mv "$results/report.json" "$reports/lab-$part.json"
}
if [ $# -gt 0 ]; then
	run "$@"
	exit "$failed"
fi
# Short parts: what a failed machine costs is its part.
if [ $short = yes ]; then
	export LAB_SHORT=1
	LAB_KILLS=${LAB_KILLS:-4}
	export LAB_KILLS
fi
while read -r kernel _; do
	[ $short = no ] || [ "$kernel" != cloud-6.12 ] || continue
	LAB_KERNEL=$kernel run test/lab/inside/stock-kernels.test.ts
done < <(grep -vE '^[[:space:]]*(#|$)' "$here/machine/stock-kernels.txt")
run test/lab/inside/hypervisors.test.ts test/lab/inside/tap.test.ts
run test/lab/inside/kill.test.ts
run test/e2e/docker-machine.test.ts
if [ $short = no ]; then
	run test/lab/inside/shares.test.ts test/lab/inside/vsock.test.ts
	run test/e2e/suspend.test.ts
	run test/e2e/tshyve.test.ts
fi
exit "$failed"
