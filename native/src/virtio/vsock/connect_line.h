#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tshyve::virtio {

/// Longer than any line a client may begin with, its line feed included.
constexpr std::size_t kMaxConnectLine = 32;

/// Firecracker's way: `CONNECT <port>`, decimal, without the line feed (Firecracker docs/vsock.md).
std::optional<std::uint32_t> parseConnectCommand(std::string_view line);

/// HyperKit's way: `<cid>.<port>`, eight hexadecimal digits each, without the line feed (pci_virtio_sock.c).
struct VsockAddress {
  std::uint32_t cid = 0;
  std::uint32_t port = 0;
};
std::optional<VsockAddress> parseVsockAddress(std::string_view line);
/// The inverse; HyperKit names its sockets so.
std::string formatVsockAddress(const VsockAddress& address);

}  // namespace tshyve::virtio
