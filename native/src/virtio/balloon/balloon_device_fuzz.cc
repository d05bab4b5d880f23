#include <cstdlib>

#include "virtio/balloon/balloon_device.h"
#include "virtio/testing/fuzz_device.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tshyve;
  const auto loop = std::move(EventLoop::create("balloon").value());
  virtio::BalloonDevice device(*loop);
  virtio::test::FuzzInput input(data, size);
  virtio::test::fuzzDevice(device, input, [&](virtio::test::FuzzInput& more) {
    device.setTarget(more.take<std::uint64_t>());
    device.requestStatistics([](const virtio::BalloonStatistics& statistics) {
      if (statistics.size() > 64) std::abort();
    });
  });
  return 0;
}
