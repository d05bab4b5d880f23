#include "boot/linux_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "boot/command_line.h"
#include "boot/layout.h"
#include "boot/memory_map.h"
#include "boot/test_images.h"

namespace tshyve::boot {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kRsdp = 0xe0000;

std::unique_ptr<GuestMemory> makeMemory(std::uint64_t bytes) {
  auto memory = GuestMemory::create(layout::memoryExtents(bytes), GuestMemory::Backing::kPrivate);
  EXPECT_TRUE(memory);
  return std::move(*memory);
}

template <typename T>
T get(const GuestMemory& memory, std::uint64_t address) {
  const auto value = memory.read<T>(address);
  EXPECT_TRUE(value) << std::hex << address;
  return value.value_or(T{});
}

std::string getString(const GuestMemory& memory, std::uint64_t address) {
  std::string text;
  while (const char character = get<char>(memory, address++)) text += character;
  return text;
}

void expectBody(const GuestMemory& memory, std::uint64_t address, std::size_t size) {
  const auto slice = memory.slice(address, size);
  ASSERT_TRUE(slice);
  for (std::size_t index = 0; index < size; index++) ASSERT_EQ((*slice)[index], bodyByte(index)) << index;
}

struct Row {
  std::uint64_t start, size;
  std::uint32_t type;
  bool operator==(const Row&) const = default;
};

std::vector<Row> e820(const GuestMemory& memory) {
  std::vector<Row> rows;
  for (unsigned row = 0; row < get<std::uint8_t>(memory, 0x7000 + 0x1e8); row++) {
    const std::uint64_t at = 0x7000 + 0x2d0 + 20 * row;
    rows.push_back(
        {get<std::uint64_t>(memory, at), get<std::uint64_t>(memory, at + 8), get<std::uint32_t>(memory, at + 16)});
  }
  return rows;
}

TEST(BzImage, LoadsThroughItsLongModeEntry) {
  const auto memory = makeMemory(256 * layout::kMiB);
  const auto image = makeBzImage();
  const std::vector<std::byte> initrdBytes(0x2345, std::byte{0x5a});
  const BytesImage initrd("initrd", initrdBytes);
  const auto loaded = loadLinux(*memory, BytesImage("kernel", image), &initrd, "console=ttyS0", kRsdp);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->mode, EntryMode::kLinux64);
  EXPECT_EQ(loaded->entry, 0x1000200U);
  EXPECT_EQ(loaded->parameters, layout::kZeroPage);
  expectBody(*memory, 0x1000000, 0x4000);

  const std::uint64_t page = layout::kZeroPage;
  EXPECT_EQ(get<std::uint64_t>(*memory, page + 0x70), kRsdp);
  EXPECT_EQ(get<std::uint32_t>(*memory, page + 0x202), kSetupMagic);
  EXPECT_EQ(get<std::uint8_t>(*memory, page + 0x210), 0xff) << "type of loader";
  EXPECT_EQ(get<std::uint32_t>(*memory, page + 0x238), 2047U) << "cmdline_size stays as the kernel has it";
  EXPECT_EQ(getString(*memory, get<std::uint32_t>(*memory, page + 0x228)), "reboot=a console=ttyS0");
  const auto ramdisk = get<std::uint32_t>(*memory, page + 0x218);
  EXPECT_EQ(ramdisk % 0x1000, 0U);
  EXPECT_EQ(get<std::uint32_t>(*memory, page + 0x21c), 0x2345U);
  EXPECT_EQ(ramdisk, 256 * layout::kMiB - 0x3000);
  EXPECT_EQ(get<std::uint8_t>(*memory, ramdisk + 0x2344), 0x5a);
  EXPECT_EQ(get<std::uint32_t>(*memory, page + 0xc0), 0U) << "ext_ramdisk_image";
}

TEST(BzImage, GoesWithoutInitrd) {
  const auto memory = makeMemory(256 * layout::kMiB);
  const auto image = makeBzImage();
  ASSERT_TRUE(loadLinux(*memory, BytesImage("kernel", image), nullptr, "", kRsdp));
  EXPECT_EQ(get<std::uint64_t>(*memory, layout::kZeroPage + 0x218), 0U);
  EXPECT_EQ(getString(*memory, layout::kCommandLine.start), "reboot=a");
}

