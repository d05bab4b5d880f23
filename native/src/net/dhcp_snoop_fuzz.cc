#include <cstdint>
#include <cstdlib>

#include "net/dhcp_snoop.h"

/// A frame each way: whatever a snoop reports must be an address a host can have.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto frame = std::as_bytes(std::span(data, size));
  tshyve::net::MacAddress guest = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
  tshyve::net::DhcpSnoop snoop(guest, [](const tshyve::net::DhcpSnoop::Lease& lease) {
    if (lease.address[0] == 0 || lease.address[0] >= 224) std::abort();
  });
  const auto message = tshyve::net::parseDhcp(frame);
  if (message && !tshyve::net::mayBeDhcp(frame)) std::abort();
  snoop.toGuest(frame);
  snoop.fromGuest(frame);
  // As if the guest had asked for exactly this, to get past the checks of who asked.
  if (message && message->fromServer) {
    auto request = std::vector<std::byte>(frame.begin(), frame.end());
    tshyve::net::DhcpSnoop own(message->client, [](const tshyve::net::DhcpSnoop::Lease& lease) {
      if (lease.address[0] == 0 || lease.address[0] >= 224) std::abort();
    });
    own.fromGuest(request);
    own.toGuest(frame);
  }
  return 0;
}
