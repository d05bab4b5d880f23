#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "vmm/vm_services.h"

namespace tshyve::virtio::test {

/// An interrupt that counts instead of reaching a guest.
class FakeMsiVector final : public MsiVector {
 public:
  explicit FakeMsiVector(EventFd event) : event_(std::move(event)) {}

  Result<void> configure(std::uint64_t address, std::uint32_t data) override {
    const std::lock_guard lock(mutex_);
    address_ = address;
    data_ = data;
    return {};
  }
  Result<void> setMasked(bool masked) override {
    const std::lock_guard lock(mutex_);
    masked_ = masked;
    if (!masked && std::exchange(pending_, false)) delivered_++;
    return {};
  }
  void trigger() override {
    const std::lock_guard lock(mutex_);
    if (masked_) {
      pending_ = true;
    } else {
      delivered_++;
    }
  }
  [[nodiscard]] bool pending() const override {
    const std::lock_guard lock(mutex_);
    return pending_;
  }
  [[nodiscard]] int irqFd() const override { return event_.fd(); }

  [[nodiscard]] std::uint64_t delivered() const {
    const std::lock_guard lock(mutex_);
    return delivered_;
  }
  [[nodiscard]] std::pair<std::uint64_t, std::uint32_t> message() const {
    const std::lock_guard lock(mutex_);
    return {address_, data_};
  }

 private:
  mutable std::mutex mutex_;
  EventFd event_;
  std::uint64_t address_ = 0;
  std::uint32_t data_ = 0;
  bool masked_ = false;
  bool pending_ = false;
  std::uint64_t delivered_ = 0;
};

/// What unit tests and fuzzers put in the hypervisor's place.
class FakeVmServices final : public VmServices {
 public:
  Result<std::unique_ptr<MsiVector>> createMsiVector() override {
    TSHYVE_TRY(EventFd event, EventFd::create());
    auto vector = std::make_unique<FakeMsiVector>(std::move(event));
    vectors.push_back(vector.get());
    return std::unique_ptr<MsiVector>(std::move(vector));
  }
  Result<std::unique_ptr<InterruptLine>> interruptLine(std::uint32_t) override {
    class Line final : public InterruptLine {
      void set(bool) override {}
    };
    return std::unique_ptr<InterruptLine>(std::make_unique<Line>());
  }
  Result<void> addIoEvent(IoSpace space, std::uint64_t address, int eventFd) override {
    const std::lock_guard lock(mutex_);
    // As KVM: an address can be bound once.
    if (!ioEvents_.emplace(std::pair(space, address), eventFd).second) {
      return Error{ErrorCode::kHost, "ioeventfd: File exists"};
    }
    return {};
  }
  void removeIoEvent(IoSpace space, std::uint64_t address, int) override {
    const std::lock_guard lock(mutex_);
    ioEvents_.erase({space, address});
  }

  /// A guest write to that address. @return false when it is bound to no eventfd: it goes to the bus
  bool writeIoEvent(IoSpace space, std::uint64_t address) {
    const std::lock_guard lock(mutex_);
    const auto found = ioEvents_.find({space, address});
    if (found == ioEvents_.end()) return false;
    const std::uint64_t one = 1;
    return ::write(found->second, &one, sizeof one) == sizeof one;
  }
  [[nodiscard]] std::size_t ioEventCount() const {
    const std::lock_guard lock(mutex_);
    return ioEvents_.size();
  }

  /// In the order of their creation; they belong to who created them.
  std::vector<FakeMsiVector*> vectors;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<IoSpace, std::uint64_t>, int> ioEvents_;
};

}  // namespace tshyve::virtio::test
