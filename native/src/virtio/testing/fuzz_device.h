#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <vector>

#include "virtio/device.h"
#include "virtio/testing/fuzz_input.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio::test {

/// Plays a fuzzer's input as the driver of a device: guest memory writes, kicks, configuration accesses, resets,
/// pauses. The device must be fresh, its loop without a thread. The first byte chooses features.
/// @param memory at least 1 MiB; the fuzzer's, so that it is not mapped anew each time
/// @param hostEvent runs on one of the steps: what the world outside does to the device
template <typename HostEvent>
void fuzzDevice(Device& device, const GuestMemory& memory, FuzzInput& input, HostEvent hostEvent) {
  const auto ram = *memory.slice(0, memory.totalBytes());
  RecordingSignals signals;
  std::vector<std::unique_ptr<Queue>> queues;
  const auto queueCount = static_cast<std::uint16_t>(device.queueSizes().size());
  bool active = false;
  bool paused = false;
  const auto start = [&](std::uint64_t features) {
    device.reset();
    queues.clear();
    signals.broken.reset();
    std::fill(ram.begin(), ram.begin() + 0x8000, std::byte{0});
    std::vector<Queue*> pointers;
    for (std::uint16_t index = 0; index < queueCount; index++) {
      auto queue = Queue::create(memory, fuzzLayout(index), features);
      queues.push_back(std::move(*queue));
      pointers.push_back(queues.back().get());
    }
    active =
        device.activate({.memory = memory, .queues = std::move(pointers), .features = features, .signals = signals})
            .ok();
  };
  start((device.features() & ~std::uint64_t{input.take<std::uint8_t>()} << 28) | kFeatureVersion1);
  while (!input.empty()) {
    const auto code = input.take<std::uint8_t>();
    const auto queue = static_cast<std::uint16_t>((code & 7) % queueCount);
    switch (code >> 4) {
      case 0:
      case 1:
      case 2:
        // The transport brings no kicks while the device is broken or paused.
        if (active && !paused && !signals.broken) device.notify(queue);
        break;
      case 3:
        device.loop().runOnce(std::chrono::milliseconds(0));
        break;
      case 4: {
        std::array<std::byte, 8> bytes{};
        device.readConfig(input.take<std::uint16_t>(), std::span(bytes).first(1U << (code & 3)));
        break;
      }
      case 5: {
        const auto value = input.take<std::uint64_t>();
        device.writeConfig(input.take<std::uint8_t>(), std::as_bytes(std::span(&value, 1)).first(1U << (code & 3)));
        break;
      }
      case 6:
        if (paused) {
          device.resume();
        } else {
          device.pause();
        }
        paused = !paused;
        break;
      case 7:
        if (!paused) start(device.features() | kFeatureVersion1);
        break;
      case 8:
        hostEvent(input);
        break;
      default:
        fuzzGuestWrite(memory, input, queue, static_cast<std::uint8_t>(code >> 5));
    }
  }
  device.loop().runOnce(std::chrono::milliseconds(0));
  device.reset();
}

inline void fuzzDevice(Device& device, const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<GuestMemory> memory = makeMemory(1 << 20);
  FuzzInput input(data, size);
  fuzzDevice(device, *memory, input, [](FuzzInput&) {});
}

}  // namespace tshyve::virtio::test
