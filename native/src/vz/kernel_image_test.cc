#include "vz/kernel_image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/testing/temporary_folder.h"

namespace tshyve::vz {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Bytes = std::vector<std::byte>;

Bytes bytes(const std::string& text) {
  Bytes out(text.size());
  std::memcpy(out.data(), text.data(), text.size());
  return out;
}

/// A kernel for arm64 of this many bytes, as its header goes.
Bytes image(std::size_t size = 5000) {
  std::string text(size, 'k');
  text.replace(0x38, 4, "ARM\x64");
  return bytes(text);
}

Bytes bzImage() {
  std::string text(2000, '\0');
  text.replace(0x202, 4, "HdrS");
  return bytes(text);
}

Bytes gzip(const Bytes& plain) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes packed(deflateBound(&stream, static_cast<uLong>(plain.size())) + 64);
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

Bytes zboot(const Bytes& payload, const std::string& kind = "gzip", std::uint32_t offset = 64, std::int64_t size = -1) {
  std::string text(64, '\0');
  text.replace(0, 2, "MZ");
  text.replace(4, 4, "zimg");
  const auto put = [&](std::size_t at, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) text[at + i] = static_cast<char>(value >> (8 * i) & 0xff);
  };
  put(8, offset);
  put(12, size < 0 ? static_cast<std::uint32_t>(payload.size()) : static_cast<std::uint32_t>(size));
  text.replace(24, kind.size(), kind);
  Bytes out = bytes(text);
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

Bytes with(Bytes one, const Bytes& other) {
  one.insert(one.end(), other.begin(), other.end());
  return one;
}

Result<Bytes> unpack(const Bytes& file, Processor processor = Processor::kArm64) {
  return unpackKernel(file, processor, "/m/kernel");
}

TEST(KernelImage, TellsFormatsApart) {
  EXPECT_EQ(identifyKernel(image()), KernelFormat::kArm64Image);
  EXPECT_EQ(identifyKernel(gzip(image())), KernelFormat::kGzip);
  EXPECT_EQ(identifyKernel(zboot(gzip(image()))), KernelFormat::kZboot);
  EXPECT_EQ(identifyKernel(bzImage()), KernelFormat::kBzImage);
  EXPECT_EQ(identifyKernel(bytes("\x7f"
                                 "ELF...")),
            KernelFormat::kElf);
  for (const char* magic : {"\x28\xb5\x2f\xfd", "BZh9", "\x04\x22\x4d\x18", "\x02\x21\x4c\x18"}) {
    EXPECT_EQ(identifyKernel(bytes(magic)), KernelFormat::kOtherCompression);
  }
  EXPECT_EQ(identifyKernel(bytes("hello")), KernelFormat::kUnknown);
  EXPECT_EQ(identifyKernel({}), KernelFormat::kUnknown);
}

TEST(KernelImage, AnImageOfThisProcessorIsBootedAsItIs) {
  EXPECT_THAT(*unpack(image()), IsEmpty());
  EXPECT_THAT(*unpack(bzImage(), Processor::kX86), IsEmpty());
}

TEST(KernelImage, UnpacksGzip) {
  EXPECT_EQ(*unpack(gzip(image())), image());
  // More than one round of the output buffer.
  EXPECT_EQ(*unpack(gzip(image(5 << 20))), image(5 << 20));
  // Padding after the end, as distributions leave it.
  EXPECT_EQ(*unpack(with(gzip(image()), Bytes(512))), image());
}

TEST(KernelImage, UnpacksZboot) {
  EXPECT_EQ(*unpack(zboot(gzip(image()))), image());
  EXPECT_EQ(*unpack(with(zboot(gzip(image())), Bytes(100))), image());
}

TEST(KernelImage, RefusesWithAReason) {
  const auto says = [](const Bytes& file, const char* message, ErrorCode code,
                       Processor processor = Processor::kArm64) {
    const auto unpacked = unpack(file, processor);
    ASSERT_FALSE(unpacked) << message;
    EXPECT_EQ(unpacked.error().code, code) << message;
    EXPECT_THAT(unpacked.error().message, HasSubstr(message));
    EXPECT_THAT(unpacked.error().message, HasSubstr("/m/kernel"));
  };
  const Bytes packed = gzip(image());
  says(bzImage(), "use an arm64 image", ErrorCode::kUnsupported);
  says(bytes("\x7f"
             "ELF..."),
       "arch/arm64/boot/Image", ErrorCode::kUnsupported);
  says(bytes("BZh9......"), "gzip", ErrorCode::kUnsupported);
  says(bytes("text"), "not a Linux kernel for arm64", ErrorCode::kUnsupported);
  says(Bytes(packed.begin(), packed.end() - 9), "in the middle", ErrorCode::kCorrupt);
  says(Bytes(packed.begin(), packed.begin() + 3), "in the middle", ErrorCode::kCorrupt);
  Bytes damaged = packed;
  damaged[damaged.size() / 2] ^= std::byte{0xff};
  says(damaged, "damaged", ErrorCode::kCorrupt);
  says(gzip(bytes("no kernel")), "holds, unpacked, no Linux kernel", ErrorCode::kUnsupported);
  says(gzip(gzip(image())), "holds, unpacked, no Linux kernel", ErrorCode::kUnsupported);
  says(zboot(packed, "zstd"), "compressed by \"zstd\"", ErrorCode::kUnsupported);
  says(zboot(packed, "\x01\x02"), "\"\?\?\"", ErrorCode::kUnsupported);
  says(zboot(packed, "gzip", 64, 0), "outside of the file", ErrorCode::kCorrupt);
  says(zboot(packed, "gzip", 64, static_cast<std::int64_t>(packed.size()) + 1), "outside of the file",
       ErrorCode::kCorrupt);
  says(zboot(packed, "gzip", 0xffff'fff0, 0xffff'ffff), "outside of the file", ErrorCode::kCorrupt);
  says(zboot(packed, "gzip", 8), "outside of the file", ErrorCode::kCorrupt);
  says(bytes("MZ..zimg"), "cut short", ErrorCode::kCorrupt);
  says(image(), "use an amd64 image", ErrorCode::kUnsupported, Processor::kX86);
  says(zboot(packed), "use an amd64 image", ErrorCode::kUnsupported, Processor::kX86);
  says(packed, "not a bzImage", ErrorCode::kUnsupported, Processor::kX86);
}

TEST(KernelImage, StopsAtABomb) {
  const auto unpacked = unpack(gzip(Bytes(kMaxKernelBytes + 1)));
  ASSERT_FALSE(unpacked);
  EXPECT_THAT(unpacked.error().message, HasSubstr("more than 256 MiB"));
}

TEST(KernelImage, PreparesAFile) {
  const TemporaryFolder folder;
  const auto write = [&](const Bytes& content) {
    std::ofstream(folder.path("kernel"), std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
  };
  const auto prepare = [&] { return prepareKernel(folder.path("kernel"), folder.path("unpacked"), Processor::kArm64); };
  EXPECT_EQ(prepare().error().code, ErrorCode::kNotFound);
  write({});
  EXPECT_EQ(prepare().error().code, ErrorCode::kCorrupt);
  write(image());
  EXPECT_EQ(*prepare(), folder.path("kernel"));
  for (const std::size_t size : {9000U, 5000U}) {
    write(gzip(image(size)));
    EXPECT_EQ(*prepare(), folder.path("unpacked"));
    std::ifstream file(folder.path("unpacked"), std::ios::binary);
    EXPECT_EQ(bytes({std::istreambuf_iterator<char>(file), {}}), image(size));
  }
  EXPECT_NE(prepareKernel(folder.path("kernel"), folder.path("none/unpacked"), Processor::kArm64).ok(), true);
}

}  // namespace
}  // namespace tshyve::vz