TEST(BzImage, CopiesNoMoreThanTheHeaderPartOfTheZeroPage) {
  // A jump that claims a header up to 0x301 would reach into the E820 table at 0x2d0.
  SetupHeader header = stockSetupHeader();
  header.jump = 0xffeb;
  auto image = makeBzImage(header);
  std::fill(image.begin() + 0x268, image.begin() + 0x400, std::byte{0xcc});
  const auto memory = makeMemory(256 * layout::kMiB);
  ASSERT_TRUE(loadLinux(*memory, BytesImage("kernel", image), nullptr, "", kRsdp));
  EXPECT_EQ(get<std::uint8_t>(*memory, layout::kZeroPage + 0x28f), 0xcc);
  EXPECT_EQ(get<std::uint8_t>(*memory, layout::kZeroPage + 0x290), 0);
  EXPECT_EQ(e820(*memory)[0], (Row{0, 0x9fc00, 1}));
}

TEST(MemoryMap, FollowsTheHole) {
  struct Case {
    std::uint64_t memory;
    std::vector<Row> rows;
  };
  const Row low{0, 0x9fc00, 1};
  const Row tables{0x9fc00, 0x60400, 2};
  const Row ecam{0xe0000000, 0x10000000, 2};
  for (const Case& test : {
           Case{512 * layout::kMiB, {low, tables, {0x100000, 511 * layout::kMiB, 1}, ecam}},
           Case{3 * layout::kGiB, {low, tables, {0x100000, 0xbff00000, 1}, ecam}},
           Case{5 * layout::kGiB, {low, tables, {0x100000, 0xbff00000, 1}, ecam, {0x100000000, 0x80000000, 1}}},
       }) {
    const auto memory = makeMemory(test.memory);
    const auto image = makeBzImage();
    ASSERT_TRUE(loadLinux(*memory, BytesImage("kernel", image), nullptr, "", kRsdp));
    EXPECT_EQ(e820(*memory), test.rows) << test.memory;
  }
}

TEST(Initrd, StaysBelowWhatTheKernelCanReach) {
  const auto memory = makeMemory(3 * layout::kGiB);
  const std::vector<std::byte> bytes(0x1800);
  const BytesImage initrd("initrd", bytes);
  const auto image = makeBzImage();
  ASSERT_TRUE(loadLinux(*memory, BytesImage("kernel", image), &initrd, "", kRsdp));
  EXPECT_EQ(get<std::uint32_t>(*memory, layout::kZeroPage + 0x218), 0x80000000U - 0x2000);
}

TEST(Initrd, DoesNotOverlapWhereTheKernelUnpacks) {
  // Kernel from 16 MiB to 40 MiB, 64 MiB of memory: 24 MiB are left.
  const auto memory = makeMemory(64 * layout::kMiB);
  const auto image = makeBzImage();
  const std::vector<std::byte> fits(24 * layout::kMiB);
  const BytesImage small("initrd", fits);
  ASSERT_TRUE(loadLinux(*memory, BytesImage("kernel", image), &small, "", kRsdp));
  EXPECT_EQ(get<std::uint32_t>(*memory, layout::kZeroPage + 0x218), 40 * layout::kMiB);
  const std::vector<std::byte> large(24 * layout::kMiB + 1);
  const BytesImage big("initrd", large);
  const auto refused = loadLinux(*memory, BytesImage("kernel", image), &big, "", kRsdp);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("give the machine more memory"));
}

TEST(Elf, EntersByThePvhNote) {
  const auto memory = makeMemory(5 * layout::kGiB);
  const auto image = makeElf();
  const std::vector<std::byte> initrdBytes(0x1000, std::byte{1});
  const BytesImage initrd("initrd", initrdBytes);
  const auto loaded = loadLinux(*memory, BytesImage("vmlinux", image), &initrd, "quiet", kRsdp);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->mode, EntryMode::kPvh);
  EXPECT_EQ(loaded->entry, 0x1000100U);
  EXPECT_EQ(loaded->parameters, layout::kPvhStartInfo);
  expectBody(*memory, 0x1000000, 0x3000);
  EXPECT_EQ(get<std::uint64_t>(*memory, 0x1003000), 0U);

  const std::uint64_t info = layout::kPvhStartInfo;
  EXPECT_EQ(get<std::uint32_t>(*memory, info), 0x336ec578U);
  EXPECT_EQ(get<std::uint32_t>(*memory, info + 4), 1U) << "version";
  EXPECT_EQ(get<std::uint32_t>(*memory, info + 12), 1U) << "modules";
  const auto module = get<std::uint64_t>(*memory, info + 16);
  EXPECT_EQ(get<std::uint64_t>(*memory, module), 0x80000000U - 0x1000);
  EXPECT_EQ(get<std::uint64_t>(*memory, module + 8), 0x1000U);
  EXPECT_EQ(getString(*memory, get<std::uint64_t>(*memory, info + 24)), "reboot=a quiet");
  EXPECT_EQ(get<std::uint64_t>(*memory, info + 32), kRsdp);
  const auto map = get<std::uint64_t>(*memory, info + 40);
  ASSERT_EQ(get<std::uint32_t>(*memory, info + 48), 5U);
  EXPECT_EQ(get<std::uint64_t>(*memory, map + 4 * 24), 4 * layout::kGiB);
  EXPECT_EQ(get<std::uint64_t>(*memory, map + 4 * 24 + 8), 2 * layout::kGiB);
}

