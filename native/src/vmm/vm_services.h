#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/event_fd.h"
#include "base/result.h"

namespace tshyve {

/// One message-signalled interrupt. Any thread may trigger it.
class MsiVector {
 public:
  virtual ~MsiVector() = default;
  /// Where the guest wants the message to go (PCI 3.0, 6.8.2). Takes effect for the next trigger.
  virtual Result<void> configure(std::uint64_t address, std::uint32_t data) = 0;
  /// A masked vector remembers that it was triggered; unmasking delivers it.
  virtual Result<void> setMasked(bool masked) = 0;
  virtual void trigger() = 0;
  /// True when a trigger is waiting for the mask to go.
  [[nodiscard]] virtual bool pending() const = 0;
  /// What a kernel-side or out-of-process data path (vhost, vhost-user) signals instead of `trigger`; valid as long as
  /// the vector lives.
  [[nodiscard]] virtual int irqFd() const = 0;
};

/// A level- or edge-triggered line of the interrupt controller (GSI). Any thread.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void set(bool asserted) = 0;
  /// Edge: asserts and deasserts.
  void pulse() {
    set(true);
    set(false);
  }
};

enum class IoSpace { kPort, kMemory };

/// What devices need of the hypervisor. KVM's implementation is kvm::Vm; unit tests and fuzzers have their own.
class VmServices {
 public:
  virtual ~VmServices() = default;
  virtual Result<std::unique_ptr<MsiVector>> createMsiVector() = 0;
  virtual Result<std::unique_ptr<InterruptLine>> interruptLine(std::uint32_t gsi) = 0;
  /// From now on, guest writes of any value and width to this address signal the eventfd and nothing else. The
  /// eventfd must live until `removeIoEvent`.
  virtual Result<void> addIoEvent(IoSpace space, std::uint64_t address, int eventFd) = 0;
  virtual void removeIoEvent(IoSpace space, std::uint64_t address, int eventFd) = 0;
};

}  // namespace tshyve
