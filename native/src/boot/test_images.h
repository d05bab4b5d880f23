#pragma once

#include <elf.h>

#include <cstring>
#include <string_view>
#include <vector>

#include "boot/layout.h"
#include "boot/setup_header.h"

/// Hand-made kernels for tests: right in all a loader looks at, with a body that counts up.
namespace tshyve::boot {

inline std::byte bodyByte(std::size_t index) { return static_cast<std::byte>(index * 7 % 251); }

inline SetupHeader stockSetupHeader() {
  // The values of Debian 12's cloud kernel.
  SetupHeader header{};
  header.setupSectors = 3;
  header.systemSize = 0x4000 / 16;
  header.bootFlag = kBootFlag;
  header.jump = static_cast<std::uint16_t>((kSetupHeaderOffset + sizeof header - 0x202) << 8 | 0xeb);
  header.magic = kSetupMagic;
  header.version = 0x20f;
  header.loadFlags = 1;
  header.initrdAddressMax = 0x7fff'ffff;
  header.kernelAlignment = 0x20'0000;
  header.relocatable = 1;
  header.extraLoadFlags = 0x7f;
  header.commandLineSize = 2047;
  header.preferredAddress = 0x100'0000;
  header.initSize = 0x180'0000;
  return header;
}

inline std::vector<std::byte> makeBzImage(const SetupHeader& header = stockSetupHeader()) {
  const std::size_t bodyOffset = (std::size_t{header.setupSectors == 0 ? 4U : header.setupSectors} + 1) * 512;
  std::vector<std::byte> image(bodyOffset + std::size_t{header.systemSize} * 16);
  std::memcpy(image.data() + kSetupHeaderOffset, &header, sizeof header);
  for (std::size_t index = bodyOffset; index < image.size(); index++) image[index] = bodyByte(index - bodyOffset);
  return image;
}

/// An ELF note with its padding.
inline std::vector<std::byte> makeNote(std::string_view name, std::uint32_t type, std::uint64_t value) {
  const Elf64_Nhdr header{static_cast<Elf64_Word>(name.size()), sizeof value, type};
  std::vector<std::byte> note(sizeof header + (name.size() + 3) / 4 * 4 + sizeof value);
  std::memcpy(note.data(), &header, sizeof header);
  std::memcpy(note.data() + sizeof header, name.data(), name.size());
  std::memcpy(note.data() + note.size() - sizeof value, &value, sizeof value);
  return note;
}

struct ElfParts {
  Elf64_Ehdr header{};
  Elf64_Phdr load{};
  Elf64_Phdr notes{};
  std::vector<std::byte> noteBytes;
};

/// One segment of 0x3000 bytes at 16 MiB with 0x1000 more of zeros, entered at its start; PVH at its start + 0x100.
inline ElfParts stockElf() {
  ElfParts parts;
  parts.noteBytes = makeNote({"Xen\0", 4}, 6, 0);
  const auto pvh = makeNote({"Xen\0", 4}, 18, 0x100'0100);
  parts.noteBytes.insert(parts.noteBytes.end(), pvh.begin(), pvh.end());
  std::memcpy(parts.header.e_ident, ELFMAG, SELFMAG);
  parts.header.e_ident[EI_CLASS] = ELFCLASS64;
  parts.header.e_ident[EI_DATA] = ELFDATA2LSB;
  parts.header.e_ident[EI_VERSION] = EV_CURRENT;
  parts.header.e_type = ET_EXEC;
  parts.header.e_machine = EM_X86_64;
  parts.header.e_version = EV_CURRENT;
  parts.header.e_entry = 0x100'0000;
  parts.header.e_phoff = sizeof(Elf64_Ehdr);
  parts.header.e_ehsize = sizeof(Elf64_Ehdr);
  parts.header.e_phentsize = sizeof(Elf64_Phdr);
  parts.header.e_phnum = 2;
  parts.load = {.p_type = PT_LOAD,
                .p_flags = PF_R | PF_X,
                .p_offset = 0x1000,
                .p_vaddr = 0xffff'ffff'8100'0000,
                .p_paddr = 0x100'0000,
                .p_filesz = 0x3000,
                .p_memsz = 0x4000,
                .p_align = 0x1000};
  parts.notes = {.p_type = PT_NOTE,
                 .p_flags = PF_R,
                 .p_offset = 0x800,
                 .p_vaddr = 0,
                 .p_paddr = 0,
                 .p_filesz = parts.noteBytes.size(),
                 .p_memsz = parts.noteBytes.size(),
                 .p_align = 4};
  return parts;
}

inline std::vector<std::byte> makeElf(const ElfParts& parts = stockElf()) {
  std::vector<std::byte> image(0x4000);
  for (std::size_t index = 0x1000; index < image.size(); index++) image[index] = bodyByte(index - 0x1000);
  std::memcpy(image.data(), &parts.header, sizeof parts.header);
  std::memcpy(image.data() + sizeof parts.header, &parts.load, sizeof parts.load);
  std::memcpy(image.data() + sizeof parts.header + sizeof parts.load, &parts.notes, sizeof parts.notes);
  if (!parts.noteBytes.empty()) std::memcpy(image.data() + 0x800, parts.noteBytes.data(), parts.noteBytes.size());
  return image;
}

}  // namespace tshyve::boot
