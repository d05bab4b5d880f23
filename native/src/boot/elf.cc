#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "boot/kernel_image.h"
#include "boot/layout.h"
#include "boot/memory_map.h"
#include "boot/setup_header.h"

namespace tshyve::boot {
namespace {

/// XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry point (Xen: public/elfnote.h).
constexpr std::uint32_t kPhys32EntryNote = 18;
constexpr std::string_view kXen{"Xen\0", 4};
/// Kernels have a few hundred bytes of notes and a handful of segments.
constexpr std::uint64_t kMaxNoteBytes = 64 * layout::kKiB;
constexpr std::uint16_t kMaxSegments = 64;
/// COMMAND_LINE_SIZE of x86 Linux less the NUL, and the initrd limit of kernels that state one: an ELF states neither.
constexpr std::uint64_t kCommandLineLimit = 2047;
constexpr std::uint64_t kInitrdLastAddress = 0x7fff'ffff;

Error damaged(const ImageSource& source, const std::string& what) {
  return {ErrorCode::kCorrupt, source.name() + " is damaged: " + what};
}

/// Finds the PVH entry in a note segment (ELF: "Note Section"). Every step moves forward.
std::optional<std::uint64_t> pvhEntry(std::span<const std::byte> notes) {
  const auto padded = [](std::uint64_t size) { return (size + 3) & ~std::uint64_t{3}; };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data(), sizeof note);
    notes = notes.subspan(sizeof note);
    const std::uint64_t nameSize = padded(note.n_namesz);
    if (nameSize > notes.size() || note.n_descsz > notes.size() - nameSize) return std::nullopt;
    const std::span<const std::byte> name = notes.first(note.n_namesz);
    const std::span<const std::byte> value = notes.subspan(nameSize, note.n_descsz);
    if (note.n_type == kPhys32EntryNote && std::ranges::equal(name, std::as_bytes(std::span(kXen)))) {
      if (value.size() != 4 && value.size() != 8) return std::nullopt;
      std::uint64_t entry = 0;
      std::memcpy(&entry, value.data(), value.size());
      return entry;
    }
    notes = notes.subspan(std::min<std::uint64_t>(nameSize + padded(note.n_descsz), notes.size()));
  }
  return std::nullopt;
}

Result<std::vector<Elf64_Phdr>> readProgramHeaders(const ImageSource& source, const Elf64_Ehdr& header) {
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > kMaxSegments) {
    return damaged(source, "its program headers make no sense");
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  TSHYVE_CHECK(source.read(header.e_phoff, std::as_writable_bytes(std::span(segments))));
  return segments;
}

Result<void> loadSegment(const GuestMemory& memory, const ImageSource& source, const Elf64_Phdr& segment) {
  if (segment.p_filesz > segment.p_memsz) return damaged(source, "a segment has more bytes than memory");
  if (segment.p_paddr < layout::kKernelStart) return damaged(source, "a segment loads below 1 MiB");
  const std::uint64_t memoryEnd = lowMemoryEnd(memory);
  if (segment.p_paddr > memoryEnd || segment.p_memsz > memoryEnd - segment.p_paddr) {
    return Error{ErrorCode::kInvalidArgument,
                 source.name() + " does not fit into the machine's memory: give it more, or check the file"};
  }
  const auto target = memory.slice(segment.p_paddr, segment.p_filesz);
  if (!target) return damaged(source, "a segment lies outside memory");
  // What is in memory but not in the file (.bss) is zero already.
  return source.read(segment.p_offset, *target);
}

/// A setup header for a kernel that came without: what struct boot_params must say to be believed.
std::vector<std::byte> plainSetupHeader() {
  SetupHeader header{};
  header.bootFlag = kBootFlag;
  header.magic = kSetupMagic;
  header.version = 0x20c;
  header.loadFlags = 1;
  header.kernelAlignment = 0x100'0000;
  header.commandLineSize = kCommandLineLimit;
  header.initrdAddressMax = kInitrdLastAddress;
  std::vector<std::byte> bytes(sizeof header);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

}  // namespace

bool isElf(std::span<const std::byte> start) {
  return start.size() >= SELFMAG && std::memcmp(start.data(), ELFMAG, SELFMAG) == 0;
}

Result<KernelImage> loadElf(const GuestMemory& memory, const ImageSource& source) {
  Elf64_Ehdr header;
  TSHYVE_CHECK(source.read(0, std::as_writable_bytes(std::span(&header, 1))));
  const bool x86 =
      header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_ident[EI_DATA] == ELFDATA2LSB && header.e_machine == EM_X86_64;
  if (!x86) {
    return Error{ErrorCode::kUnsupported, source.name() + " is an ELF file, but not of a 64-bit x86 program"};
  }
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return Error{ErrorCode::kUnsupported, source.name() + " is an ELF file, but not an executable: use a vmlinux"};
  }
  TSHYVE_TRY(const std::vector<Elf64_Phdr> segments, readProgramHeaders(source, header));

  KernelImage image{.mode = EntryMode::kLinux64,
                    .entry = header.e_entry,
                    .end = 0,
                    .initrdLastAddress = kInitrdLastAddress,
                    .commandLineLimit = kCommandLineLimit,
                    .setupHeader = {}};
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_LOAD) {
      TSHYVE_CHECK(loadSegment(memory, source, segment));
      image.end = std::max(image.end, segment.p_paddr + segment.p_memsz);
    }
    if (segment.p_type == PT_NOTE) {
      if (segment.p_filesz > kMaxNoteBytes) return damaged(source, "its notes are too long");
      std::vector<std::byte> notes(segment.p_filesz);
      TSHYVE_CHECK(source.read(segment.p_offset, notes));
      if (const auto entry = pvhEntry(notes)) {
        image.mode = EntryMode::kPvh;
        image.entry = *entry;
      }
    }
  }
  const bool entryLoaded = std::ranges::any_of(segments, [&](const Elf64_Phdr& segment) {
    return segment.p_type == PT_LOAD && image.entry >= segment.p_paddr &&
           image.entry - segment.p_paddr < segment.p_memsz;
  });
  if (!entryLoaded) return damaged(source, "its entry point is not in a part that is loaded");
  if (image.mode == EntryMode::kLinux64) image.setupHeader = plainSetupHeader();
  return image;
}

}  // namespace tshyve::boot
