#!/usr/bin/env bash
# Figures of the native core beside QEMU's, in the lab machine; see README.md beside this file.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rounds=${1:-5}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || {
	cat <<'EOF'
Usage: test/lab/bench.sh [ROUNDS]

Measures in ROUNDS (default 5) boots of the lab machine, of about three minutes each, on a host that does nothing else: in
each two boots of a guest, its disk and its network, on the native core and on QEMU's microvm and q35 machines in turn.
Prints a table and writes test/lab/out/bench.json. A round in which the lab machine fails is repeated.
EOF
	[ "$rounds" = --help ] || [ "$rounds" = -h ] || exit 2
	exit 0
}
"$here/build.sh"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
trap 'exit 130' INT TERM
done=0 failures=0
# A boot for each round: with two processors the lab machine lives for ten minutes on average (README.md).
while [ $done -lt "$rounds" ]; do
	echo "Round $((done + 1)) of $rounds"
	if "$here/run.sh" --cpus 2 --timeout 420 --results "$results" -- node test/lab/runner/out/bench.cjs 2; then
		done=$((done + 1))
		mv "$results/figures.json" "$results/figures-$done.json"
	else
		[ $((failures += 1)) -le "$rounds" ] || { echo 'bench.sh: too many rounds failed' >&2; exit 1; }
		echo "bench.sh: round $((done + 1)) failed and is repeated" >&2
	fi
done
node "$here/runner/out/table.cjs" "$here/out/bench.json" "$results"/figures-*.json
