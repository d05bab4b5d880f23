#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/ethernet.h"

namespace tshyve::net {

/// What VPNKit says about the interface it gives us.
struct VpnkitInterface {
  std::uint16_t mtu = 0;
  std::uint16_t maxPacketSize = 0;
  MacAddress mac{};
};

/// The client's half of the talk before the first frame, as bytes in and out. Messages have fixed sizes: 49 bytes of
/// greeting each way, a command of 41 bytes, a reply of 258 (HyperKit, pci_virtio_net_vpnkit.c).
class VpnkitHandshake {
 public:
  /// @param uuid 36 characters; a peer gives the same one the same MAC and IP address
  static Result<VpnkitHandshake> create(const std::string& uuid);

  /// What has to be sent first of all.
  [[nodiscard]] std::vector<std::byte> greeting() const;
  /// How many bytes `feed` wants next; 0 when done.
  [[nodiscard]] std::size_t wanted() const;
  /// Takes exactly `wanted` bytes.
  /// @return what has to be sent in answer (may be empty)
  Result<std::vector<std::byte>> feed(std::span<const std::byte> bytes);
  /// Set when the talk is over.
  [[nodiscard]] const std::optional<VpnkitInterface>& interface() const { return interface_; }

 private:
  enum class Stage { kGreeting, kReply, kDone };
  explicit VpnkitHandshake(std::string uuid) : uuid_(std::move(uuid)) {}
  Result<void> parseReply(std::span<const std::byte> bytes);

  std::string uuid_;
  Stage stage_ = Stage::kGreeting;
  std::optional<VpnkitInterface> interface_;
};

}  // namespace tshyve::net
