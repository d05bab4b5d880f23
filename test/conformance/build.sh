#!/usr/bin/env bash
# Builds the real Go clients that the tests drive, unmodified, from their published modules.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in
-h | --help)
	echo "Usage: test/conformance/build.sh"
	echo "Builds docker-machine 0.16.2, an idle plugin of its own code and gobpeer into test/conformance/bin. Needs Go 1.19 or newer."
	exit 0
	;;
?*)
	echo "build.sh: unknown argument $1; see --help" >&2
	exit 2
	;;
esac
command -v go >/dev/null || {
	echo "build.sh: Go is missing. Install Go 1.19 or newer (Debian: golang-go)." >&2
	exit 1
}
mkdir -p "$here/bin"
start=$SECONDS
echo "Building docker-machine (a minute or two on the first run)"
(cd "$here/docker-machine" && go build -trimpath -o "$here/bin/docker-machine" github.com/docker/machine/cmd/docker-machine)
(cd "$here/docker-machine" && go build -trimpath -o "$here/bin/docker-machine-driver-idle" ./idleplugin)
(cd "$here/gobpeer" && go build -trimpath -o "$here/bin/gobpeer" .)
echo "Built in $((SECONDS - start)) s: $("$here/bin/docker-machine" --version 2>/dev/null)"
