#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/state_stream.h"
#include "bus/bus.h"
#include "vmm/vm_services.h"

namespace tshyve {

/// A 16550A serial port (National Semiconductor PC16550D data sheet). Output never waits: the transmitter is empty at
/// once, and bytes are handed on in batches. Line speed and parity are remembered and mean nothing.
class Serial final : public BusDevice {
 public:
  /// Must not block; called on the loop's thread and on vCPU threads, one call at a time.
  using Output = std::function<void(std::string)>;

  /// @param loop where batches of output leave from; outlives the port
  static Result<std::shared_ptr<Serial>> create(EventLoop& loop, std::unique_ptr<InterruptLine> line, Output output);
  ~Serial() override;

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  /// Input for the guest; all of it or nothing. Any thread.
  Result<void> receive(std::span<const std::byte> bytes);
  /// Hands on what is waiting. Any thread.
  void flush();

  void save(StateWriter& writer) const;
  Result<void> restore(StateReader& reader);

 private:
  Serial(std::unique_ptr<InterruptLine> line, Output output);
  std::uint8_t readRegister(std::uint64_t offset);
  void writeRegister(std::uint64_t offset, std::uint8_t value);
  void transmit(std::uint8_t value);
  [[nodiscard]] std::uint8_t interruptIdentification() const;
  [[nodiscard]] std::uint8_t modemStatus() const;
  void updateLine();

  std::unique_ptr<InterruptLine> line_;
  Output output_;
  std::unique_ptr<EventLoop::Timer> timer_;

  std::mutex outputMutex_;  // held while output leaves; taken before mutex_
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::string pendingOutput_;
  std::deque<std::uint8_t> input_;
  bool lineAsserted_ = false;
  bool transmitterInterrupt_ = false;  // latched until the guest reads it or writes more
  std::uint8_t interruptEnable_ = 0;
  std::uint8_t fifoControl_ = 0;
  std::uint8_t lineControl_ = 0;
  std::uint8_t modemControl_ = 0;
  std::uint8_t scratch_ = 0;
  std::uint16_t divisor_ = 12;  // 9600 baud
};

}  // namespace tshyve
