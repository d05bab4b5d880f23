#include <algorithm>
#include <bit>

#include "boot/cpu_setup.h"

// Leaf and bit numbers: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E.4, Linux' kvm/x86/cpuid.rst.
namespace tshyve::boot {
namespace {

/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
constexpr std::uint32_t kIndexed = 1;
/// State components of AMX, 17 and 18: need a permission (arch_prctl ARCH_REQ_XCOMP_GUEST_PERM) we do not ask for.
constexpr std::uint32_t kAmxComponents = 1U << 17 | 1U << 18;
/// Legacy region and header of an XSAVE area.
constexpr std::uint32_t kXsaveHeaderEnd = 576;
/// Ticks of KVM's local APIC timer take 1 ns.
constexpr std::uint32_t kApicBusKhz = 1'000'000;

constexpr std::uint32_t bit(unsigned number) { return 1U << number; }

constexpr std::uint32_t withField(std::uint32_t word, unsigned low, unsigned width, std::uint32_t value) {
  const std::uint32_t mask = ((1U << width) - 1) << low;
  return (word & ~mask) | (value << low & mask);
}

struct Topology {
  std::uint32_t cpu;
  std::uint32_t count;
  /// Bits of the APIC id that tell cores apart.
  [[nodiscard]] unsigned shift() const { return static_cast<unsigned>(std::bit_width(count - 1)); }
  /// How many APIC ids the package spans.
  [[nodiscard]] std::uint32_t idSpace() const { return 1U << shift(); }
};

/// Leaves of what this machine lacks: extended topology (made anew below), resource control, SGX, processor trace,
/// AMX, last branch records, nested virtualisation, instruction-based sampling, memory encryption, AMD's performance
/// monitoring, extended topology of AMD and KVM's timing leaf (made anew).
bool isDropped(const CpuidEntry& entry) {
  switch (entry.function) {
    case 0xb:
    case 0xf:
    case 0x10:
    case 0x12:
    case 0x14:
    case 0x1c:
    case 0x1d:
    case 0x1e:
    case 0x1f:
    case 0x4000'0010:
    case 0x8000'000a:
    case 0x8000'001b:
    case 0x8000'001f:
    case 0x8000'0020:
    case 0x8000'0022:
    case 0x8000'0026:
      return true;
    case 0xd:
      return entry.index == 17 || entry.index == 18;
    default:
      return false;
  }
}

void filterBasicFeatures(CpuidEntry& entry, const Topology& topology, const CpuidOptions& options) {
  entry.ebx = topology.cpu << 24 | std::min(topology.idSpace(), 255U) << 16 | 8U << 8 | (entry.ebx & 0xff);
  // DTES64, MONITOR, VMX, SMX, EIST, TM2, PDCM.
  entry.ecx &= ~(bit(2) | bit(3) | bit(5) | bit(6) | bit(7) | bit(8) | bit(15));
  entry.ecx |= bit(31);  // a hypervisor is present
  entry.ecx = withField(entry.ecx, 24, 1, options.tscDeadlineTimer ? 1 : 0);
  entry.edx = withField(entry.edx, 28, 1, topology.count > 1 ? 1 : 0);  // HTT: more than one id in the package
}

void filterStructuredFeatures(CpuidEntry& entry) {
  if (entry.index == 0) {
    entry.ebx &= ~(bit(2) | bit(12) | bit(15) | bit(25));  // SGX, RDT monitoring and allocation, processor trace
    entry.ecx &= ~bit(30);                                 // SGX launch control
    entry.edx &= ~(bit(15) | bit(19) | bit(22) | bit(24) | bit(25));  // hybrid, LBR, AMX
  }
  if (entry.index == 1) {
    entry.eax &= ~bit(21);  // AMX FP16
    entry.edx &= ~bit(8);   // AMX complex
  }
}

/// @param shared whether all cores share the cache
std::uint32_t cacheSharing(std::uint32_t eax, bool shared, const Topology& topology) {
  return withField(eax, 14, 12, shared ? topology.idSpace() - 1 : 0);
}

void filterExtendedFeatures(CpuidEntry& entry, const Topology& topology) {
  // SVM, IBS, watchdog timer, lightweight profiling, performance counters (core, north bridge, L2, L3).
  entry.ecx &= ~(bit(2) | bit(10) | bit(13) | bit(15) | bit(23) | bit(24) | bit(27) | bit(28));
  // CmpLegacy: of AMD, where it means cores, not threads, share the package.
  if (topology.count == 1) entry.ecx &= ~bit(1);
}

void filter(CpuidEntry& entry, const Topology& topology, const CpuidOptions& options) {
  switch (entry.function) {
    case 0x0:
      entry.eax = std::max(entry.eax, 0xbU);
      break;
    case 0x1:
      filterBasicFeatures(entry, topology, options);
      break;
    case 0x4:
      if ((entry.eax & 0x1f) == 0) break;  // no more caches
      entry.eax = cacheSharing(entry.eax, (entry.eax >> 5 & 7) >= 3, topology);
      entry.eax = withField(entry.eax, 26, 6, topology.idSpace() - 1);
      break;
    case 0x6:
      entry.ecx &= ~bit(3);  // energy performance bias
      break;
    case 0x7:
      filterStructuredFeatures(entry);
      break;
    case 0xa:
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;  // no performance monitoring
      break;
    case 0x8000'0001:
      filterExtendedFeatures(entry, topology);
      break;
    case 0x8000'0008:
      entry.ecx = withField(entry.ecx, 0, 8, topology.count - 1);
      entry.ecx = withField(entry.ecx, 12, 4, topology.shift());
      break;
    case 0x8000'001d:
      if ((entry.eax & 0x1f) == 0) break;
      entry.eax = cacheSharing(entry.eax, (entry.eax >> 5 & 7) >= 3, topology);
      break;
    case 0x8000'001e:
      entry.eax = topology.cpu;  // extended APIC id
      entry.ebx = topology.cpu;  // core id, one thread in it
      entry.ecx = 0;             // one node
      entry.edx = 0;
      break;
    default:
      break;
  }
}

/// Takes AMX out of the XSAVE state and computes anew how large the area may get.
void removeAmxState(std::vector<CpuidEntry>& entries) {
  const auto xsave =
      std::ranges::find_if(entries, [](const CpuidEntry& e) { return e.function == 0xd && e.index == 0; });
  if (xsave == entries.end() || (xsave->eax & kAmxComponents) == 0) return;
  xsave->eax &= ~kAmxComponents;
  std::uint32_t size = kXsaveHeaderEnd;
  for (const CpuidEntry& entry : entries) {
    const bool userState = entry.function == 0xd && entry.index >= 2 && (entry.ecx & 1) == 0;
    if (userState) size = std::max(size, entry.ebx + entry.eax);
  }
  xsave->ecx = size;
}

void addTopology(std::vector<CpuidEntry>& entries, std::uint32_t function, const Topology& topology) {
  constexpr std::uint32_t kThreads = 1U << 8;
  constexpr std::uint32_t kCores = 2U << 8;
  entries.push_back({function, 0, kIndexed, 0, 1, kThreads | 0, topology.cpu});
  entries.push_back({function, 1, kIndexed, topology.shift(), topology.count, kCores | 1, topology.cpu});
  entries.push_back({function, 2, kIndexed, 0, 0, 2, topology.cpu});
}

/// The frequencies of TSC and APIC timer in the leaf that started with VMware: saves the guest from measuring.
void addTiming(std::vector<CpuidEntry>& entries, std::uint32_t tscKhz) {
  const auto invariantTsc = [](const CpuidEntry& e) { return e.function == 0x8000'0007 && (e.edx & bit(8)) != 0; };
  const auto base = std::ranges::find(entries, 0x4000'0000U, &CpuidEntry::function);
  if (tscKhz == 0 || base == entries.end() || std::ranges::none_of(entries, invariantTsc)) return;
  base->eax = std::max(base->eax, 0x4000'0010U);
  entries.push_back({0x4000'0010, 0, 0, tscKhz, kApicBusKhz, 0, 0});
}

}  // namespace

std::vector<CpuidEntry> guestCpuid(std::span<const CpuidEntry> supported, std::uint32_t cpu, std::uint32_t count,
                                   const CpuidOptions& options) {
  const Topology topology{cpu, count};
  std::vector<CpuidEntry> entries;
  entries.reserve(supported.size() + 6);
  bool extendedTopology = false;
  for (const CpuidEntry& entry : supported) {
    extendedTopology |= entry.function == 0x1f;
    if (isDropped(entry)) continue;
    entries.push_back(entry);
    filter(entries.back(), topology, options);
  }
  removeAmxState(entries);
  addTopology(entries, 0xb, topology);
  // Where the host has this leaf, kernels prefer it.
  if (extendedTopology) addTopology(entries, 0x1f, topology);
  addTiming(entries, options.tscKhz);
  return entries;
}

std::uint32_t physicalAddressBits(std::span<const CpuidEntry> entries) {
  const auto sizes = std::ranges::find(entries, 0x8000'0008U, &CpuidEntry::function);
  return sizes == entries.end() ? 36 : sizes->eax & 0xff;
}

}  // namespace tshyve::boot
