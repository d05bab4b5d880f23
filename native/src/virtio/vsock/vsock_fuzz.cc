#include <fcntl.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/testing/temporary_folder.h"
#include "net/unix_socket.h"
#include "virtio/testing/guest_driver.h"
#include "virtio/vsock/connect_line.h"
#include "virtio/vsock/vsock_device.h"

namespace tshyve::virtio {
namespace {

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
  [[nodiscard]] std::span<const std::uint8_t> rest() const { return data_; }

 private:
  std::span<const std::uint8_t> data_;
};

constexpr std::uint64_t kMemory = 1 << 20;
constexpr std::uint32_t kCid = 3;

/// A host with two servers and clients of both conventions.
class Host {
 public:
  explicit Host(const std::string& folder) : folder_(folder) {
    for (const char* name : {"/vsock.sock_1", "/00000002.00000002"}) {
      UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      const auto address = net::unixAddress(folder + name);
      if (::bind(server.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
          ::listen(server.get(), 8) != 0) {
        std::abort();
      }
      servers_.push_back(std::move(server));
    }
  }
  void acceptAll() {
    for (const UniqueFd& server : servers_) {
      for (;;) {
        UniqueFd socket(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) break;
        sockets_.push_back(std::move(socket));
      }
    }
  }
  void connect(bool firecracker, const std::string& line) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const auto address = net::unixAddress(folder_ + (firecracker ? "/vsock.sock" : "/connect"));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) return;
    (void)!::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
    sockets_.push_back(std::move(socket));
  }
  void act(std::uint8_t which, std::uint8_t what) {
    if (sockets_.empty()) return;
    const std::size_t index = which % sockets_.size();
    const int fd = sockets_[index].get();
    std::vector<char> bytes(std::size_t{what} * 256 + 1);
    switch (what & 3) {
      case 0:
        (void)!::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        break;
      case 1:
        (void)!::recv(fd, bytes.data(), bytes.size(), 0);
        break;
      case 2:
        ::shutdown(fd, (what & 4) != 0 ? SHUT_WR : SHUT_RD);
        break;
      default:
        sockets_.erase(sockets_.begin() + static_cast<std::ptrdiff_t>(index));
    }
  }

 private:
  const std::string folder_;
  std::vector<UniqueFd> servers_;
  std::vector<UniqueFd> sockets_;
};

void checkLines(std::span<const std::uint8_t> bytes) {
  const std::string_view line(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  (void)parseConnectCommand(line);
  if (const auto address = parseVsockAddress(line)) {
    const auto again = parseVsockAddress(formatVsockAddress(*address));
    if (!again || again->cid != address->cid || again->port != address->port) std::abort();
  }
}

void offerPacket(test::DeviceHarness& harness, std::uint64_t data, Input& input) {
  VsockHeader header;
  const std::uint8_t oddities = input.u8();
  header.sourceCid = (oddities & 1) != 0 ? input.u8() : kCid;
  header.destinationCid = (oddities & 2) != 0 ? input.u8() : kHostCid;
  header.sourcePort = input.u8() % 4U;
  header.destinationPort = (oddities & 4) != 0 ? (1U << 30) + input.u8() % 4U : input.u8() % 4U;
  header.length = (oddities & 8) != 0 ? input.u16() : 0;
  header.type = (oddities & 16) != 0 ? input.u8() : kVsockTypeStream;
  header.operation = input.u8() % 10;
  header.flags = input.u8();
  header.bufferAllocated = input.u16() * 4U;
  header.forwardedCount = input.u16();
  if (!harness.memory->write(data, header)) std::abort();
  const std::uint32_t split = input.u8() % sizeof header + 1;
  const std::uint32_t total = sizeof header + ((oddities & 32) != 0 ? input.u16() : header.length);
  harness.queue(1).offer({{data, split, false}, {data + split, total - split, false}});
}

void run(Input input) {
  checkLines(input.rest());
  const TemporaryFolder folder;
  auto loop = EventLoop::create("fuzz");
  auto device = VsockDevice::create(**loop, {kCid, folder.path("v")}, {});
  if (!device) std::abort();
  Host host(folder.path("v"));
  test::DeviceHarness harness(**device, kMemory, 16);
  if (!harness.activate()) return;
  const std::uint64_t data = harness.allocator.allocate(1 << 17);
  int steps = 0;
  while (!input.empty() && steps++ < 200) {
    const std::uint8_t action = input.u8();
    switch (action & 15) {
      case 0:
      case 1:
      case 2:
        offerPacket(harness, data, input);
        harness.notify(1);
        break;
      case 3:
        harness.queue(0).offer({{data + 0x10000, input.u16(), true}});
        harness.notify(0);
        break;
      case 4:
      case 5:
        harness.queue(0).offer({{data + 0x10000, 30, true}, {data + 0x11000, 4096, true}});
        harness.notify(0);
        break;
      case 6: {
        test::GuestQueue& queue = harness.queue(input.u8() % 3);
        queue.writeDescriptor(input.u8() % 16, data + input.u16() * std::uint64_t{7},
                              std::uint32_t{input.u16()} * input.u16(), input.u8() & 7, input.u8() % 20);
        queue.offerHead(input.u8() % 20);
        harness.notify(input.u8() % 3);
        break;
      }
      case 7:
        host.connect(true, "CONNECT " + std::to_string(input.u8() % 4) + "\n");
        break;
      case 8:
        host.connect(false, formatVsockAddress({kCid, input.u8() % 4U}) + "\n");
        break;
      case 9: {
        std::string line;
        for (int index = 0; index < action >> 4; index++) line += static_cast<char>(input.u8());
        host.connect((action & 16) != 0, line);
        break;
      }
      case 10:
        host.acceptAll();
        break;
      case 11:
      case 12: {
        const std::uint8_t which = input.u8();
        host.act(which, input.u8());
        break;
      }
      case 13:
        harness.queue(2).offer({{data + 0x18000, input.u8(), true}});
        harness.notify(2);
        break;
      case 14:
        (*device)->pause();
        (*device)->resume();
        break;
      default:
        (*loop)->runOnce(std::chrono::milliseconds(0));
        for (std::uint16_t queue = 0; queue < 3; queue++) {
          while (harness.queue(queue).takeUsed()) {
          }
        }
    }
    if (harness.signals.broken) {
      harness.signals.broken.reset();
      if (!harness.activate()) return;
    }
  }
}

}  // namespace
}  // namespace tshyve::virtio

/// A driver, and programs on the host, that do what the input says.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tshyve::virtio::run(tshyve::virtio::Input(data, size));
  return 0;
}
