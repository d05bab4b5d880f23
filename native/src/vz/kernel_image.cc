#include "vz/kernel_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/unique_fd.h"

namespace tshyve::vz {
namespace {

constexpr std::size_t kArm64MagicOffset = 0x38;
constexpr std::size_t kArm64HeaderBytes = 64;
constexpr std::size_t kSetupMagicOffset = 0x202;
constexpr std::size_t kZbootPayloadOffset = 8;
constexpr std::size_t kZbootPayloadSize = 12;
constexpr std::size_t kZbootCompression = 24;
constexpr std::size_t kZbootHeaderBytes = 64;
/// zlib: 15 bits of window, and a gzip header.
constexpr int kGzipWindow = 15 + 16;

bool has(std::span<const std::byte> file, std::size_t offset, std::string_view text) {
  return file.size() >= offset + text.size() && std::memcmp(file.data() + offset, text.data(), text.size()) == 0;
}

std::uint32_t word(std::span<const std::byte> file, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value |= std::to_integer<std::uint32_t>(file[offset + i]) << (8 * i);
  return value;
}

Error corrupt(const std::string& name, const std::string& why) {
  return {ErrorCode::kCorrupt, "the kernel " + name + " " + why};
}

Error unsupported(const std::string& name, const std::string& why) {
  return {ErrorCode::kUnsupported, "the kernel " + name + " " + why};
}

/// Owns the state of zlib.
class Inflater {
 public:
  Inflater() { ready_ = inflateInit2(&stream_, kGzipWindow) == Z_OK; }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  ~Inflater() {
    if (ready_) inflateEnd(&stream_);
  }
  [[nodiscard]] bool ready() const { return ready_; }
  z_stream& stream() { return stream_; }

 private:
  z_stream stream_{};
  bool ready_ = false;
};

/// The first member of a gzip file; what follows it is padding.
Result<std::vector<std::byte>> gunzip(std::span<const std::byte> packed, const std::string& name) {
  Inflater inflater;
  if (!inflater.ready()) return Error{ErrorCode::kHost, "zlib has no memory to unpack the kernel " + name};
  z_stream& stream = inflater.stream();
  std::vector<std::byte> out;
  std::size_t used = 0;
  int status = Z_OK;
  // zlib takes non-const input and does not write to it.
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
  std::size_t left = packed.size();
  while (status == Z_OK) {
    if (stream.avail_in == 0 && left > 0) {
      const auto piece = std::min<std::size_t>(left, std::numeric_limits<uInt>::max());
      stream.avail_in = static_cast<uInt>(piece);
      left -= piece;
    }
    if (used == out.size()) {
      if (out.size() >= kMaxKernelBytes) {
        return corrupt(name, "unpacks to more than " + std::to_string(kMaxKernelBytes >> 20) + " MiB");
      }
      out.resize(std::min(kMaxKernelBytes, std::max<std::size_t>(out.size() * 2, std::size_t{1} << 20)));
    }
    const auto room = static_cast<uInt>(out.size() - used);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + used);
    stream.avail_out = room;
    status = inflate(&stream, Z_NO_FLUSH);
    used += room - stream.avail_out;
    // Neither input nor progress: the file ends too early.
    if (status == Z_BUF_ERROR && stream.avail_out == 0) status = Z_OK;
  }
  if (status == Z_MEM_ERROR) return Error{ErrorCode::kHost, "zlib has no memory to unpack the kernel " + name};
  if (status == Z_BUF_ERROR) return corrupt(name, "ends in the middle of its compressed part: get it again");
  if (status != Z_STREAM_END) return corrupt(name, "does not unpack: its compressed part is damaged. Get it again");
  out.resize(used);
  return out;
}

/// The compressed kernel inside of an EFI zboot image.
Result<std::span<const std::byte>> zbootPayload(std::span<const std::byte> file, const std::string& name) {
  if (file.size() < kZbootHeaderBytes) return corrupt(name, "is cut short");
  const std::uint64_t offset = word(file, kZbootPayloadOffset);
  const std::uint64_t size = word(file, kZbootPayloadSize);
  std::string kind;
  for (std::size_t i = kZbootCompression; i < kArm64MagicOffset && file[i] != std::byte{0}; ++i) {
    const auto c = std::to_integer<unsigned char>(file[i]);
    kind += c > ' ' && c <= '~' ? static_cast<char>(c) : '?';
  }
  if (kind != "gzip") {
    return unsupported(name, "is compressed by \"" + kind +
                                 "\", which cannot be unpacked here; use a kernel with gzip, or an uncompressed Image");
  }
  if (offset < kZbootHeaderBytes || size == 0 || offset + size > file.size()) {
    return corrupt(name, "says that its compressed part lies outside of the file");
  }
  return file.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
}

Result<std::vector<std::byte>> unpackForArm64(std::span<const std::byte> file, const std::string& name) {
  std::span<const std::byte> packed = file;
  switch (identifyKernel(file)) {
    case KernelFormat::kArm64Image:
      return std::vector<std::byte>{};
    case KernelFormat::kGzip:
      break;
    case KernelFormat::kZboot: {
      TSHYVE_TRY(packed, zbootPayload(file, name));
      break;
    }
    case KernelFormat::kBzImage:
      return unsupported(name, "is for Intel processors, and this Mac has Apple silicon: use an arm64 image");
    case KernelFormat::kElf:
      return unsupported(name, "is an ELF file; macOS boots the file arch/arm64/boot/Image of a kernel build");
    case KernelFormat::kOtherCompression:
      return unsupported(name, "is compressed in a way that cannot be unpacked here: unpack it, or use one with gzip");
    case KernelFormat::kUnknown:
      return unsupported(name, "is not a Linux kernel for arm64: it has no header that says so");
  }
  TSHYVE_TRY(auto unpacked, gunzip(packed, name));
  if (identifyKernel(unpacked) != KernelFormat::kArm64Image) {
    return unsupported(name, "holds, unpacked, no Linux kernel for arm64");
  }
  return unpacked;
}

/// @param size how large a file is read at most; a larger one is no kernel
Result<std::vector<std::byte>> readWhole(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("cannot open the kernel " + path);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return Error::fromErrno("cannot read the kernel " + path);
  if (!S_ISREG(info.st_mode) || info.st_size <= 0) return corrupt(path, "is not a file, or empty");
  if (static_cast<std::uint64_t>(info.st_size) > kMaxKernelBytes) return corrupt(path, "is too large to be one");
  std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Error::fromErrno("cannot read the kernel " + path);
    if (got == 0) return corrupt(path, "was cut short while it was read");
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

Result<void> writeWhole(const std::string& path, std::span<const std::byte> bytes) {
  const std::string temporary = path + ".tmp";
  const std::string what = "cannot write the unpacked kernel " + path;
  UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return Error::fromErrno(what);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const Error error = Error::fromErrno(what);
      ::unlink(temporary.c_str());
      return error;
    }
    done += static_cast<std::size_t>(put);
  }
  fd.reset();
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = Error::fromErrno(what);
    ::unlink(temporary.c_str());
    return error;
  }
  return {};
}

}  // namespace

