#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/state_stream.h"
#include "bus/bus.h"
#include "vmm/vm_services.h"

namespace tshyve {

/// The PC's real-time clock with 114 bytes of memory behind an index and a data port (Motorola MC146818 data sheet).
/// It shows the host's UTC time plus what the guest has set. Alarm and update interrupts work; the periodic interrupt
/// does not exist, operating systems of this century use better timers.
class CmosClock final : public BusDevice {
 public:
  using Now = std::function<std::chrono::system_clock::time_point()>;

  /// @param loop where alarms fire; outlives the clock
  static Result<std::shared_ptr<CmosClock>> create(EventLoop& loop, std::unique_ptr<InterruptLine> line,
                                                   Now now = &std::chrono::system_clock::now);
  ~CmosClock() override;

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  void save(StateWriter& writer) const;
  Result<void> restore(StateReader& reader);

 private:
  CmosClock(std::unique_ptr<InterruptLine> line, Now now);
  std::uint8_t readRegister();
  void writeRegister(std::uint8_t value);
  [[nodiscard]] std::chrono::sys_time<std::chrono::microseconds> guestTime() const;
  /// Writes the time into the registers.
  void latchTime();
  /// Takes the time from the registers.
  void setTime();
  [[nodiscard]] std::uint8_t encode(unsigned value) const;
  [[nodiscard]] unsigned decode(std::uint8_t value) const;
  [[nodiscard]] bool alarmMatches() const;
  void armTimer();
  void tick();
  void raise(std::uint8_t flag);

  std::unique_ptr<InterruptLine> line_;
  Now now_;
  std::unique_ptr<EventLoop::Timer> timer_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::uint8_t index_ = 0;
  std::array<std::uint8_t, 128> registers_{};
  std::int64_t offsetSeconds_ = 0;
};

}  // namespace tshyve
