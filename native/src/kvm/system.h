#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/api.h"

namespace tshyve::kvm {

/// An ioctl that is retried when a signal interrupts it.
/// @return -1 with errno set when it fails
int ioctlRetry(int fd, unsigned long request, unsigned long argument);
template <typename T>
int ioctlRetry(int fd, unsigned long request, T* argument) {
  return ioctlRetry(fd, request, reinterpret_cast<unsigned long>(argument));
}

/// The host's KVM: an open /dev/kvm whose interface version and capabilities are the ones this program needs.
class System {
 public:
  /// The error says what is missing and what to do about it.
  static Result<System> open();

  [[nodiscard]] int fd() const { return fd_.get(); }
  /// @return the value of a KVM_CAP_*; 0 when the host lacks it
  [[nodiscard]] int capability(int number) const;
  /// Bytes of the structure a vCPU shares with us.
  [[nodiscard]] std::size_t runSize() const { return runSize_; }
  [[nodiscard]] std::uint32_t maxCpus() const;
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> supportedCpuid() const;
  /// MSRs a snapshot has to hold.
  [[nodiscard]] Result<std::vector<std::uint32_t>> msrIndexList() const;

 private:
  System(UniqueFd fd, std::size_t runSize) : fd_(std::move(fd)), runSize_(runSize) {}
  UniqueFd fd_;
  std::size_t runSize_;
};

}  // namespace tshyve::kvm