TEST(Elf, EntersInLongModeWithoutTheNote) {
  ElfParts parts = stockElf();
  parts.noteBytes = makeNote({"GNU\0", 4}, 18, 0x1000100);
  parts.notes.p_filesz = parts.noteBytes.size();
  const auto image = makeElf(parts);
  const auto memory = makeMemory(256 * layout::kMiB);
  const auto loaded = loadLinux(*memory, BytesImage("vmlinux", image), nullptr, "", kRsdp);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->mode, EntryMode::kLinux64);
  EXPECT_EQ(loaded->entry, 0x1000000U);
  EXPECT_EQ(get<std::uint16_t>(*memory, layout::kZeroPage + 0x1fe), 0xaa55);
  EXPECT_EQ(get<std::uint32_t>(*memory, layout::kZeroPage + 0x202), kSetupMagic);
}

// --- Files that are no kernels we can start ---

struct BadImage {
  std::string name;
  std::vector<std::byte> bytes;
  ErrorCode code;
  std::string message;
};

BadImage badBzImage(const std::string& name, const std::function<void(SetupHeader&)>& change, ErrorCode code,
                    const std::string& message) {
  SetupHeader header = stockSetupHeader();
  change(header);
  // The file stays as it was; only its header lies.
  std::vector<std::byte> image = makeBzImage();
  std::memcpy(image.data() + kSetupHeaderOffset, &header, sizeof header);
  return {name, image, code, message};
}

BadImage badElf(const std::string& name, const std::function<void(ElfParts&)>& change, ErrorCode code,
                const std::string& message) {
  ElfParts parts = stockElf();
  change(parts);
  return {name, makeElf(parts), code, message};
}

std::vector<std::byte> text(std::string_view characters, std::size_t offset = 0, std::size_t size = 4096) {
  std::vector<std::byte> bytes(size);
  std::memcpy(bytes.data() + offset, characters.data(), characters.size());
  return bytes;
}

std::vector<std::byte> cut(std::vector<std::byte> bytes, std::size_t size) {
  bytes.resize(size);
  return bytes;
}

