#!/usr/bin/env bash
# Tests of the native core: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"
native=$root/native
build=$native/build
tier=default
fuzz_seconds=60
targets=()
report=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help)
		cat <<'EOT'
Usage: scripts/test-native.sh [--fast | --full] [--report FILE] [--fuzz TARGET]...

Builds and tests native/src: formatting, unit tests as built by GCC, by clang with the address and undefined-behaviour
sanitizers and by clang with the thread sanitizer, the type check of the code for Macs, line coverage, and every fuzz
target for 60 s.
  --fast         formatting and the unit tests as built by GCC
  --full         fuzzes for 10 minutes each
  --report FILE  writes the numbers of unit tests as JSON
  --fuzz TARGET  runs nothing but this fuzz target, e.g. queue_fuzz; may be repeated
FUZZ_SECONDS sets the time per fuzz target, FUZZ_JOBS how many run at a time (default 2), FUZZ_KEEP=1 merges what fuzzers
learnt into native/corpus.
EOT
		exit 0
		;;
	--fast) tier=fast ;;
	--full) tier=full fuzz_seconds=600 ;;
	--report) report=$(realpath "$2") && shift ;;
	--fuzz) targets+=("$2") tier=fuzz && shift ;;
	*) fail "Unknown option $1; see scripts/test-native.sh --help" ;;
	esac
	shift
done
fuzz_seconds=${FUZZ_SECONDS:-$fuzz_seconds}
fuzz_jobs=${FUZZ_JOBS:-2}
[[ $fuzz_seconds =~ ^[1-9][0-9]*$ && $fuzz_jobs =~ ^[1-9][0-9]*$ ]] || fail 'FUZZ_SECONDS and FUZZ_JOBS are positive numbers'
trap 'exit 130' INT TERM

