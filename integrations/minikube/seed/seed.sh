#!/usr/bin/env bash
# Fills minikube's cache with what a start of Kubernetes needs. See docs/minikube.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export LC_ALL=C
arch=amd64 home=${MINIKUBE_HOME:-$HOME} action=seed
usage() {
	cat <<'END'
Usage: integrations/minikube/seed/seed.sh [--minikube-home DIR] [--arch amd64|arm64] [--list]

Builds what `minikube start` would download for Kubernetes, out of Go modules and Debian packages at pinned versions, and
puts it where minikube looks: the programs kubelet, kubeadm and kubectl, and the container images. A start then needs no
network. The version is the default of the minikube that integrations/minikube/go.mod pins.

  --minikube-home DIR  as minikube's MINIKUBE_HOME (default: that variable, or ~): the cache is DIR/.minikube/cache, or
                       DIR/cache if DIR is called .minikube
  --arch ARCH          architecture of the guest (default: amd64)
  --list               say what belongs into the cache, what of it is there, and what cannot be built; and build nothing

The first run takes 15 to 30 minutes of two processors, 2 GB of memory and 6 GB of disk; the next one a few seconds, as
what was built is kept in ~/.cache/tshyve/kubernetes (TSHYVE_CACHE overrides ~/.cache/tshyve) and Go keeps the rest.
TSHYVE_SEED_JOBS limits how many compilers run at once. Needs Go (go.mod says which), mmdebstrap, and root or user
namespaces for it. TSHYVE_DEBIAN_MIRROR names a Debian mirror other than the default one.
END
}
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		usage
		exit 0
		;;
	--minikube-home)
		home=${2:?--minikube-home needs a folder}
		shift
		;;
	--arch)
		case ${2:-} in
		amd64 | arm64) arch=$2 ;;
		*) echo 'seed.sh: --arch needs amd64 or arm64' >&2; exit 2 ;;
		esac
		shift
		;;
	--list) action=list ;;
	*)
		echo "seed.sh: unknown option $1; see --help" >&2
		exit 2
		;;
	esac
	shift
done
if ! command -v go >/dev/null; then
	echo 'seed.sh: Go is missing. Install it: https://go.dev/dl (or apt install golang-go)' >&2
	exit 1
fi
case $(basename "$home") in
.minikube) target=$(realpath -m "$home")/cache ;;
*) target=$(realpath -m "$home")/.minikube/cache ;;
esac
# shellcheck source=integrations/minikube/release.sh
. "$here/../release.sh"
cache=${TSHYVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tshyve}/kubernetes
mkdir -p "$cache"
exec 9>"$cache/lock"
if ! flock -n 9; then
	echo 'Another seed.sh is at work; waiting for it'
	flock 9
fi
# The environment of the user must not change what is built.
go_flags=(-mod=readonly -trimpath -buildvcs=false)
[ -z "${TSHYVE_SEED_JOBS:-}" ] || go_flags+=(-p "$TSHYVE_SEED_JOBS")
run_go() { env GOFLAGS='' GOWORK=off GOEXPERIMENT='' GOAMD64=v1 GOARM64=v8.0 CGO_ENABLED=0 go "$@"; }
# What makes the images runs here; what goes into them, in the guest.
tool=$cache/images
(cd "$here/.." && run_go build "${go_flags[@]}" -ldflags "-X k8s.io/minikube/pkg/version.storageProvisionerVersion=$storage_provisioner_version" -o "$tool" ./seed/images)
kubernetes=$("$tool" version)
mapfile -t images < <("$tool" list)
programs=(kubeadm kubectl kubelet)
# What belongs into the cache, by its path there.
files=()
for program in "${programs[@]}"; do files+=("linux/$arch/$kubernetes/$program"); done
for image in "${images[@]}"; do files+=("images/$arch/${image//:/_}"); done
if [ "$action" = list ]; then
	for file in "${files[@]}"; do
		state=missing
		[ ! -s "$target/$file" ] || state=present
		printf '%-9s %s\n' "$state" "$target/$file"
	done
	# Only its publisher has these. A start with one node and --cni=bridge does without.
	"$tool" unavailable | while IFS=$'\t' read -r file purpose; do
		printf '%-9s %s (%s)\n' 'not ours' "$target/${file//ARCH/$arch}" "$purpose"
	done
	exit 0
fi