std::vector<BadImage> badImages() {
  constexpr auto kUnsupported = ErrorCode::kUnsupported;
  constexpr auto kCorrupt = ErrorCode::kCorrupt;
  constexpr auto kInvalid = ErrorCode::kInvalidArgument;
  return {
      {"OneByte", {std::byte{0}}, kUnsupported, "no Linux kernel"},
      {"Text", text("#!/bin/sh\n"), kUnsupported, "no Linux kernel"},
      {"Gzip", text("\x1f\x8b\x08"), kUnsupported, "gzip"},
      {"Arm64", text("ARMd", 0x38), kUnsupported, "arm64"},
      {"HeaderOnly", cut(makeBzImage(), 0x268), kCorrupt, "cut short"},
      {"OneByteMissing", cut(makeBzImage(), makeBzImage().size() - 1), kCorrupt, "cut short"},
      badBzImage(
          "OldProtocol", [](SetupHeader& h) { h.version = 0x20b; }, kUnsupported, "older than 3.8"),
      badBzImage(
          "ZImage", [](SetupHeader& h) { h.loadFlags = 0; }, kUnsupported, "zImage"),
      badBzImage(
          "No64BitEntry", [](SetupHeader& h) { h.extraLoadFlags = 0x7e; }, kUnsupported, "64-bit"),
      badBzImage(
          "LoadsAtZero", [](SetupHeader& h) { h.preferredAddress = 0; }, kCorrupt, "impossible address"),
      badBzImage(
          "LoadsUnaligned", [](SetupHeader& h) { h.preferredAddress = 0x1000001; }, kCorrupt, "impossible"),
      badBzImage(
          "LoadsBeyondMemory", [](SetupHeader& h) { h.preferredAddress = 0x1000000000; }, kInvalid, "more memory"),
      badBzImage(
          "LoadAddressOverflows", [](SetupHeader& h) { h.preferredAddress = 0xfffffffffffff000; }, kInvalid,
          "more memory"),
      badBzImage(
          "UnpacksBeyondMemory", [](SetupHeader& h) { h.initSize = 0xffffffff; }, kInvalid, "more memory"),
      badBzImage(
          "NoBody", [](SetupHeader& h) { h.systemSize = 0; }, kCorrupt, "cut short"),
      badBzImage(
          "HugeBody", [](SetupHeader& h) { h.systemSize = 0xffffffff; }, kCorrupt, "cut short"),
      badBzImage(
          "ManySetupSectors", [](SetupHeader& h) { h.setupSectors = 255; }, kCorrupt, "cut short"),
      badBzImage(
          "ShortHeader", [](SetupHeader& h) { h.jump = 0x10eb; }, kCorrupt, "too short"),
      badBzImage(
          "NoCommandLine", [](SetupHeader& h) { h.commandLineSize = 4; }, kInvalid, "command line"),
      {"ElfMagicOnly", cut(makeElf(), 4), kCorrupt, "ends too early"},
      {"ElfCut", cut(makeElf(), 0x3fff), kCorrupt, "ends too early"},
      badElf(
          "Elf32", [](ElfParts& p) { p.header.e_ident[EI_CLASS] = ELFCLASS32; }, kUnsupported, "64-bit x86"),
      badElf(
          "ElfArm", [](ElfParts& p) { p.header.e_machine = EM_AARCH64; }, kUnsupported, "64-bit x86"),
      badElf(
          "ElfObject", [](ElfParts& p) { p.header.e_type = ET_REL; }, kUnsupported, "not an executable"),
      badElf(
          "NoSegments", [](ElfParts& p) { p.header.e_phnum = 0; }, kCorrupt, "program headers"),
      badElf(
          "ManySegments", [](ElfParts& p) { p.header.e_phnum = 0xffff; }, kCorrupt, "program headers"),
      badElf(
          "OddSegments", [](ElfParts& p) { p.header.e_phentsize = 57; }, kCorrupt, "program headers"),
      badElf(
          "SegmentsElsewhere", [](ElfParts& p) { p.header.e_phoff = ~0ULL - 10; }, kCorrupt, "ends too early"),
      badElf(
          "MoreBytesThanMemory", [](ElfParts& p) { p.load.p_filesz = 0x5000; }, kCorrupt, "more bytes"),
      badElf(
          "LoadsLow", [](ElfParts& p) { p.load.p_paddr = 0x7000; }, kCorrupt, "below 1 MiB"),
      badElf(
          "LoadsHigh", [](ElfParts& p) { p.load.p_paddr = 0x100000000; }, kInvalid, "does not fit"),
      badElf(
          "SizeOverflows", [](ElfParts& p) { p.load.p_memsz = ~0ULL; }, kInvalid, "does not fit"),
      badElf(
          "FileOffsetOverflows", [](ElfParts& p) { p.load.p_offset = ~0ULL - 0x100; }, kCorrupt, "too early"),
      badElf(
          "EntryOutside", [](ElfParts& p) { p.notes.p_type = PT_NULL, p.header.e_entry = 0x1004000; }, kCorrupt,
          "entry point"),
      badElf(
          "HugeNotes", [](ElfParts& p) { p.notes.p_filesz = 1ULL << 40; }, kCorrupt, "notes"),
      badElf(
          "NotesOutside", [](ElfParts& p) { p.notes.p_offset = 0x3ffc; }, kCorrupt, "too early"),
      badElf(
          "PvhEntryOutside",
          [](ElfParts& p) {
            p.noteBytes = makeNote({"Xen\0", 4}, 18, 0x10);
          },
          kCorrupt, "entry point"),
  };
}

class BadKernels : public testing::TestWithParam<BadImage> {};
INSTANTIATE_TEST_SUITE_P(Linux, BadKernels, testing::ValuesIn(badImages()),
                         [](const auto& test) { return test.param.name; });

TEST_P(BadKernels, AreRefusedWithTheReason) {
  const auto memory = makeMemory(64 * layout::kMiB);
  const auto loaded = loadLinux(*memory, BytesImage("the-kernel", GetParam().bytes), nullptr, "", kRsdp);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, GetParam().code) << loaded.error().message;
  EXPECT_THAT(loaded.error().message, HasSubstr(GetParam().message));
}