packages=(libgtest-dev libgmock-dev acpica-tools qemu-system-common clang-format zlib1g-dev)
[ $tier = fast ] || packages+=(clang libclang-rt-14-dev llvm)
# What stands in for an SDK of Apple.
[ $tier = fast ] || packages+=(lld-14 libc++-14-dev libc++abi-14-dev musl-dev)
mapfile -t -O ${#packages[@]} packages < <(native_packages)
need_packages "${packages[@]}"

# Builds one flavour: name, compiler, CMake arguments.
flavour() {
	local name=$1 cc=$2 cxx=$3
	shift 3
	CC=$cc CXX=$cxx cmake -S "$native" -B "$build/$name" -G Ninja -DTSHYVE_TESTS=ON "$@" >/dev/null
	# Only the last line of progress, but all of what compilers say.
	NINJA_STATUS='[%f/%t] ' cmake --build "$build/$name" -- -k 0 >"$build/$name.log" 2>&1 || {
		grep -v '^\[' "$build/$name.log" >&2 || true
		fail "The flavour $name does not build; see $build/$name.log"
	}
}
passed=0
# Runs the unit tests of a flavour and counts them.
unit_tests() {
	local name=$1 start=$SECONDS count
	"$build/$name/tshyve_tests" --gtest_brief=1 --gtest_output="json:$build/$name.json" >"$build/$name.out" 2>&1 || {
		cat "$build/$name.out" >&2
		fail "Unit tests of the native core fail ($name)"
	}
	count=$(node -p 'const r = require(process.argv[1]); r.tests - r.disabled' "$build/$name.json")
	if grep -q '"result": "SKIPPED"' "$build/$name.json"; then
		grep -B 12 '"result": "SKIPPED"' "$build/$name.json" | grep '"name"'
		[ "${CI:-}" != true ] || fail 'Unit tests were skipped, which must not happen in CI'
	fi
	passed=$((passed + count))
	echo "$name: $count unit tests passed in $((SECONDS - start)) s"
}
sources() { find "$native/src" "$native/test/apple/include" -name '*.cc' -o -name '*.mm' -o -name '*.h' | sort; }

mkdir -p "$build"
small=(-DCMAKE_BUILD_TYPE=Test '-DCMAKE_CXX_FLAGS_TEST=-O1 -gline-tables-only' '-DCMAKE_C_FLAGS_TEST=-O1')
if [ $tier != fuzz ]; then
	say 'Format of C++'
	sources | xargs clang-format --dry-run --Werror
	say 'Unit tests of the native core, GCC'
	flavour gcc gcc g++ '-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -g1'
	unit_tests gcc
fi
if [ $tier != fast ]; then
	say 'Building with the address and undefined-behaviour sanitizers'
	flavour asan clang clang++ "${small[@]}" -DTSHYVE_SANITIZE=address,undefined -DTSHYVE_FUZZERS=ON -DTSHYVE_COVERAGE=ON
fi
if [ $tier = default ] || [ $tier = full ]; then
	say 'Unit tests of the native core, sanitizers'
	rm -f "$build"/asan-*.profraw
	LLVM_PROFILE_FILE=$build/asan-%p.profraw unit_tests asan
	flavour tsan clang clang++ "${small[@]}" -DTSHYVE_SANITIZE=thread
	unit_tests tsan
	say 'Type check of the code for Macs'
	"$native/test/apple/check.sh" --report "$build/apple.count"
	passed=$((passed + $(cat "$build/apple.count")))
	say 'Line coverage of native/src by unit tests'
	llvm-profdata merge -sparse "$build"/asan-*.profraw -o "$build/asan.profdata"
	rm -f "$build"/asan-*.profraw
	(cd "$native/src" && llvm-cov report "$build/asan/tshyve_tests" -instr-profile="$build/asan.profdata" \
		-ignore-filename-regex='(_test|_fuzz)\.cc$|/testing/|test_images\.h$|^/usr/' -show-region-summary=false \
		-show-branch-summary=false) | tee "$build/coverage.txt" | cut -c1-200
	awk '$1 == "TOTAL" { print "Line coverage of native/src: " $(NF) }' "$build/coverage.txt"
fi

# One fuzz target; what it said is shown only if it found something.
fuzz() {
	local target=$1 corpus=$native/corpus/$1 learnt=$build/fuzz/$1 log=$build/fuzz/$1.log
	mkdir -p "$learnt" "$corpus"
	if ! LLVM_PROFILE_FILE=/dev/null "$build/asan/$target" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 \
		-print_final_stats=1 -artifact_prefix="$build/fuzz/$target-" "$learnt" "$corpus" >"$log" 2>&1; then
		tail -n 60 "$log" >&2
		echo "$target found a fault; run it on the file named above" >&2
		return 1
	fi
	if [ "${FUZZ_KEEP:-}" = 1 ]; then
		LLVM_PROFILE_FILE=/dev/null "$build/asan/$target" -merge=1 "$corpus" "$learnt" >>"$log" 2>&1
	fi
	awk -v target="$target" '/number_of_executed_units/ { runs = $2 } / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
		END { printf "%-24s %10d inputs, %5d places reached\n", target, runs, cov }' "$log"
}
if [ $tier != fast ]; then
	if [ ${#targets[@]} -eq 0 ]; then
		mapfile -t targets < <(find "$native/src" -name '*_fuzz.cc' -printf '%f\n' | sed 's/\.cc$//' | sort)
	fi
	say "Fuzzing ${#targets[@]} targets, $fuzz_seconds s each, $fuzz_jobs at a time"
	rm -rf "$build/fuzz"
	mkdir -p "$build/fuzz"
	export -f fuzz
	export native build fuzz_seconds
	printf '%s\n' "${targets[@]}" | xargs -P "$fuzz_jobs" -I '{}' bash -c 'fuzz {}'
fi
if [ -n "$report" ]; then
	printf '{ "numPassedTests": %d, "numFailedTests": 0, "numPendingTests": 0 }\n' "$passed" >"$report"
fi
