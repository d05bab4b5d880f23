#include "acpi/tables.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "acpi/bytes.h"
#include "acpi/dsdt.h"
#include "acpi/mp_table.h"
#include "boot/layout.h"

// Structures: ACPI 6.5, section 5.2.
namespace tshyve::acpi {
namespace {

struct [[gnu::packed]] TableHeader {
  char signature[4];
  std::uint32_t length = 0;
  std::uint8_t revision;
  std::uint8_t checksum = 0;
  char oemId[6] = {'T', 'S', 'H', 'Y', 'V', 'E'};
  char oemTableId[8] = {'T', 'S', 'H', 'Y', 'V', 'E', 'V', 'M'};
  std::uint32_t oemRevision = 1;
  char creatorId[4] = {'T', 'S', 'H', 'Y'};
  std::uint32_t creatorRevision = 1;
};
static_assert(sizeof(TableHeader) == 36);

struct [[gnu::packed]] RootPointer {
  char signature[8] = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  std::uint8_t checksum = 0;  // of the first 20 bytes
  char oemId[6] = {'T', 'S', 'H', 'Y', 'V', 'E'};
  std::uint8_t revision = 2;
  std::uint32_t rsdt = 0;
  std::uint32_t length = 36;
  std::uint64_t xsdt = 0;
  std::uint8_t extendedChecksum = 0;
  std::uint8_t reserved[3] = {};
};
static_assert(sizeof(RootPointer) == 36);

/// Generic address structure (section 5.2.3.2).
struct [[gnu::packed]] GenericAddress {
  std::uint8_t space = 0;
  std::uint8_t bitWidth = 0;
  std::uint8_t bitOffset = 0;
  std::uint8_t accessSize = 0;
  std::uint64_t address = 0;
};
static_assert(sizeof(GenericAddress) == 12);

constexpr GenericAddress portByte(std::uint16_t port) {
  return {.space = 1, .bitWidth = 8, .bitOffset = 0, .accessSize = 1, .address = port};
}

/// Fixed ACPI description table, revision 6 (section 5.2.9), without its header. What reduced hardware lacks is zero.
struct [[gnu::packed]] FixedDescription {
  std::uint32_t firmwareControl = 0;
  std::uint32_t dsdt32 = 0;
  std::uint8_t unused1[109 - 44] = {};
  std::uint16_t bootArchitecture = 0;
  std::uint8_t unused2 = 0;
  std::uint32_t flags = 0;
  GenericAddress resetRegister;
  std::uint8_t resetValue = 0;
  std::uint16_t armBootArchitecture = 0;
  std::uint8_t minorRevision = 5;
  std::uint64_t firmwareControl64 = 0;
  std::uint64_t dsdt = 0;
  GenericAddress eventAndTimerBlocks[8] = {};
  GenericAddress sleepControl;
  GenericAddress sleepStatus;
  char hypervisor[8] = {'T', 'S', 'H', 'Y', 'V', 'E', ' ', ' '};
};
static_assert(sizeof(FixedDescription) == 276 - sizeof(TableHeader));
static_assert(offsetof(FixedDescription, flags) == 112 - sizeof(TableHeader));
static_assert(offsetof(FixedDescription, dsdt) == 140 - sizeof(TableHeader));
static_assert(offsetof(FixedDescription, sleepControl) == 244 - sizeof(TableHeader));

// FADT flags (table 5.10). PWR_BUTTON and SLP_BUTTON mean that these are no fixed-hardware buttons.
constexpr std::uint32_t kPowerButtonIsDevice = 1U << 4;
constexpr std::uint32_t kSleepButtonIsDevice = 1U << 5;
constexpr std::uint32_t kResetRegisterSupported = 1U << 10;
constexpr std::uint32_t kReducedHardware = 1U << 20;
// IA-PC boot architecture flags (table 5.11).
constexpr std::uint16_t kNoVga = 1U << 2;
constexpr std::uint16_t kNoCmosClock = 1U << 5;

// Interrupt controller structures of the MADT (section 5.2.12).
struct [[gnu::packed]] LocalApicEntry {
  std::uint8_t type = 0;
  std::uint8_t length = 8;
  std::uint8_t uid;
  std::uint8_t id;
  std::uint32_t flags = 1;  // enabled
};
static_assert(sizeof(LocalApicEntry) == 8);
struct [[gnu::packed]] IoApicEntry {
  std::uint8_t type = 1;
  std::uint8_t length = 12;
  std::uint8_t id;
  std::uint8_t reserved = 0;
  std::uint32_t address = static_cast<std::uint32_t>(layout::kIoApic);
  std::uint32_t firstGsi = 0;
};
static_assert(sizeof(IoApicEntry) == 12);
struct [[gnu::packed]] LocalNmiEntry {
  std::uint8_t type = 4;
  std::uint8_t length = 6;
  std::uint8_t uid = 0xff;  // all
  std::uint16_t flags = 0;
  std::uint8_t pin = 1;
};
static_assert(sizeof(LocalNmiEntry) == 6);

/// PCI firmware specification 3.3, table 4-3.
struct [[gnu::packed]] ConfigurationSpace {
  std::uint64_t address = layout::kPciEcam.start;
  std::uint16_t segment = 0;
  std::uint8_t firstBus = 0;
  std::uint8_t lastBus = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(ConfigurationSpace) == 16);

Bytes table(std::string_view signature, std::uint8_t revision, const Bytes& body) {
  TableHeader header{.signature = {}, .revision = revision};
  std::ranges::copy(signature, header.signature);
  header.length = static_cast<std::uint32_t>(sizeof header + body.size());
  header.checksum = static_cast<std::uint8_t>(checksum(std::as_bytes(std::span(&header, 1))) + checksum(body));
  Bytes result;
  append(result, header);
  append(result, body);
  return result;
}

Bytes fixedDescription(const TablesConfig& config, std::uint64_t dsdt) {
  FixedDescription fadt;
  fadt.dsdt32 = static_cast<std::uint32_t>(dsdt);
  fadt.dsdt = dsdt;
  fadt.bootArchitecture = static_cast<std::uint16_t>(kNoVga | (config.rtc ? 0 : kNoCmosClock));
  fadt.flags = kPowerButtonIsDevice | kSleepButtonIsDevice | kResetRegisterSupported | kReducedHardware;
  fadt.resetRegister = portByte(layout::kAcpiPort);
  fadt.resetValue = layout::kAcpiResetValue;
  fadt.sleepControl = portByte(layout::kAcpiPort);
  fadt.sleepStatus = portByte(layout::kAcpiPort);
  Bytes body;
  append(body, fadt);
  return table("FACP", 6, body);
}

Bytes interruptControllers(std::uint32_t cpus) {
  Bytes body;
  append(body, static_cast<std::uint32_t>(layout::kLocalApic));
  append(body, std::uint32_t{0});  // no 8259s
  for (std::uint32_t cpu = 0; cpu < cpus; cpu++) {
    append(body, LocalApicEntry{.uid = static_cast<std::uint8_t>(cpu), .id = static_cast<std::uint8_t>(cpu)});
  }
  append(body, IoApicEntry{.id = static_cast<std::uint8_t>(cpus)});
  append(body, LocalNmiEntry{});
  return table("APIC", 5, body);
}

Bytes configurationSpace() {
  Bytes body(8);  // reserved
  append(body, ConfigurationSpace{});
  return table("MCFG", 1, body);
}

Bytes rootPointer(std::uint64_t xsdt) {
  RootPointer pointer;
  pointer.xsdt = xsdt;
  const auto bytes = std::as_bytes(std::span(&pointer, 1));
  pointer.checksum = checksum(bytes.first(20));
  pointer.extendedChecksum = checksum(bytes);
  Bytes result;
  append(result, pointer);
  return result;
}

/// Puts tables one behind the other into guest memory.
class Writer {
 public:
  Writer(const GuestMemory& memory, layout::Range range) : memory_(memory), range_(range), next_(range.start) {}

