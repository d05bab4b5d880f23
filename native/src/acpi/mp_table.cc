#include "acpi/mp_table.h"

#include "boot/layout.h"

namespace tshyve::acpi {
namespace {

constexpr std::uint8_t kSpecificationRevision = 4;

struct [[gnu::packed]] FloatingPointer {
  char signature[4] = {'_', 'M', 'P', '_'};
  std::uint32_t table = 0;
  std::uint8_t paragraphs = 1;
  std::uint8_t revision = kSpecificationRevision;
  std::uint8_t checksum = 0;
  std::uint8_t features[5] = {};
};
static_assert(sizeof(FloatingPointer) == 16);

struct [[gnu::packed]] ConfigurationHeader {
  char signature[4] = {'P', 'C', 'M', 'P'};
  std::uint16_t length = 0;
  std::uint8_t revision = kSpecificationRevision;
  std::uint8_t checksum = 0;
  char oem[8] = {'T', 'S', 'H', 'Y', 'V', 'E', ' ', ' '};
  char product[12] = {'V', 'M', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
  std::uint32_t oemTable = 0;
  std::uint16_t oemTableSize = 0;
  std::uint16_t entries = 0;
  std::uint32_t localApic = static_cast<std::uint32_t>(layout::kLocalApic);
  std::uint16_t extendedLength = 0;
  std::uint8_t extendedChecksum = 0;
  std::uint8_t reserved = 0;
};
static_assert(sizeof(ConfigurationHeader) == 44);

struct [[gnu::packed]] Processor {
  std::uint8_t type = 0;
  std::uint8_t apicId;
  std::uint8_t apicVersion = 0x14;
  std::uint8_t flags;  // 1: usable, 2: boot processor
  std::uint32_t signature = 0x600;
  std::uint32_t features = 0x201;  // FPU, APIC
  std::uint64_t reserved = 0;
};
static_assert(sizeof(Processor) == 20);

struct [[gnu::packed]] BusEntry {
  std::uint8_t type = 1;
  std::uint8_t id = 0;
  char name[6] = {'I', 'S', 'A', ' ', ' ', ' '};
};
static_assert(sizeof(BusEntry) == 8);

struct [[gnu::packed]] IoApicEntry {
  std::uint8_t type = 2;
  std::uint8_t id;
  std::uint8_t version = 0x11;
  std::uint8_t flags = 1;
  std::uint32_t address = static_cast<std::uint32_t>(layout::kIoApic);
};
static_assert(sizeof(IoApicEntry) == 8);

enum class InterruptType : std::uint8_t { kVectored = 0, kNonMaskable = 1, kExternal = 3 };

struct [[gnu::packed]] InterruptEntry {
  std::uint8_t type;  // 3: to an IO-APIC, 4: to local APICs
  InterruptType interruptType;
  std::uint16_t flags = 0;  // polarity and trigger mode as the bus has them
  std::uint8_t sourceBus = 0;
  std::uint8_t sourceIrq;
  std::uint8_t apic;
  std::uint8_t pin;
};
static_assert(sizeof(InterruptEntry) == 8);

constexpr std::uint8_t kIsaLines = 16;
constexpr std::uint8_t kAllLocalApics = 0xff;

}  // namespace

Bytes mpTable(std::uint32_t cpus, std::uint64_t address) {
  const auto ioApicId = static_cast<std::uint8_t>(cpus);
  Bytes entries;
  for (std::uint32_t cpu = 0; cpu < cpus; cpu++) {
    append(entries,
           Processor{.apicId = static_cast<std::uint8_t>(cpu), .flags = static_cast<std::uint8_t>(cpu == 0 ? 3 : 1)});
  }
  append(entries, BusEntry{});
  append(entries, IoApicEntry{.id = ioApicId});
  for (std::uint8_t line = 0; line < kIsaLines; line++) {
    append(entries,
           InterruptEntry{
               .type = 3, .interruptType = InterruptType::kVectored, .sourceIrq = line, .apic = ioApicId, .pin = line});
  }
  append(entries,
         InterruptEntry{.type = 4, .interruptType = InterruptType::kExternal, .sourceIrq = 0, .apic = 0, .pin = 0});
  append(
      entries,
      InterruptEntry{
          .type = 4, .interruptType = InterruptType::kNonMaskable, .sourceIrq = 0, .apic = kAllLocalApics, .pin = 1});

  ConfigurationHeader header;
  header.length = static_cast<std::uint16_t>(sizeof header + entries.size());
  header.entries = static_cast<std::uint16_t>(cpus + 2 + kIsaLines + 2);
  header.checksum = static_cast<std::uint8_t>(checksum(std::as_bytes(std::span(&header, 1))) + checksum(entries));

  FloatingPointer pointer;
  pointer.table = static_cast<std::uint32_t>(address + sizeof pointer);
  pointer.checksum = checksum(std::as_bytes(std::span(&pointer, 1)));

  Bytes result;
  append(result, pointer);
  append(result, header);
  append(result, entries);
  return result;
}

}  // namespace tshyve::acpi
