#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to a running Docker machine. See README.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
name=dev
case ${1:-} in
-h | --help)
	cat <<'EOF'
Usage: scripts/main-job.sh [NAME]

Installs what tshyve needs (with apt, as root or through sudo), builds it and its guest image, links its programs onto
the PATH, creates a machine (default name: dev) and shows its "docker version". May be repeated: what is there is kept.
EOF
	exit 0
	;;
-*) fail "Unknown option $1; see scripts/main-job.sh --help" ;;
?*) name=$1 ;;
esac
trap 'exit 130' INT TERM

need_node
mapfile -t packages < <(image_packages; native_packages)
need_packages "${packages[@]}"
build_package
say 'Guest image'
"$root/iso/build.sh"

bin=$HOME/.local/bin
[ "$(id -u)" -ne 0 ] || bin=/usr/local/bin
mkdir -p "$bin"
for program in tshyve docker-machine-driver-tshyve tshyve-vmm; do ln -sf "$root/dist/$program.cjs" "$bin/$program"; done
say "Linked tshyve and docker-machine-driver-tshyve into $bin"
case :$PATH: in *":$bin:"*) ;; *)
	echo "    $bin is not on your PATH; add it: export PATH=\"$bin:\$PATH\""
	PATH=$bin:$PATH
	;;
esac

say "Machine \"$name\""
if tshyve ls -q | grep -qxF "$name"; then
	echo "    It exists already."
	[ "$(tshyve status "$name")" = running ] || tshyve start "$name"
else
	tshyve create "$name"
fi

say 'docker version, inside the machine'
tshyve ssh "$name" docker version
if command -v docker >/dev/null; then
	say 'docker version, from this host over TLS'
	(eval "$(tshyve env --shell bash "$name")" && docker version)
fi
say 'What next'
cat <<EOF
    tshyve ssh $name                       log in
    eval "\$(tshyve env $name)"             point a docker client of this host at it
    tshyve ls | stop $name | start $name | rm $name
EOF
if command -v docker-machine >/dev/null; then
	echo '    docker-machine create -d tshyve other  the same with docker-machine'
fi
