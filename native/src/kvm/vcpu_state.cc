// Saving and restoring a vCPU. The order matters: CPUID decides which other state exists, the MP state may turn an INIT
// into a reset of registers, and pending events must not be overwritten by anything that comes later.
#include <algorithm>
#include <set>

#include "kvm/vcpu.h"

namespace tshyve::kvm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMsrsPerCall = 256;

// Registers KVM keeps though its list may leave them out.
constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrApicBase = 0x1b;
constexpr std::uint32_t kMsrTscAdjust = 0x3b;
constexpr std::uint32_t kMsrPat = 0x277;
constexpr std::uint32_t kMsrMtrrDefType = 0x2ff;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;
constexpr std::uint32_t kMsrXss = 0xda0;
constexpr std::uint32_t kMsrMtrrPhysFirst = 0x200;
constexpr std::uint32_t kMsrMtrrPhysLast = 0x20f;
constexpr std::uint32_t kMsrMtrrFixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
constexpr std::uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr std::uint32_t kMsrTscAux = 0xc0000103;

template <typename T>
Result<void> saveWith(StateWriter& writer, int fd, unsigned long request, const char* name, T state = {}) {
  if (ioctlRetry(fd, request, &state) < 0) return Error::fromErrno(name);
  writer.putBytes(std::as_bytes(std::span(&state, 1)));
  return {};
}

template <typename T>
Result<void> restoreWith(StateReader& reader, int fd, unsigned long request, const char* name) {
  TSHYVE_TRY(const auto bytes, reader.getBytes());
  T state{};
  if (bytes.size() != sizeof state) {
    return Error{ErrorCode::kCorrupt, std::string("the snapshot's vCPU state has a wrong size (") + name + ")"};
  }
  std::memcpy(&state, bytes.data(), sizeof state);
  if (ioctlRetry(fd, request, &state) < 0) return Error::fromErrno(name);
  return {};
}

Result<std::set<std::uint32_t>> msrsToSave(const System& system) {
  TSHYVE_TRY(const auto listed, system.msrIndexList());
  std::set<std::uint32_t> indices(listed.begin(), listed.end());
  indices.insert({kMsrTsc, kMsrApicBase, kMsrTscAdjust, kMsrPat, kMsrMtrrDefType, kMsrTscDeadline, kMsrXss,
                  kMsrKernelGsBase, kMsrTscAux});
  indices.insert(std::begin(kMsrMtrrFixed), std::end(kMsrMtrrFixed));
  for (std::uint32_t index = kMsrMtrrPhysFirst; index <= kMsrMtrrPhysLast; index++) indices.insert(index);
  return indices;
}

/// Reads what this vCPU has of these registers.
Result<std::vector<kvm_msr_entry>> readMsrs(int fd, const std::set<std::uint32_t>& indices) {
  std::vector<kvm_msr_entry> wanted;
  for (const std::uint32_t index : indices) {
    kvm_msr_entry entry{};
    entry.index = index;
    wanted.push_back(entry);
  }
  std::vector<kvm_msr_entry> values;
  std::span<const kvm_msr_entry> left(wanted);
  while (!left.empty()) {
    const auto chunk = left.first(std::min(left.size(), kMsrsPerCall));
    FlexArray<kvm_msrs, kvm_msr_entry> list(chunk);
    list.header().nmsrs = static_cast<std::uint32_t>(chunk.size());
    const int done = ioctlRetry(fd, KVM_GET_MSRS, &list.header());
    if (done < 0) return Error::fromErrno("KVM_GET_MSRS");
    const auto count = std::min(static_cast<std::size_t>(done), chunk.size());
    values.insert(values.end(), list.entries(), list.entries() + count);
    // A short count means: the next one does not exist on this vCPU.
    left = left.subspan(std::min(left.size(), count == chunk.size() ? count : count + 1));
  }
  return values;
}

}  // namespace

std::size_t Vcpu::xsaveSize() const {
  const int size = ioctlRetry(vmFd_, KVM_CHECK_EXTENSION, static_cast<unsigned long>(KVM_CAP_XSAVE2));
  return std::max<std::size_t>(sizeof(kvm_xsave), size < 0 ? 0 : static_cast<std::size_t>(size));
}