KernelFormat identifyKernel(std::span<const std::byte> file) {
  using std::string_view_literals::operator""sv;
  if (file.size() >= kArm64HeaderBytes && has(file, kArm64MagicOffset, "ARM\x64")) return KernelFormat::kArm64Image;
  if (has(file, 0, "MZ") && has(file, 4, "zimg")) return KernelFormat::kZboot;
  if (has(file, kSetupMagicOffset, "HdrS")) return KernelFormat::kBzImage;
  if (has(file, 0, "\x1f\x8b\x08")) return KernelFormat::kGzip;
  if (has(file, 0,
          "\x7f"
          "ELF"))
    return KernelFormat::kElf;
  // zstd, xz, bzip2, lz4 (both framings), lzma.
  constexpr std::array kOthers = {"\x28\xb5\x2f\xfd"sv, "\xfd\x37zXZ\0"sv,    "BZh"sv,
                                  "\x04\x22\x4d\x18"sv, "\x02\x21\x4c\x18"sv, "\x5d\0\0"sv};
  const bool other = std::any_of(kOthers.begin(), kOthers.end(), [&](auto magic) { return has(file, 0, magic); });
  return other ? KernelFormat::kOtherCompression : KernelFormat::kUnknown;
}

Result<std::vector<std::byte>> unpackKernel(std::span<const std::byte> file, Processor processor,
                                            const std::string& name) {
  if (processor == Processor::kArm64) return unpackForArm64(file, name);
  switch (identifyKernel(file)) {
    case KernelFormat::kBzImage:
      return std::vector<std::byte>{};
    case KernelFormat::kArm64Image:
    case KernelFormat::kZboot:
      return unsupported(name, "is for arm64, and this Mac has an Intel processor: use an amd64 image");
    case KernelFormat::kGzip:
    case KernelFormat::kElf:
    case KernelFormat::kOtherCompression:
    case KernelFormat::kUnknown:
      break;
  }
  return unsupported(name, "is not a bzImage, the one format that macOS boots on Intel processors");
}

Result<std::string> prepareKernel(const std::string& path, const std::string& unpacked, Processor processor) {
  TSHYVE_TRY(const auto file, readWhole(path));
  TSHYVE_TRY(const auto bytes, unpackKernel(file, processor, path));
  if (bytes.empty()) return path;
  TSHYVE_CHECK(writeWhole(unpacked, bytes));
  return unpacked;
}

}  // namespace tshyve::vz
