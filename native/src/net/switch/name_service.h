#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/udp_frame.h"

namespace tshyve::net {

/// Answers DNS questions (RFC 1035) about the names of a network: machines and the host. Every other question is left
/// to the host's resolver.
class NameService {
 public:
  NameService(const Ipv4Address& address, const MacAddress& mac) : address_(address), mac_(mac) {}

  /// @param name in any case, without a final dot
  void set(const std::string& name, const Ipv4Address& address);
  void remove(const std::string& name);

  /// @return the answer to a frame that asks for a known name; nothing for everything else
  [[nodiscard]] std::optional<std::vector<std::byte>> answer(std::span<const std::byte> frame) const;

 private:
  const Ipv4Address address_;
  const MacAddress mac_;
  std::map<std::string, Ipv4Address> names_;
};

}  // namespace tshyve::net
