#include "kvm/system.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <fstream>
#include <string>

namespace tshyve::kvm {
namespace {

constexpr const char* kDevice = "/dev/kvm";
/// Far above what any processor lists.
constexpr std::size_t kMaxCpuidEntries = 512;

struct NeededCapability {
  int number;
  const char* name;
};
constexpr NeededCapability kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_IRQCHIP, "in-kernel interrupt controller"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_SET_TSS_ADDR, "TSS address"},
    {KVM_CAP_EXT_CPUID, "CPUID list"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_SIGNAL_MSI, "signalled interrupts"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
};

/// Whether the processor shows Linux one of these words in /proc/cpuinfo.
bool processorHasVirtualization() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("flags", 0) != 0) continue;
    return (line + " ").find(" vmx ") != std::string::npos || (line + " ").find(" svm ") != std::string::npos;
  }
  return false;
}

Error cannotOpen(int number) {
  const std::string path = kDevice;
  if (number == EACCES || number == EPERM) {
    return {ErrorCode::kPermission,
            "no access to " + path + ": add your user to the group kvm (sudo usermod -aG kvm $USER) and log in again"};
  }
  if (number == ENOENT || number == ENODEV || number == ENXIO) {
    return {ErrorCode::kUnsupported,
            processorHasVirtualization()
                ? path +
                      " is missing though the processor can virtualize: load the module (modprobe kvm_intel or "
                      "kvm_amd) and see that virtualization is on in the firmware set-up"
                : path +
                      " is missing and the processor shows neither VT-x nor AMD-V: switch virtualization on in "
                      "the firmware set-up, or nested virtualization for this virtual machine"};
  }
  return Error::fromErrno("cannot open " + path, number);
}

}  // namespace

int ioctlRetry(int fd, unsigned long request, unsigned long argument) {
  int result = 0;
  do {
    result = ::ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

Result<System> System::open() {
  UniqueFd fd(::open(kDevice, O_RDWR | O_CLOEXEC));
  if (!fd) return cannotOpen(errno);
  const int version = ioctlRetry(fd.get(), KVM_GET_API_VERSION, 0UL);
  if (version != KVM_API_VERSION) {
    return Error{ErrorCode::kUnsupported, "/dev/kvm speaks interface version " + std::to_string(version) +
                                              ", this program version " + std::to_string(KVM_API_VERSION)};
  }
  for (const NeededCapability& needed : kNeeded) {
    if (ioctlRetry(fd.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(needed.number)) <= 0) {
      return Error{ErrorCode::kUnsupported,
                   std::string("the host's KVM lacks: ") + needed.name + "; a newer Linux kernel is needed"};
    }
  }
  const int runSize = ioctlRetry(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0UL);
  if (runSize < static_cast<int>(sizeof(kvm_run))) {
    return Error{ErrorCode::kUnsupported, "/dev/kvm shares less than this program needs; a newer kernel is needed"};
  }
  return System(std::move(fd), static_cast<std::size_t>(runSize));
}

int System::capability(int number) const {
  const int value = ioctlRetry(fd(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(number));
  return value < 0 ? 0 : value;
}

std::uint32_t System::maxCpus() const {
  const int value = capability(KVM_CAP_MAX_VCPUS);
  return value > 0 ? static_cast<std::uint32_t>(value) : 4;  // 4 is what the API promises without the capability
}

Result<std::vector<kvm_cpuid_entry2>> System::supportedCpuid() const {
  FlexArray<kvm_cpuid2, kvm_cpuid_entry2> list(kMaxCpuidEntries);
  list.header().nent = kMaxCpuidEntries;
  if (ioctlRetry(fd(), KVM_GET_SUPPORTED_CPUID, &list.header()) < 0) return Error::fromErrno("KVM_GET_SUPPORTED_CPUID");
  return std::vector<kvm_cpuid_entry2>(list.entries(), list.entries() + list.header().nent);
}

Result<std::vector<std::uint32_t>> System::msrIndexList() const {
  kvm_msr_list probe{};
  // Fails with E2BIG and says how many there are.
  if (ioctlRetry(fd(), KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG) {
    return Error::fromErrno("KVM_GET_MSR_INDEX_LIST");
  }
  FlexArray<kvm_msr_list, std::uint32_t> list(probe.nmsrs);
  list.header().nmsrs = probe.nmsrs;
  if (ioctlRetry(fd(), KVM_GET_MSR_INDEX_LIST, &list.header()) < 0) return Error::fromErrno("KVM_GET_MSR_INDEX_LIST");
  return std::vector<std::uint32_t>(list.entries(), list.entries() + list.header().nmsrs);
}

}  // namespace tshyve::kvm
