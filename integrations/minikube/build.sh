#!/usr/bin/env bash
# Builds a minikube that has the driver tshyve. See docs/minikube.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
output=$here/out/minikube-tshyve
check=false
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		cat <<'EOF'
Usage: integrations/minikube/build.sh [--output FILE] [--check]

Builds minikube-tshyve: minikube of the release that go.mod pins, with the driver tshyve. Needs Go (go.mod says which)
and, the first time, the network for Go modules. A first build takes some minutes, another one only what has changed.

  --output FILE  where to put it (default: integrations/minikube/out/minikube-tshyve)
  --check        also check that patch/tshyve.patch is what this build used, and that git can apply it

The source comes from Go's module cache. It is copied to ~/.cache/tshyve/minikube (TSHYVE_CACHE overrides
~/.cache/tshyve), where the program in compose/ adds our lines and packages. It stops when minikube's source is not as
expected. The patch it used is written to patch/tshyve.patch.
EOF
		exit 0
		;;
	--output)
		output=$(realpath -m "${2:?--output needs a file}")
		shift
		;;
	--check) check=true ;;
	*)
		echo "build.sh: unknown option $1; see --help" >&2
		exit 2
		;;
	esac
	shift
done
if ! command -v go >/dev/null; then
	echo "build.sh: Go is missing. Install it: https://go.dev/dl (or apt install golang-go)" >&2
	exit 1
fi
# shellcheck source=integrations/minikube/release.sh
. "$here/release.sh"
cd "$here"
version=$(go list -m -f '{{.Version}}' k8s.io/minikube)
go mod download k8s.io/minikube
original=$(go list -m -f '{{.Dir}}' k8s.io/minikube)
cache=${TSHYVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tshyve}/minikube
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
# Always from a clean copy, so that nothing of a former build stays. Go knows unchanged files by their content.
source=$cache/source
rm -rf "$source"
mkdir "$source"
tar -C "$original" -c --exclude=./site --exclude=./images cmd pkg deploy translations third_party test go.mod go.sum | tar -C "$source" -x --no-same-permissions
chmod -R u+w "$source"
if $check; then
	cp -r "$source" "$cache/check"
	trap 'rm -rf "$cache/check"' EXIT
fi
patch=$here/patch/tshyve.patch
if $check; then patch=$cache/tshyve.patch; fi
go run ./compose "$source" "$here" "$patch"
if $check; then
	if ! cmp -s "$patch" "$here/patch/tshyve.patch"; then
		echo "build.sh: patch/tshyve.patch is not fresh; run build.sh and commit what it writes" >&2
		exit 1
	fi
	(cd "$cache/check" && GIT_CEILING_DIRECTORIES=$cache git apply --unidiff-zero "$patch")
	diff -r "$source" "$cache/check"
fi
mkdir -p "$(dirname "$output")"
pkg=k8s.io/minikube/pkg/version
tags=()
# Lets minikube's KVM driver find libvirt when it runs, as upstream's own build does.
if [ "$(go env GOOS)" = linux ] && command -v "$(go env CC)" >/dev/null; then tags=(-tags libvirt_dlopen); else export CGO_ENABLED=0; fi
cd "$source"
GOFLAGS="${GOFLAGS:-} -buildvcs=false" go build "${tags[@]}" -trimpath -ldflags "-s -w -X $pkg.version=$version -X $pkg.isoVersion=$iso_version -X $pkg.gitCommitID=tshyve -X $pkg.storageProvisionerVersion=$storage_provisioner_version" -o "$output" ./cmd/minikube
echo "$output"
