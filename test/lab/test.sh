#!/usr/bin/env bash
# Runs the lab's tests in the lab machine, in one boot of it. See README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in
-h | --help)
	cat <<EOF
Usage: test/lab/test.sh [--report FILE] [VITEST ARGUMENT...]

Builds the lab machine if needed, boots it, runs in it the tests of test/lab/inside and the end-to-end tests of
docker-machine, here on the native core. --report names the file for vitest's JSON report. Further arguments go to vitest:
-t PATTERN, or the name of a file to run only that, such as test/e2e/suspend.test.ts. LAB_KILLS says how often a machine is
killed under a write load (default 10; 100 take a quarter of an hour).
EOF
	exit 0
	;;
esac
report=''
if [ "${1:-}" = --report ]; then
	[ $# -ge 2 ] || { echo 'test.sh: --report needs a file' >&2; exit 2; }
	report=$2
	shift 2
fi
[ $# -gt 0 ] || set -- test/lab/inside test/e2e/docker-machine.test.ts
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
"$here/build.sh"
run() {
	TSHYVE_HYPERVISOR=native "$here/run.sh" --timeout 2700 --results "$results" -- node node_modules/vitest/vitest.mjs run \
		--project lab --project e2e --reporter=verbose --reporter=json --outputFile.json=/results/report.json "$@"
}
code=0
run "$@" || code=$?
# 125: the lab's own kernel went down, which it does now and then (see README.md); that says nothing about the tests.
if [ $code -eq 125 ]; then
	echo 'test.sh: the lab machine itself failed; trying again' >&2
	code=0
	run "$@" || code=$?
fi
[ -z "$report" ] || [ ! -e "$results/report.json" ] || cp "$results/report.json" "$report"
exit $code
