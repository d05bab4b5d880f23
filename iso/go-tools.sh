#!/usr/bin/env bash
# Builds the Go programs of the minikube image (spec/minikube/go-tools.txt) into a tree that goes over the guest's root.
# The same Go release makes the same bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 2 ] || { echo "Usage: iso/go-tools.sh amd64|arm64 DIR" >&2; exit 2; }
arch=$1 out=$2
list=$here/spec/minikube/go-tools.txt
needed=1.26.6 # by the newest of them
go=$(go env GOVERSION 2>/dev/null) || go=none
if [ "$(printf '%s\n' "go$needed" "$go" | sort -V | head -n 1)" != "go$needed" ]; then
	echo "go-tools.sh: the minikube image needs Go $needed or newer (found: $go): https://go.dev/dl" >&2
	exit 1
fi
# What is built with the same Go release from the same list is kept.
cache=${TSHYVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tshyve}/go-tools
key=$({ sha256sum <"$list"; sha256sum <"${BASH_SOURCE[0]}"; echo "$go $arch"; } | sha256sum | cut -c1-32)
mkdir -p "$cache" "$out"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$cache/$key" ]; then
	work=$(mktemp -d "$cache/new.XXXXXX")
	trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
	mkdir "$work/root"
	while read -r module version sum folder flags packages; do
		field() { sed -n "s/^\t\"$1\": \"\(.*\)\",\{0,1\}$/\1/p" <<<"$downloaded"; }
		downloaded=$(go mod download -json "$module@$version") || { field Error >&2; exit 1; }
		if [ "$(field Sum)" != "$sum" ]; then
			echo "go-tools.sh: $module $version has the hash $(field Sum), not $sum" >&2
			exit 1
		fi
		# A copy, as Go does not build a main module inside of its cache.
		cp -r --no-preserve=mode "$(field Dir)" "$work/source"
		mkdir -p "$work/root/$folder"
		read -ra packages <<<"$packages"
		(cd "$work/source" && CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' GOWORK=off GOEXPERIMENT='' \
			go build -trimpath -buildvcs=false -mod=readonly -ldflags "-s -w -buildid= $flags" -o "$work/root/$folder/" "${packages[@]}")
		rm -rf "$work/source"
	done < <(grep -v '^#' "$list")
	chmod -R u=rwX,go=rX "$work/root"
	mv "$work/root" "$cache/$key"
fi
cp -R "$cache/$key/." "$out/"
