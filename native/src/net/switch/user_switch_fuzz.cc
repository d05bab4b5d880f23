// What a machine may send to the switch's own services: every byte of the frame is the guest's.
#include <cstdint>
#include <cstdlib>

#include "net/switch/dhcp_server.h"
#include "net/switch/name_service.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tshyve::net;
  const auto frame = std::as_bytes(std::span(data, size));
  const MacAddress mac = {0x52, 0x54, 0, 0x12, 0x34, 0x56};
  DhcpServer dhcp({.serverMac = {0x52, 0x55, 10, 0, 2, 2},
                   .server = {10, 0, 2, 2},
                   .netmask = {255, 255, 255, 0},
                   .router = {10, 0, 2, 2},
                   .nameServer = {10, 0, 2, 3},
                   .domain = "tshyve.internal",
                   .mtu = 1500,
                   .leaseSeconds = 60});
  dhcp.reserve(mac, {10, 0, 2, 15}, "dev");
  NameService names({10, 0, 2, 3}, {});
  names.set("dev", {10, 0, 2, 15});
  // An answer is a frame that our own parser takes.
  const auto check = [](const auto& answer) {
    if (answer && !parseUdpFrame(*answer)) std::abort();
  };
  check(dhcp.answer(frame));
  check(names.answer(frame));
  return 0;
}
