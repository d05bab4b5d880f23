#!/usr/bin/env bash
# All tests, with everything they need. See README.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
tier=full
case ${1:-} in
-h | --help)
	cat <<'EOF'
Usage: scripts/test.sh [--fast | --lab | --firmware | --arm64 | --minikube | --kubernetes]

Installs what the tests need (with apt, as root or through sudo) and runs all of them: checks, unit tests, the real
docker-machine client, real machines, and in the lab (see test/lab/README.md) stock kernels and real machines on the native
core. Each option below runs a part, and nothing else:

  --fast        what boots no machine, without sanitizers (three minutes)
  --lab         all tests of the lab, of which a full run leaves some out (an hour)
  --firmware    boots images by EFI firmware (six minutes)
  --arm64       builds the arm64 guest image and boots it in emulation (ten minutes)
  --minikube    builds a minikube with our driver and its guest image, and drives machines with it (half an hour; Go 1.26)
  --kubernetes  builds Kubernetes for minikube's cache and starts nodes from it without a network (three quarters of an hour
                on a host that does nothing else, the first time an hour; Go 1.26)
EOF
	exit 0
	;;
--fast) tier=fast ;;
--lab) tier=lab ;;
--firmware | --arm64 | --minikube | --kubernetes) tier=${1#--} ;;
?*) fail "Unknown option $1; see scripts/test.sh --help" ;;
esac
trap 'exit 130' INT TERM
cd "$root"

need_node
mapfile -t packages < <(image_packages; native_packages)
packages+=(shellcheck openssh-server openssl faketime)
# The Homebrew formula.
packages+=(ruby)
# Shared networks.
packages+=(dnsmasq-base nftables iproute2 busybox passt slirp4netns systemd)
# The lab.
packages+=(make e2fsprogs)
# Guests of the other architecture.
packages+=(qemu-system-arm)
if [ "$tier" = arm64 ]; then
	mapfile -t -O ${#packages[@]} packages < <(grep -v '^#' iso/build-packages-arm64.txt)
	packages+=(qemu-efi-aarch64)
fi
[ "$tier" != firmware ] || packages+=(ovmf fdisk)
need_packages "${packages[@]}"
# Debian's Go is too old for minikube and Kubernetes, whose builds say so.
if ! command -v go >/dev/null && [ "$tier" != minikube ] && [ "$tier" != kubernetes ]; then need_packages golang-go; fi
build_package

results=()
failed=0
# Runs one step, keeps going when it fails.
step() {
	local label=$1 start=$SECONDS outcome=ok
	shift
	say "$label"
	"$@" || outcome=FAILED
	[ $outcome = ok ] || failed=$((failed + 1))
	results+=("$(printf '%-44s %-6s %4d s' "$label" "$outcome" $((SECONDS - start)))")
}
reports=$(mktemp -d)
vitest() {
	npx --no-install vitest run --project "$1" --reporter=default --reporter=json --outputFile.json="$reports/$1.json"
}

# The lab has one processor. It takes what the other steps leave, and is waited for at the end: guests of the end-to-end
# tests keep one of two busy for most of the time.
lab=''
start_lab() {
	# shellcheck disable=SC2016 # expanded by the other shell
	local script='{ echo 10 >/proc/self/autogroup; } 2>/dev/null; exec nice -n 10 test/lab/test.sh --short --reports "$1"'
	# A session of its own: what the scheduler weighs against each other are sessions, sched(7).
	setsid bash -c "$script" lab "$reports" >"$reports/lab.log" 2>&1 &
	lab=$!
}
finish_lab() {
	local outcome=0
	wait "$lab" || outcome=$?
	lab=''
	cat "$reports/lab.log"
	return $outcome
}
# shellcheck disable=SC2317 # called by the trap
finish() {
	[ -z "$lab" ] || kill -- "-$lab" 2>/dev/null || true
	rm -rf "$reports"
}
trap finish EXIT

if [ "$tier" = arm64 ]; then
	step 'arm64 guest image' iso/build.sh --arch arm64
	step 'arm64 guest' vitest arm64
	step 'image is reproducible' iso/check-reproducible.sh --arch arm64
elif [ "$tier" = firmware ]; then
	step 'guest image' iso/build.sh
	step 'Go clients' test/conformance/build.sh
	step 'images booted by firmware' vitest firmware
elif [ "$tier" = lab ]; then
	step 'guest image' iso/build.sh
	step 'Go clients' test/conformance/build.sh
	step 'lab machine' test/lab/build.sh
	step 'tests in the lab' test/lab/test.sh --reports "$reports"
elif [ "$tier" = minikube ]; then
	step 'minikube with the driver' integrations/minikube/build.sh --check
	step 'Go tests of the driver' go -C integrations/minikube test -trimpath ./...
	step 'guest image for minikube' iso/build.sh --minikube
	step 'image is reproducible' iso/check-reproducible.sh --minikube
	step 'minikube' vitest minikube
elif [ "$tier" = kubernetes ]; then
	step 'minikube with the driver' integrations/minikube/build.sh
	step 'Go tests of the images' go -C integrations/minikube test -trimpath ./seed/...
	step 'guest image for minikube' iso/build.sh --minikube
	step 'Kubernetes' vitest kubernetes
else
	step 'type check' npm run --silent typecheck
	step 'lint' npm run --silent lint
	step 'format' npm run --silent format:check
	step 'generated code is fresh' node scripts/generate-proto.mjs --check
	step 'shell scripts' shellcheck -x scripts/*.sh iso/*.sh test/conformance/*.sh test/bench/*.sh test/lab/*.sh test/lab/machine/*.sh test/firmware/*.sh \
		native/test/apple/*.sh integrations/minikube/*.sh integrations/minikube/seed/*.sh
	step 'unit tests' vitest unit
	native=()
	[ "$tier" != fast ] || native=(--fast)
	if [ "$tier" != fast ]; then
		step 'guest image' iso/build.sh
		step 'Go clients' test/conformance/build.sh
		step 'lab machine' test/lab/build.sh
	fi
	# Three fuzzers on two processors: a minute of each is what counts, and it saves two.
	FUZZ_JOBS=${FUZZ_JOBS:-3} step 'native core' scripts/test-native.sh "${native[@]}" --report "$reports/native.json"
	if [ "$tier" != fast ]; then
		# Not sooner: fuzzers leave nothing.
		start_lab
		step 'image is reproducible' iso/check-reproducible.sh
		step 'gob with a Go peer' vitest conformance
		step 'end-to-end tests' vitest e2e
		step 'tests in the lab, beside the others' finish_lab
	fi
fi

# Counts, then what failed, which otherwise is far up in the output.
mapfile -t told < <(node scripts/sum-up-reports.mjs "$reports")
read -r passed f skipped <<<"${told[0]}"
failed=$((failed + f))
say 'Summary'
printf '%s\n' "${results[@]}" "${told[@]:1}"
# In CI everything can run, so a skip there hides a fault.
if [ "${CI:-}" = true ] && [ "$skipped" -gt 0 ]; then
	echo "$skipped tests were skipped, which must not happen in CI"
	failed=$((failed + 1))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
