#pragma once

#include <cstdint>

namespace tshyve::virtio {

/// Context ids: everybody's host, and the first a guest may have (Virtual I/O Device 1.2, section 5.10.4).
constexpr std::uint64_t kHostCid = 2;
constexpr std::uint64_t kFirstGuestCid = 3;

/// What a vsock packet begins with (section 5.10.6; little-endian).
struct [[gnu::packed]] VsockHeader {
  std::uint64_t sourceCid = 0;
  std::uint64_t destinationCid = 0;
  std::uint32_t sourcePort = 0;
  std::uint32_t destinationPort = 0;
  std::uint32_t length = 0;
  std::uint16_t type = 0;
  std::uint16_t operation = 0;
  std::uint32_t flags = 0;
  std::uint32_t bufferAllocated = 0;
  std::uint32_t forwardedCount = 0;
};
static_assert(sizeof(VsockHeader) == 44);

constexpr std::uint16_t kVsockTypeStream = 1;

enum class VsockOperation : std::uint16_t {
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

/// Flags of kShutdown: what its sender will not do any more.
constexpr std::uint32_t kVsockShutdownReceive = 1;
constexpr std::uint32_t kVsockShutdownSend = 2;
constexpr std::uint32_t kVsockShutdownBoth = kVsockShutdownReceive | kVsockShutdownSend;

/// The only event there is (section 5.10.6.7): all connections are gone.
constexpr std::uint32_t kVsockEventTransportReset = 0;

}  // namespace tshyve::virtio
