// The balloon with a hostile driver, and a host that changes its mind.
#include <cstdlib>

#include "virtio/balloon/balloon_device.h"
#include "virtio/testing/fuzz_device.h"

using namespace tshyve;
using namespace tshyve::virtio;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fuzz").value());
  static const std::unique_ptr<GuestMemory> memory = test::makeMemory(1 << 20);
  BalloonDevice device(*loop);
  test::FuzzInput input(data, size);
  test::fuzzDevice(device, *memory, input, [&](test::FuzzInput& more) {
    device.setTarget(more.take<std::uint32_t>());
    device.requestStatistics([](const BalloonStatistics& statistics) {
      if (statistics.size() > 64) std::abort();
    });
  });
  return 0;
}