  /// @return the guest address it lies at
  Result<std::uint64_t> write(const Bytes& bytes) {
    const std::uint64_t address = (next_ + 15) / 16 * 16;
    if (address + bytes.size() > range_.end() || !memory_.writeBytes(address, bytes)) {
      return Error{ErrorCode::kInvalidArgument, "the machine has no memory below 1 MiB for its ACPI tables"};
    }
    next_ = address + bytes.size();
    return address;
  }

 private:
  const GuestMemory& memory_;
  layout::Range range_;
  std::uint64_t next_;
};

}  // namespace

Result<std::uint64_t> writeTables(const GuestMemory& memory, const TablesConfig& config) {
  if (config.cpus < 1 || config.cpus > layout::kMaxCpus) {
    return Error{ErrorCode::kInvalidArgument, "a machine has 1 to " + std::to_string(layout::kMaxCpus) + " CPUs, not " +
                                                  std::to_string(config.cpus)};
  }
  // The root pointer comes first, where it is looked for; it is written last, when the others have addresses.
  Writer writer(memory,
                {layout::kAcpiTables.start + sizeof(RootPointer), layout::kAcpiTables.size - sizeof(RootPointer)});
  TSHYVE_TRY(const std::uint64_t dsdt, writer.write(table("DSDT", 2, dsdtBody(config))));
  std::vector<std::uint64_t> addresses;
  for (const Bytes& entry : {fixedDescription(config, dsdt), interruptControllers(config.cpus), configurationSpace()}) {
    TSHYVE_TRY(const std::uint64_t address, writer.write(entry));
    addresses.push_back(address);
  }
  Bytes pointers;
  for (const std::uint64_t address : addresses) append(pointers, address);
  TSHYVE_TRY(const std::uint64_t xsdt, writer.write(table("XSDT", 1, pointers)));
  TSHYVE_TRY(const std::uint64_t rsdp, Writer(memory, layout::kAcpiTables).write(rootPointer(xsdt)));

  TSHYVE_CHECK(Writer(memory, layout::kMpTable).write(mpTable(config.cpus, layout::kMpTable.start)));
  return rsdp;
}

}  // namespace tshyve::acpi
