# shellcheck shell=bash
# Shared by the set-up scripts: messages, package installation. Sourced, not run.
bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
fail() {
	printf '%s\n' "$*" >&2
	exit 1
}

# Node is what this package is written for and must be there already.
need_node() {
	command -v node >/dev/null || fail 'Node.js 20.19 or newer is needed. Install it first, e.g. from your distribution or nodejs.org.'
	node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
		fail "Node.js 20.19 or newer is needed, this is $(node --version). Install a newer one."
}

# Installs what is missing of the given Debian packages, after saying so.
need_packages() {
	local missing=() package sudo=()
	command -v dpkg-query >/dev/null || fail "This script installs packages with apt, which this system lacks. Install by hand: $*"
	for package in "$@"; do
		dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || fail "Run this as root, or install: ${missing[*]}"
		sudo=(sudo)
	fi
	say "Installing with apt: ${missing[*]}"
	"${sudo[@]}" apt-get update -qq
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# shellcheck disable=SC2154 # root is set by the script that sources this
image_packages() { grep -v '^#' "$root/iso/build-packages.txt"; }

# What building the native core takes.
native_packages() { printf '%s\n' g++ cmake ninja-build pkg-config libslirp-dev; }

# Dependencies, native core and bundles of this checkout.
build_package() {
	say 'Installing npm packages and building'
	(cd "$root" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && npm run --silent build:native && npm run --silent build)
}