phase() {
	[ -z "${phase_name:-}" ] || printf '  %-58s %5d s\n' "$phase_name" $((SECONDS - phase_start))
	phase_name=${1:-}
	phase_start=$SECONDS
}
echo "Kubernetes $kubernetes for $arch into $target"
key=$({ find "$here" -type f ! -name '*_test.go' -print0 | sort -z | xargs -0 cat; cat "$here/../go.mod" "$here/../go.sum" "$here/../release.sh"; go env GOVERSION; echo "$arch"; } | sha256sum | cut -c1-32)
made=$cache/$key
if [ ! -e "$made/SHA256SUMS" ] || ! (cd "$made" && sha256sum --status -c SHA256SUMS); then
	work=$cache/new-$arch
	rm -rf "$work"
	mkdir -p "$work/bin" "$work/cache"
	# A program of each module, built with the versions that its authors chose. Linker flags as in their own builds.
	build() {
		local folder=$1 flags=$2 output=$3
		shift 3
		(cd "$folder" && GOOS=linux GOARCH=$arch run_go build "${go_flags[@]}" -ldflags "-s -w -buildid= $flags" -o "$work/bin/$output" "$@")
	}
	phase 'Kubernetes (by far the longest)'
	flags='' minor=${kubernetes#v1.}
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
		flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=tshyve"
	done
	build "$here/kubernetes" "$flags" '' tool
	phase 'etcd'
	build "$here/etcd" '' etcd go.etcd.io/etcd/server/v3
	phase 'CoreDNS'
	build "$here/coredns" '' coredns github.com/coredns/coredns
	phase 'storage provisioner, pause'
	build "$here/.." '' storage-provisioner ./seed/storage-provisioner
	build "$here/.." '' pause ./seed/pause
	phase 'iptables from Debian'
	if ! PATH=$PATH:/usr/sbin:/sbin command -v mmdebstrap >/dev/null; then
		echo 'seed.sh: mmdebstrap is missing. Install it: apt-get install --no-install-recommends mmdebstrap' >&2
		exit 1
	fi
	if ! PATH=$PATH:/usr/sbin:/sbin mmdebstrap --quiet --variant=extract --arch="$arch" --aptopt='APT::Install-Recommends "false"' --include=iptables \
		--dpkgopt='path-exclude=/usr/share/*' --dpkgopt='path-exclude=/usr/lib/*/gconv/*' \
		bookworm "$work/iptables.tar" ${TSHYVE_DEBIAN_MIRROR:+"$TSHYVE_DEBIAN_MIRROR"} >"$work/mmdebstrap.log" 2>&1; then
		tail -n 20 "$work/mmdebstrap.log" >&2
		echo 'seed.sh: mmdebstrap failed; the lines above say why' >&2
		exit 1
	fi
	phase 'container images'
	mkdir -p "$work/cache/linux/$arch/$kubernetes"
	for program in "${programs[@]}"; do mv "$work/bin/$program" "$work/cache/linux/$arch/$kubernetes/"; done
	"$tool" build --arch "$arch" --programs "$work/bin" --iptables-root "$work/iptables.tar" --out "$work/cache/images/$arch"
	phase
	# kubeadm has a list of its own, and would pull what minikube did not think of.
	if [ "$arch" = "$(go env GOHOSTARCH)" ] && [ "$(go env GOHOSTOS)" = linux ]; then
		while read -r image; do
			[ -e "$work/cache/images/$arch/${image//:/_}" ] || { echo "seed.sh: kubeadm wants the image $image, minikube does not" >&2; exit 1; }
		done < <("$work/cache/linux/$arch/$kubernetes/kubeadm" config images list --kubernetes-version "$kubernetes")
	fi
	(cd "$work/cache" && sha256sum "${files[@]}" >SHA256SUMS)
	rm -rf "$made"
	mv "$work/cache" "$made"
	rm -rf "$work"
fi
placed=0
while read -r sum file; do
	if [ "$(sha256sum "$target/$file" 2>/dev/null | cut -d' ' -f1)" = "$sum" ]; then continue; fi
	mkdir -p "$(dirname "$target/$file")"
	# Under another name first: minikube takes any file of the right name for whole.
	cp "$made/$file" "$target/$file.new"
	mv "$target/$file.new" "$target/$file"
	placed=$((placed + 1))
done <"$made/SHA256SUMS"
echo "$placed of ${#files[@]} files placed, the others were there: $(cd "$target" && du -ch "${files[@]}" | tail -n 1 | cut -f1) in all"