Result<void> Vcpu::save(StateWriter& writer) const {
  writer.section("kvm-vcpu", kVersion);
  writer.put(id_);
  writer.putBytes(std::as_bytes(std::span(cpuid_)));
  // First: reading the MP state makes KVM act on a pending INIT or SIPI.
  TSHYVE_CHECK(saveWith<kvm_mp_state>(writer, fd(), KVM_GET_MP_STATE, "KVM_GET_MP_STATE"));
  TSHYVE_CHECK(saveWith<kvm_regs>(writer, fd(), KVM_GET_REGS, "KVM_GET_REGS"));
  TSHYVE_CHECK(saveWith<kvm_sregs>(writer, fd(), KVM_GET_SREGS, "KVM_GET_SREGS"));
  std::vector<std::uint64_t> xsave(xsaveSize() / sizeof(std::uint64_t));
  const bool large = xsaveSize() > sizeof(kvm_xsave);
  if (ioctlRetry(fd(), large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, xsave.data()) < 0) {
    return Error::fromErrno("KVM_GET_XSAVE");
  }
  writer.putBytes(std::as_bytes(std::span(xsave)));
  TSHYVE_CHECK(saveWith<kvm_xcrs>(writer, fd(), KVM_GET_XCRS, "KVM_GET_XCRS"));
  TSHYVE_CHECK(saveWith<kvm_debugregs>(writer, fd(), KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS"));
  TSHYVE_CHECK(saveWith<kvm_lapic_state>(writer, fd(), KVM_GET_LAPIC, "KVM_GET_LAPIC"));
  const int frequency = ioctlRetry(fd(), KVM_GET_TSC_KHZ, 0UL);
  writer.put(frequency > 0 ? static_cast<std::uint32_t>(frequency) : 0U);
  TSHYVE_TRY(const auto indices, msrsToSave(system_));
  TSHYVE_TRY(const auto msrs, readMsrs(fd(), indices));
  writer.putBytes(std::as_bytes(std::span(msrs)));
  return saveWith<kvm_vcpu_events>(writer, fd(), KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}

Result<void> Vcpu::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("kvm-vcpu", kVersion));
  std::uint32_t id = 0;
  TSHYVE_CHECK(reader.get(id));
  if (id != id_) return Error{ErrorCode::kCorrupt, "the snapshot's vCPUs are out of order"};
  TSHYVE_TRY(const auto cpuidBytes, reader.getBytes());
  std::vector<kvm_cpuid_entry2> cpuid(cpuidBytes.size() / sizeof(kvm_cpuid_entry2));
  if (cpuid.empty() || cpuidBytes.size() % sizeof(kvm_cpuid_entry2) != 0) {
    return Error{ErrorCode::kCorrupt, "the snapshot's CPUID list has a wrong size"};
  }
  std::memcpy(cpuid.data(), cpuidBytes.data(), cpuidBytes.size());
  TSHYVE_CHECK(setCpuid(cpuid));
  TSHYVE_CHECK(restoreWith<kvm_mp_state>(reader, fd(), KVM_SET_MP_STATE, "KVM_SET_MP_STATE"));
  TSHYVE_CHECK(restoreWith<kvm_regs>(reader, fd(), KVM_SET_REGS, "KVM_SET_REGS"));
  TSHYVE_CHECK(restoreWith<kvm_sregs>(reader, fd(), KVM_SET_SREGS, "KVM_SET_SREGS"));
  TSHYVE_TRY(const auto xsaveBytes, reader.getBytes());
  if (xsaveBytes.size() < sizeof(kvm_xsave) || xsaveBytes.size() > xsaveSize()) {
    return Error{ErrorCode::kUnsupported, "the snapshot's processor has a larger register set than this host's"};
  }
  std::vector<std::uint64_t> xsave(xsaveSize() / sizeof(std::uint64_t));
  std::memcpy(xsave.data(), xsaveBytes.data(), xsaveBytes.size());
  if (ioctlRetry(fd(), KVM_SET_XSAVE, xsave.data()) < 0) return Error::fromErrno("KVM_SET_XSAVE");
  TSHYVE_CHECK(restoreWith<kvm_xcrs>(reader, fd(), KVM_SET_XCRS, "KVM_SET_XCRS"));
  TSHYVE_CHECK(restoreWith<kvm_debugregs>(reader, fd(), KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS"));
  TSHYVE_CHECK(restoreWith<kvm_lapic_state>(reader, fd(), KVM_SET_LAPIC, "KVM_SET_LAPIC"));
  std::uint32_t frequency = 0;
  TSHYVE_CHECK(reader.get(frequency));
  const int present = ioctlRetry(fd(), KVM_GET_TSC_KHZ, 0UL);
  // Best effort: a host that cannot scale the TSC runs the guest's clock from the KVM clock anyway.
  if (frequency != 0 && present > 0 && static_cast<std::uint32_t>(present) != frequency) {
    ioctlRetry(fd(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(frequency));
  }
  TSHYVE_TRY(const auto msrBytes, reader.getBytes());
  std::vector<kvm_msr_entry> msrs(msrBytes.size() / sizeof(kvm_msr_entry));
  if (msrBytes.size() % sizeof(kvm_msr_entry) != 0) {
    return Error{ErrorCode::kCorrupt, "the snapshot's list of MSRs has a wrong size"};
  }
  if (!msrs.empty()) std::memcpy(msrs.data(), msrBytes.data(), msrBytes.size());
  // The deadline is compared with the TSC when it is set: it comes last. A deadline that KVM had already turned into
  // an interrupt reads as zero; the guest may wait for it still, so let it fire now.
  const auto isDeadline = [](const kvm_msr_entry& entry) { return entry.index == kMsrTscDeadline; };
  std::stable_partition(msrs.begin(), msrs.end(), [&](const kvm_msr_entry& entry) { return !isDeadline(entry); });
  const auto tsc = std::find_if(msrs.begin(), msrs.end(), [](const kvm_msr_entry& e) { return e.index == kMsrTsc; });
  if (!msrs.empty() && isDeadline(msrs.back()) && msrs.back().data == 0 && tsc != msrs.end()) {
    msrs.back().data = tsc->data;
  }
  TSHYVE_TRY([[maybe_unused]] const auto refused, setMsrs(msrs));
  return restoreWith<kvm_vcpu_events>(reader, fd(), KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS");
}

}  // namespace tshyve::kvm
