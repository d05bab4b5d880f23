#!/usr/bin/env bash
# Packs what the lab machine works on (the built package, its sources, its tests, its guest image) into one disk image.
# Usage: test/lab/pack.sh IMAGE
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
image=$1
cd "$root"
for needed in dist/main.cjs iso/out/tshyve-amd64.iso test/conformance/bin/docker-machine node_modules/vitest native/build/addon/tshyve.node; do
	[ -e "$needed" ] || { echo "pack.sh: $needed is missing; run scripts/test.sh" >&2; exit 1; }
done
# The tests run one machine of ours as one process: with the core's own runner, and through driver/hypervisor.
cmake -DTSHYVE_TOOLS=ON native/build/addon >/dev/null
cmake --build native/build/addon --target tshyve_run >/dev/null
mkdir -p test/lab/runner/out
cp native/build/addon/tshyve_run test/lab/runner/out/
bundle() {
	node_modules/.bin/esbuild "$1" --bundle --platform=node --target=node20 --format=cjs --log-level=warning \
		--define:import.meta.url=tshyveModuleUrl --external:cpu-features \
		--external:'*.node' --outfile="$2" \
		--banner:js="const tshyveModuleUrl = require('node:url').pathToFileURL(__filename).href;"
}
bundle test/lab/runner/main.ts test/lab/runner/out/runner.cjs
bundle test/lab/bench/main.ts test/lab/runner/out/bench.cjs
bundle test/lab/bench/table.ts test/lab/runner/out/table.cjs
# Without what only builds and checks need. Not compressed, see build.sh.
rm -f "$image"
tar -c --exclude-vcs --exclude=./test/lab/out --exclude=./iso/work --exclude=./coverage \
	--exclude='./native/build*' --exclude='*.o' --exclude='*.a' \
	--exclude=./node_modules/.vite --exclude='./node_modules/@bufbuild/buf*' --exclude=./node_modules/dprint-node \
	--exclude=./node_modules/typescript --exclude='./node_modules/@typescript-eslint' --exclude='./node_modules/eslint*' \
	--exclude=./node_modules/prettier --exclude=./node_modules/ts-proto . |
	PATH=$PATH:/usr/sbin mksquashfs - "$image" -tar -quiet -no-progress -noI -noD -noF -noX >/dev/null
