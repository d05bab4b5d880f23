// The entropy device with a hostile driver.
#include "virtio/rng/rng_device.h"
#include "virtio/testing/fuzz_device.h"

using namespace tshyve;
using namespace tshyve::virtio;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fuzz").value());
  RngDevice device(*loop);
  test::fuzzDevice(device, data, size);
  return 0;
}
