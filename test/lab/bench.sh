#!/usr/bin/env bash
# Figures of the native core beside QEMU's, in the lab machine; see README.md beside this file.
# Usage: test/lab/bench.sh [ROUNDS]; writes test/lab/out/bench.json.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/build.sh"
"$here/run.sh" --cpus 2 --results "$here/out" -- node test/lab/runner/out/bench.cjs "${1:-5}"
