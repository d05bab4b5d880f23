#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "net/frame_backend.h"
#include "virtio/net/net_device.h"
#include "virtio/testing/guest_driver.h"

namespace tshyve::virtio {
namespace {

/// Frames of the lengths the input says; what is sent is read to its last byte, so that a bad address shows.
class FuzzedBackend final : public net::FrameBackend {
 public:
  explicit FuzzedBackend(bool offloads) {
    properties_.mtu = 1500;
    if (offloads) properties_.offloads = {true, true, true, true};
  }
  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return true; }
  Result<void> setReceiveOffloads(const net::Offloads&) override { return {}; }
  std::size_t send(std::span<const net::OutgoingFrame> frames) override {
    std::size_t taken = 0;
    for (const net::OutgoingFrame& frame : frames) {
      if (room-- == 0) break;
      std::size_t length = 0;
      for (const iovec& part : frame.data) {
        const auto* bytes = static_cast<const unsigned char*>(part.iov_base);
        for (std::size_t index = 0; index < part.iov_len; index++)
          sink_ = static_cast<unsigned char>(sink_ ^ bytes[index]);
        length += part.iov_len;
      }
      if (length != frame.length || !frame.header.validFor(length, properties_.offloads)) __builtin_trap();
      taken++;
    }
    if (taken < frames.size()) blocked = true;
    return taken;
  }
  std::optional<std::size_t> receive(net::VirtioNetHeader& header, std::span<const iovec> target) override {
    header = {};
    while (!lengths.empty()) {
      const std::size_t length = lengths.front();
      lengths.pop_front();
      std::size_t left = length;
      for (const iovec& part : target) {
        const std::size_t count = std::min(left, part.iov_len);
        std::memset(part.iov_base, 0x5a, count);
        left -= count;
      }
      if (left == 0) return length;
    }
    return std::nullopt;
  }
  void setReceiving(bool value) override { receiving = value; }
  [[nodiscard]] Listener* events() const { return listener(); }

  std::deque<std::size_t> lengths;
  std::size_t room = 1000;
  bool blocked = false;
  bool receiving = false;

 private:
  Properties properties_;
  volatile unsigned char sink_ = 0;
};

/// Bytes of the input, zeros after its end.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data, size) {}
  std::uint8_t u8() {
    if (data_.empty()) return 0;
    const std::uint8_t value = data_[0];
    data_ = data_.subspan(1);
    return value;
  }
  std::uint16_t u16() { return static_cast<std::uint16_t>(u8() | u8() << 8); }
  [[nodiscard]] bool empty() const { return data_.empty(); }

 private:
  std::span<const std::uint8_t> data_;
};

constexpr std::uint64_t kMemory = 1 << 20;

void run(Input input) {
  auto loop = EventLoop::create("fuzz");
  if (!loop) return;
  const std::uint8_t options = input.u8();
  auto owned = std::make_unique<FuzzedBackend>((options & 1) != 0);
  FuzzedBackend& backend = *owned;
  const auto device = NetDevice::create(**loop, "net0", {2, 0, 0, 0, 0, 1}, std::move(owned), {});
  test::DeviceHarness harness(*device, kMemory, 16);
  std::uint64_t features = device->features() | kFeatureVersion1;
  if ((options & 2) != 0) features &= ~(1ULL << 15);
  if ((options & 4) != 0) features &= ~kFeatureEventIndex;
  if (!harness.activate(features)) return;
  const std::uint64_t data = harness.allocator.allocate(1 << 17);
  int steps = 0;
  while (!input.empty() && steps++ < 200) {
    const std::uint8_t action = input.u8();
    const auto queue = static_cast<std::uint16_t>(action & 1);
    test::GuestQueue& guest = harness.queue(queue);
    switch (action >> 1 & 7) {
      case 0: {
        // A well-formed chain of odd pieces.
        std::vector<test::Buffer> buffers;
        const int count = input.u8() % 5 + 1;
        for (int index = 0; index < count; index++) {
          buffers.push_back({data + input.u16(), static_cast<std::uint32_t>(input.u16() & 0x3fff), queue == 0});
        }
        guest.offer(buffers);
        break;
      }
      case 1:
        // Anything.
        guest.writeDescriptor(static_cast<std::uint16_t>(input.u8() % 16), data + input.u16() * std::uint64_t{7},
                              std::uint32_t{input.u16()} * input.u16(), input.u8() & 7,
                              static_cast<std::uint16_t>(input.u8() % 20));
        guest.offerHead(static_cast<std::uint16_t>(input.u8() % 20));
        break;
      case 2:
        harness.notify(queue);
        break;
      case 3:
        backend.lengths.push_back(static_cast<std::size_t>(input.u16()) + 14);
        if (backend.receiving) backend.events()->framesReady();
        break;
      case 4:
        backend.room = input.u8() % 8;
        if (std::exchange(backend.blocked, false)) backend.events()->sendReady();
        break;
      case 5: {
        // A header, or the start of a DHCP message, where frames begin.
        std::vector<std::byte> bytes(64);
        const std::uint64_t at = data + input.u16();
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(input.u8());
        if (!harness.memory->writeBytes(at, bytes)) __builtin_trap();
        break;
      }
      case 6:
        if (queue == 0) {
          device->pause();
          device->resume();
        } else if (!harness.activate(features)) {
          return;
        }
        break;
      default:
        (*loop)->runOnce(std::chrono::milliseconds(0));
        while (guest.takeUsed()) {
        }
    }
    if (harness.signals.broken) {
      harness.signals.broken.reset();
      if (!harness.activate(features)) return;
    }
  }
}

}  // namespace
}  // namespace tshyve::virtio

/// A driver that does what the input says, between a back end that does likewise.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tshyve::virtio::run(tshyve::virtio::Input(data, size));
  return 0;
}
