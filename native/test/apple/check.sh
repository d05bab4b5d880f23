#!/usr/bin/env bash
# Checks the code for Macs on a system that has no SDK of Apple: see --help.
# shellcheck disable=SC2016 # Dollars of Objective-C and JavaScript stay as they are.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$(cd "$here/../.." && pwd)
out=$native/build/apple
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
	cat <<'EOT'
Usage: native/test/apple/check.sh [--report FILE]

Compiles everything of the native core that runs on a Mac, for arm64 and x86-64 and macOS 12, against the declarations
in native/test/apple/include, and links it against stubs made from them. Then it does the same with deliberate mistakes,
each of which has to be found. Needs clang, lld, llvm, libc++-14-dev, libc++abi-14-dev, musl-dev and zlib1g-dev.
  --report FILE  writes the number of checks that passed
EOT
	exit 0
fi
report=
[ "${1:-}" != --report ] || report=$2
fail() {
	printf '%s\n' "$*" >&2
	exit 1
}
libcxx=/usr/lib/llvm-14
[ -f $libcxx/include/c++/v1/__config_site ] || fail 'libc++ is missing: apt-get install libc++-14-dev libc++abi-14-dev'
multiarch=$(clang -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
musl=/usr/include/${multiarch%-gnu}-musl
[ -d "$musl" ] || fail 'the headers of a small C library are missing: apt-get install musl-dev'
command -v ld64.lld-14 >/dev/null || fail 'the linker for Macs is missing: apt-get install lld-14'

napi=$native/../node_modules
[ -f "$napi/node-addon-api/napi.h" ] || fail 'the headers of Node are missing: npm ci --ignore-scripts'

rm -rf "$out"
mkdir -p "$out/zlib"
# zlib alone of /usr/include, whose other headers are this system's.
for header in /usr/include/zlib.h /usr/include/zconf.h "/usr/include/$multiarch/zconf.h"; do
	[ ! -f "$header" ] || ln -sf "$header" "$out/zlib/"
done

# The C library's declarations are musl's, C++'s are LLVM's as on a Mac, Apple's are ours. A type check needs no more:
# no number of a header is in what it proves.
compile() {
	local arch=$1 source=$2 object=$3 language=()
	case $source in
	*.mm) language=(-fobjc-arc) ;;
	*/napi/*) language=(-DNAPI_VERSION=8 -DNAPI_DISABLE_CPP_EXCEPTIONS -DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
		-isystem "$napi/node-addon-api" -isystem "$napi/node-api-headers/include") ;;
	esac
	clang++ -std=c++20 -target "$arch-apple-macos12" "${language[@]}" -fno-rtti -D_GNU_SOURCE -nostdinc++ -nostdlibinc \
		-I"$native/src" -isystem "$here/include" -isystem "$out/zlib" -isystem $libcxx/include/c++/v1 -isystem "$musl" \
		-Wall -Wextra -Werror -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wunguarded-availability-new \
		-Wnullable-to-nonnull-conversion -Wobjc-designated-initializers -Wundeclared-selector -c "$source" -o "$object"
}

# What the linker may find, one stub for each library.
stub() {
	local name=$1 install=$2 classes=$3 symbols=$4
	cat >"$out/$name.tbd" <<EOT
--- !tapi-tbd
tbd-version: 4
targets: [ arm64-macos, x86_64-macos ]
install-name: '$install'
exports:
  - targets: [ arm64-macos, x86_64-macos ]
    symbols: [ $symbols ]
    objc-classes: [ $classes ]
...
EOT
}
# A list for YAML out of lines.
listed() { sort -u | sed "s/.*/'&'/" | paste -sd, -; }
classes() { sed -nE 's/.*@interface (\w+).*:.*/\1/p; s/.*@interface (NSObject).*/\1/p' "$@" | listed; }
functions() { grep -ohE "$1" "${@:2}" | sed -E 's/[ (]//g; s/^/_/' | listed; }
exported() { llvm-nm -D --defined-only "$@" 2>/dev/null | awk '{ sub(/@.*/, "", $NF); print "_" $NF }' | listed; }

include=$here/include
stub Foundation /System/Library/Frameworks/Foundation.framework/Versions/C/Foundation \
	"$(classes "$include/Foundation/Foundation.h")" \
	"$(functions '\b(CF(Equal|Release)|kCF\w+)\b' "$include/Foundation/Foundation.h"), ___CFConstantStringClassReference"
stub Security /System/Library/Frameworks/Security.framework/Versions/A/Security '' \
	"$(functions '\bSecTask(Create|Copy)\w+' "$include/Security/Security.h")"
stub vmnet /System/Library/Frameworks/vmnet.framework/Versions/A/vmnet '' \
	"$(functions '\bvmnet_network_\w*create\(' "$include/vmnet/vmnet.h")"
stub Virtualization /System/Library/Frameworks/Virtualization.framework/Versions/A/Virtualization \
	"$(classes "$include/Virtualization/Virtualization.h")" ''
stub libobjc /usr/lib/libobjc.A.dylib '' "$(printf '%s\n' _objc_msgSend _objc_msgSend_stret _objc_msgSendSuper2 _objc_alloc _objc_alloc_init \
	_objc_autorelease _objc_autoreleasePoolPop _objc_autoreleasePoolPush _objc_autoreleaseReturnValue _objc_begin_catch \
	_objc_end_catch _objc_destroyWeak _objc_enumerationMutation _objc_exception_rethrow _objc_initWeak \
	_objc_loadWeakRetained _objc_opt_class _objc_opt_isKindOfClass _objc_opt_self _objc_release _objc_retain \
	_objc_retainAutorelease _objc_retainAutoreleaseReturnValue _objc_retainAutoreleasedReturnValue _objc_retainBlock \
	_objc_storeStrong _objc_storeWeak _objc_terminate _objc_unsafeClaimAutoreleasedReturnValue _OBJC_EHTYPE_id \
	'_OBJC_EHTYPE_$_NSException' ___objc_personality_v0 __objc_empty_cache __objc_empty_vtable \
	_objc_ehtype_vtable _objc_copyWeak _objc_moveWeak _objc_opt_respondsToSelector _objc_opt_new | listed)"
stub libcxx /usr/lib/libc++.1.dylib '' \
	"$(exported $libcxx/lib/libc++.so.1 $libcxx/lib/libc++abi.so.1 "/usr/lib/$multiarch/libc++.so.1" "/usr/lib/$multiarch/libc++abi.so.1")"
# The C library that was compiled against, and what every program on a Mac finds in libSystem.
stub libSystem /usr/lib/libSystem.B.dylib '' \
	"$(llvm-nm --defined-only --extern-only "/usr/lib/${multiarch%-gnu}-musl/libc.a" 2>/dev/null |
		awk 'NF == 3 { print "_" $3 }' | listed), $(functions '\bdispatch_(async|queue_create)' "$include/dispatch/dispatch.h"), \