TEST(Elf, IgnoresNotesThatMakeNoSense) {
  for (const auto& change : std::vector<std::function<void(ElfParts&)>>{
           // Lengths that run over the end, and a padded length that overflows 32 bits.
           [](ElfParts& p) { std::memset(p.noteBytes.data(), 0xff, 4); },
           [](ElfParts& p) { std::memset(p.noteBytes.data() + 4, 0xff, 4); },
           [](ElfParts& p) { p.notes.p_filesz = 11; },
           [](ElfParts& p) { p.notes.p_filesz = 0; },
       }) {
    ElfParts parts = stockElf();
    change(parts);
    const auto image = makeElf(parts);
    const auto memory = makeMemory(64 * layout::kMiB);
    const auto loaded = loadLinux(*memory, BytesImage("vmlinux", image), nullptr, "", kRsdp);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(loaded->mode, EntryMode::kLinux64);
  }
}

// --- Command line ---

TEST(CommandLine, GetsARebootMethodUnlessItHasOne) {
  for (const auto& [given, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "reboot=a"},
           {"quiet", "reboot=a quiet"},
           {" quiet ", "reboot=a  quiet "},
           {"reboot=t quiet", "reboot=t quiet"},
           {"quiet\treboot=k", "quiet\treboot=k"},
           {"\"reboot=t\" quiet", "\"reboot=t\" quiet"},
           {"noreboot=1", "reboot=a noreboot=1"},
           {"x=\"a reboot=t\"", "reboot=a x=\"a reboot=t\""},
           {"x=\"a", "reboot=a x=\"a"},
           {"quiet -- sh reboot=t", "reboot=a quiet -- sh reboot=t"},
           {"-- sh", "reboot=a -- sh"},
           {"--b reboot=t", "--b reboot=t"},
       }) {
    const auto line = guestCommandLine(given, 100);
    ASSERT_TRUE(line);
    EXPECT_EQ(*line, expected);
  }
}

TEST(CommandLine, HasALimit) {
  EXPECT_TRUE(guestCommandLine(std::string(2038, 'x'), 2047));
  const auto refused = guestCommandLine(std::string(2039, 'x'), 2047);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("at most 2047"));
  EXPECT_FALSE(guestCommandLine(std::string_view("a\0b", 3), 2047));
}

// --- Files ---

class ImageFile : public testing::Test {
 protected:
  ImageFile() {
    std::string pattern = std::filesystem::temp_directory_path() / "tshyve-boot-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~ImageFile() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::vector<std::byte>& bytes) const {
    std::ofstream stream(folder_ / name, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(ImageFile, IsReadStraightIntoTheGuest) {
  const auto memory = makeMemory(256 * layout::kMiB);
  const LinuxBoot boot{write("kernel", makeBzImage()), write("initrd", text("initrd")), "quiet"};
  const auto loaded = loadLinux(*memory, boot, kRsdp);
  ASSERT_TRUE(loaded) << loaded.error().message;
  expectBody(*memory, 0x1000000, 0x4000);
  EXPECT_EQ(getString(*memory, get<std::uint32_t>(*memory, layout::kZeroPage + 0x218)), "initrd");
}

TEST_F(ImageFile, MustBeARegularFileWithContent) {
  const auto memory = makeMemory(64 * layout::kMiB);
  const std::string kernel = write("kernel", makeBzImage());
  const std::string empty = write("empty", {});
  const std::string fifo = folder_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const auto& [boot, code, message] : std::vector<std::tuple<LinuxBoot, ErrorCode, std::string>>{
           {{folder_ / "missing", "", ""}, ErrorCode::kNotFound, "missing"},
           {{kernel, folder_ / "missing", ""}, ErrorCode::kNotFound, "missing"},
           {{empty, "", ""}, ErrorCode::kCorrupt, "is empty"},
           {{kernel, empty, ""}, ErrorCode::kCorrupt, "is empty"},
           {{folder_, "", ""}, ErrorCode::kInvalidArgument, "not a regular file"},
           {{fifo, "", ""}, ErrorCode::kInvalidArgument, "not a regular file"},
       }) {
    const auto loaded = loadLinux(*memory, boot, kRsdp);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, code) << loaded.error().message;
    EXPECT_THAT(loaded.error().message, HasSubstr(message));
  }
}

TEST_F(ImageFile, CutShortWhileItIsReadIsAnError) {
  const std::string path = write("kernel", makeBzImage());
  const auto image = FileImage::open(path);
  ASSERT_TRUE(image);
  std::filesystem::resize_file(path, 100);
  std::vector<std::byte> bytes(200);
  const auto read = image->read(0, bytes);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace tshyve::boot
