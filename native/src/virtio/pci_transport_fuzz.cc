// Register accesses of any offset, width and order, with a device behind them that serves its queues.
#include "virtio/pci_transport.h"
#include "virtio/rng/rng_device.h"
#include "virtio/testing/fuzz_input.h"
#include "virtio/testing/pci_guest.h"

using namespace tshyve;
using namespace tshyve::virtio;

namespace {

constexpr std::size_t kWidths[] = {1, 2, 4, 8};
constexpr std::uint64_t kFeatures = kFeatureVersion1 | kFeatureEventIndex | kFeatureIndirectDescriptors;

/// A driver that does everything right up to DRIVER_OK: a fuzzer would need long to find these steps.
void start(test::PciGuest& guest) {
  guest.negotiate(kFeatures);
  guest.enableMsix();
  guest.setUpQueue(0, test::fuzzLayout(0), 1);
  guest.setStatus(kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk);
}

void access(Bus& bus, test::FuzzInput& input, std::uint64_t address, std::uint8_t code) {
  const std::size_t width = kWidths[code & 3];
  if ((code & 4) != 0) {
    std::array<std::byte, 8> out;
    bus.read(address, std::span(out).first(width));
  } else {
    const auto value = input.take<std::uint64_t>();
    bus.write(address, std::as_bytes(std::span(&value, 1)).first(width));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fuzz").value());
  test::FuzzInput input(data, size);
  test::PciGuest guest(std::make_shared<RngDevice>(*loop), 1 << 20);
  if ((input.take<std::uint8_t>() & 1) != 0) start(guest);
  while (!input.empty()) {
    const auto code = input.take<std::uint8_t>();
    switch (code >> 5) {
      case 0:
        access(guest.memoryBus, input, guest.barAddress + input.take<std::uint8_t>() % 0x40U, code);
        break;
      case 1:
        access(guest.memoryBus, input, guest.barAddress + input.take<std::uint16_t>(), code);
        break;
      case 2:
        access(guest.memoryBus, input, 0xe0008000 + input.take<std::uint16_t>() % 0x1000U, code);
        break;
      case 3:
        access(guest.ports, input, 0xcf8 + input.take<std::uint8_t>() % 8U, code);
        break;
      case 4:
        guest.kick(input.take<std::uint8_t>() % 3);
        loop->runOnce(std::chrono::milliseconds(0));
        break;
      case 5:
        if ((code & 1) != 0) {
          guest.root->pause();
        } else {
          guest.root->resume();
        }
        break;
      case 6: {
        // A snapshot, of which some byte may have changed on its way.
        guest.root->pause();
        StateWriter writer;
        guest.root->save(writer);
        std::vector<std::byte> state(writer.data().begin(), writer.data().end());
        state[input.take<std::uint16_t>() % state.size()] ^= input.take<std::byte>();
        StateReader reader(state);
        static_cast<void>(guest.root->restore(reader).ok());
        guest.root->resume();
        break;
      }
      default:
        test::fuzzGuestWrite(*guest.memory, input, 0, code);
    }
    guest.barAddress = guest.config<std::uint32_t>(pci::kBar0);
  }
  loop->runOnce(std::chrono::milliseconds(0));
  return 0;
}