__NSConcreteStackBlock, __NSConcreteGlobalBlock, __Block_object_assign, __Block_object_dispose, _dyld_stub_binder, \
dyld_stub_binder, __Unwind_Resume, ___isPlatformVersionAtLeast, ___stack_chk_fail, ___stack_chk_guard"
stub node /usr/local/bin/node '' \
	"$(functions '\bnapi_\w+\(' "$napi"/node-api-headers/include/{js_native_api,node_api}.h)"
stub libz /usr/lib/libz.1.dylib '' "$(exported "/usr/lib/$multiarch/libz.so")"

link() {
	local arch=$1
	shift
	ld64.lld-14 -arch "$arch" -platform_version macos 12.0 15.0 -dylib -o "$out/core-$arch.dylib" "$@" "$out"/*.tbd
}

mapfile -t sources < <(
	find "$native/src/vz" -maxdepth 1 -name '*.cc' ! -name '*_test.cc' ! -name '*_fuzz.cc'
	find "$native/src/vz/apple" -name '*.mm'
	find "$native/src/napi" -name '*.cc' ! -name 'switch_*.cc'
	# What CMake takes of the core on a Mac.
	sed -nE 's/^  set\(core_sources (src.*)\)$/\1/p' "$native/CMakeLists.txt" | tr ' ' '\n' | sed "s|^|$native/|"
)
passed=0
for arch in arm64 x86_64; do
	objects=() jobs=()
	for source in "${sources[@]}"; do
		object=$out/$arch-$(basename "$source").o
		objects+=("$object")
		compile "$arch" "$source" "$object" &
		jobs+=($!)
		# Two at a time.
		if [ ${#jobs[@]} -eq 2 ]; then
			wait "${jobs[0]}" || fail "${arch}: the code for Macs does not compile"
			jobs=("${jobs[1]}")
		fi
	done
	for job in "${jobs[@]}"; do wait "$job" || fail "${arch}: the code for Macs does not compile"; done
	link "$arch" "${objects[@]}" || fail "${arch}: the code for Macs does not link"
	passed=$((passed + ${#sources[@]} + 1))
done

# The test of the test: each of these has to be found, by the message that belongs to it.
mistake() {
	local name=$1 file=$2 before=$3 after=$4 expected=$5 said
	# An apostrophe-safe replacement of text by text; a text that is not there would prove nothing.
	node -e '
		const { readFileSync, writeFileSync } = require("node:fs");
		const [from, to, before, after] = process.argv.slice(1);
		const text = readFileSync(from, "utf8");
		if (!text.includes(before)) { console.error(`${from} does not hold: ${before}`); process.exit(1); }
		writeFileSync(to, text.replace(before, () => after));' \
		"$native/src/vz/apple/$file" "$out/mistake.mm" "$before" "$after" || fail "The mistake \"$name\" cannot be made"
	if said=$(compile arm64 "$out/mistake.mm" "$out/mistake.o" 2>&1); then fail "The mistake \"$name\" was not found"; fi
	grep -qE "$expected" <<<"$said" || fail "The mistake \"$name\" was found, but as: $said"
	passed=$((passed + 1))
}
mistake 'a wrong selector' machine.mm 'pauseWithCompletionHandler:' 'pauseWithHandler:' \
	"no visible @interface for 'VZVirtualMachine' declares the selector"
mistake 'an argument of a wrong type' configuration.mm 'initWithURL:toFileURL(disk.path)' 'initWithURL:toNSString(disk.path)' \
	"cannot initialize a parameter of type 'NSURL \*"
mistake 'a value of a wrong class' configuration.mm 'configuration.storageDevices = disks' 'configuration.storageDevices = @""' \
	"assigning to 'NSArray|incompatible"
mistake 'a missing @available' configuration.mm 'if (@available(macOS 12.3, *)) {' 'if (true) {' \
	"'setBlockDeviceIdentifier:' is only available on macOS 12.3 or newer"
mistake 'an @available that is too old' configuration.mm 'if (@available(macOS 15.0, *)) {' 'if (@available(macOS 14.0, *)) {' \
	"'setNestedVirtualizationEnabled:|'nestedVirtualizationEnabled' is only available on macOS 15.0"
mistake 'a method that is missing in the delegate protocol' machine.mm '[delegate_ disconnect]' '[delegate_ hangUp]' \
	"declares the selector 'hangUp'"
mistake 'an initialiser that is not available' configuration.mm '[[VZSingleDirectoryShare alloc] initWithDirectory:directory]' \
	'[[VZSingleDirectoryShare alloc] init]' "'init' is unavailable"
mistake 'manual reference counting' machine.mm '[delegate_ disconnect];' '[delegate_ release];' "'release' is unavailable|ARC forbids explicit message send of 'release'"
mistake 'an object passed as a plain pointer' configuration.mm 'return platform;' 'void* p = platform; (void)p; return platform;' \
	"requires a bridged cast|cannot initialize"
# And by the linker: a function that nobody has written.
objects=()
for object in "$out"/arm64-*.o; do [[ $object == *kernel_image* ]] || objects+=("$object"); done
if said=$(link arm64 "${objects[@]}" 2>&1); then fail 'A function without a definition was not found'; fi
grep -qE 'undefined symbol: .*prepareKernel' <<<"$said" || fail "The linker complains of something else: $said"
passed=$((passed + 1))

echo "code for Macs: $passed checks passed in $SECONDS s"
[ -z "$report" ] || echo "$passed" >"$report"
