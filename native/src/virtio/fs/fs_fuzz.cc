#include <sys/socket.h>

#include <cstdlib>

#include "virtio/fs/fs_device.h"
#include "virtio/testing/guest_driver.h"

// All a vhost-user peer can say, in advance: the bytes wait in the socket before the device asks.
extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace tshyve;
  constexpr std::size_t kMaxBytes = 64 * 1024;
  if (size > kMaxBytes) return 0;
  const auto loop = std::move(EventLoop::create("fs").value());
  int connections = 0;
  // The peer's ends: it hears what the device says.
  std::vector<UniqueFd> peers;
  auto device = virtio::FsDevice::create(
      *loop, "share",
      [&]() -> Result<UniqueFd> {
        int pair[2];
        if (connections++ > 0 || ::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
          return Error{ErrorCode::kNotFound, "nobody there"};
        }
        UniqueFd ours(pair[0]);
        peers.emplace_back(pair[1]);
        if (size > 0 && ::send(pair[1], data, size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) std::abort();
        ::shutdown(pair[1], SHUT_WR);
        return ours;
      },
      "the peer");
  if (!device) return 0;
  virtio::test::DeviceHarness harness(**device, 64 * 1024, 16, GuestMemory::Backing::kShared);
  const bool active = harness.activate().ok();
  if (active) {
    (*device)->notify(1);
    (*device)->pause();
    (*device)->resume();
  }
  loop->runOnce(std::chrono::milliseconds(0));
  harness.reset();
  return 0;
}
