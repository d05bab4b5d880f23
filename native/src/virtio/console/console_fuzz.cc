// The console with a hostile driver, and input from the host at any time.
#include <cstdlib>

#include "virtio/console/console_device.h"
#include "virtio/testing/fuzz_device.h"

using namespace tshyve;
using namespace tshyve::virtio;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fuzz").value());
  static const std::unique_ptr<GuestMemory> memory = test::makeMemory(1 << 20);
  ConsoleDevice device(*loop, [](const std::string& text) {
    if (text.empty() || text.size() > ConsoleDevice::kMaxOutput) std::abort();
  });
  test::FuzzInput input(data, size);
  test::fuzzDevice(device, *memory, input, [&](test::FuzzInput& more) {
    static_cast<void>(device.receive(more.takeBytes(more.take<std::uint8_t>())));
  });
  return 0;
}
