#!/usr/bin/env bash
# Builds the real Go clients that the tests drive, unmodified, from their published modules.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rancher=
case ${1:-} in
-h | --help)
	cat <<'EOT'
Usage: test/conformance/build.sh [--rancher-machine DIR]

Builds docker-machine 0.16.2, an idle plugin of its own code and gobpeer into test/conformance/bin. Needs Go 1.19 or
newer. --rancher-machine builds that client too, from a checkout of github.com/rancher/machine in DIR (Go 1.26): its
published module cannot be had from every module proxy, so the tests of that client are left out without it.
EOT
	exit 0
	;;
--rancher-machine)
	rancher=${2:-}
	[ -d "$rancher/cmd/rancher-machine" ] || {
		echo "build.sh: --rancher-machine needs the folder of a checkout of rancher/machine" >&2
		exit 2
	}
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
[ -z "$rancher" ] || (cd "$rancher" && go build -trimpath -o "$here/bin/rancher-machine" ./cmd/rancher-machine)
echo "Built in $((SECONDS - start)) s: $("$here/bin/docker-machine" --version 2>/dev/null)"
