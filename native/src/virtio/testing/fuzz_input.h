#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "memory/guest_memory.h"
#include "virtio/queue.h"

namespace tshyve::virtio::test {

/// A fuzzer's bytes, read from the front as the script of a hostile guest. Reads beyond the end give zeros.
class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  template <typename T>
  requires std::is_trivially_copyable_v<T> T take() {
    T value{};
    const std::size_t size = std::min(sizeof value, rest_.size());
    if (size > 0) std::memcpy(&value, rest_.data(), size);
    rest_ = rest_.subspan(size);
    return value;
  }
  std::span<const std::byte> takeBytes(std::size_t wanted) {
    const auto bytes = std::as_bytes(rest_.first(std::min(wanted, rest_.size())));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

/// Where fuzzers put the rings of queue n, so that a few bytes reach each of them: 8 descriptors each.
constexpr std::uint16_t kFuzzQueueSize = 8;
constexpr QueueLayout fuzzLayout(std::uint16_t queue) {
  const std::uint64_t base = 0x1000 + queue * 0x400ULL;
  return {.size = kFuzzQueueSize, .descriptorTable = base, .availableRing = base + 0x100, .usedRing = base + 0x200};
}

/// One step of a guest that writes where it likes, but mostly where it matters: descriptors, heads, data.
/// @param code picks the step
inline void fuzzGuestWrite(const GuestMemory& memory, FuzzInput& input, std::uint16_t queue, std::uint8_t code) {
  const QueueLayout layout = fuzzLayout(queue);
  switch (code % 4) {
    case 0: {
      // A descriptor whose fields are small enough to be right now and then.
      struct {
        std::uint64_t address;
        std::uint32_t length;
        std::uint16_t flags;
        std::uint16_t next;
      } descriptor{};
      const std::uint16_t index = input.take<std::uint8_t>() % kFuzzQueueSize;
      descriptor.address = input.take<std::uint16_t>() * 16ULL;
      descriptor.length = input.take<std::uint16_t>();
      const auto bits = input.take<std::uint8_t>();
      descriptor.flags = bits & 7;
      descriptor.next = bits >> 4;
      static_cast<void>(memory.write(layout.descriptorTable + index * 16ULL, descriptor));
      break;
    }
    case 1: {
      // Offers a head.
      const auto index = memory.read<std::uint16_t>(layout.availableRing + 2).value_or(0);
      const auto head = static_cast<std::uint16_t>(input.take<std::uint8_t>() % (kFuzzQueueSize + 1));
      static_cast<void>(memory.write(layout.availableRing + 4 + index % kFuzzQueueSize * 2ULL, head));
      static_cast<void>(memory.write(layout.availableRing + 2, static_cast<std::uint16_t>(index + 1)));
      break;
    }
    case 2: {
      // Any bytes in the first MiB: data, headers, tables, rings.
      const std::uint64_t address = input.take<std::uint16_t>() * 16ULL;
      static_cast<void>(memory.writeBytes(address, input.takeBytes(input.take<std::uint8_t>() % 64U)));
      break;
    }
    default: {
      // A raw 16-bit field of the queue.
      const std::uint64_t address = layout.descriptorTable + input.take<std::uint16_t>() % 0x3ffU;
      static_cast<void>(memory.write(address, input.take<std::uint16_t>()));
    }
  }
}

}  // namespace tshyve::virtio::test
