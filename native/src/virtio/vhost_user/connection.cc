#include "virtio/vhost_user/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>

#include "virtio/features.h"

namespace tshyve::virtio {
namespace {

struct Header {
  std::uint32_t request;
  std::uint32_t flags;
  std::uint32_t size;
};
static_assert(sizeof(Header) == 12);
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kVersionMask = 3;
constexpr std::uint32_t kReply = 1U << 2;
constexpr std::uint32_t kNeedReply = 1U << 3;

/// VHOST_USER_PROTOCOL_F_REPLY_ACK.
constexpr std::uint64_t kReplyAck = 1U << 3;
/// In the payload of kick and call messages: no descriptor comes along.
constexpr std::uint64_t kNoDescriptor = 1U << 8;

struct RingState {
  std::uint32_t index;
  std::uint32_t number;
};
static_assert(sizeof(RingState) == 8);
struct RingAddress {
  std::uint32_t index;
  std::uint32_t flags;
  std::uint64_t descriptors;
  std::uint64_t used;
  std::uint64_t available;
  std::uint64_t log;
};
static_assert(sizeof(RingAddress) == 40);
struct MemoryRegion {
  std::uint64_t guestAddress;
  std::uint64_t size;
  std::uint64_t userAddress;
  std::uint64_t fileOffset;
};
static_assert(sizeof(MemoryRegion) == 32);

/// Peers answer at once; stopping a ring may wait for requests on a slow disk.
constexpr std::chrono::seconds kDeadline{5};

}  // namespace

Error VhostUserConnection::failed(const std::string& what) const { return {ErrorCode::kHost, peer_ + " " + what}; }

Result<std::unique_ptr<VhostUserConnection>> VhostUserConnection::open(UniqueFd socket, std::string peer) {
  std::unique_ptr<VhostUserConnection> connection(new VhostUserConnection(std::move(socket), std::move(peer)));
  TSHYVE_CHECK(connection->negotiate());
  return connection;
}

Result<void> VhostUserConnection::negotiate() {
  TSHYVE_TRY(features_, askNumber(Request::kGetFeatures));
  if ((features_ & kFeatureVersion1) == 0) return failed("does not speak virtio 1: use a newer one");
  if ((features_ & kProtocolFeatures) != 0) {
    TSHYVE_TRY(const std::uint64_t offered, askNumber(Request::kGetProtocolFeatures));
    TSHYVE_CHECK(tell(Request::kSetProtocolFeatures, offered & kReplyAck));
    confirms_ = (offered & kReplyAck) != 0;
    enablesRings_ = true;
  }
  return tell(Request::kSetOwner, std::span<const std::byte>());
}

Result<void> VhostUserConnection::configure(const GuestMemory& memory, std::uint64_t features) {
  TSHYVE_CHECK(tell(Request::kSetFeatures, (features & features_) | (features_ & kProtocolFeatures)));

  struct {
    std::uint32_t count = 0;
    std::uint32_t padding = 0;
    std::array<MemoryRegion, kMaxRegions> regions{};
  } table;
  std::array<int, kMaxRegions> fds{};
  if (memory.fd() < 0 || memory.regions().size() > kMaxRegions) {
    return Error{ErrorCode::kInvalidArgument, "directory sharing needs guest memory that can be shared"};
  }
  for (const GuestMemory::Region& region : memory.regions()) {
    // The peer translates the "user addresses" of the rings by this table and looks at them no further: guest addresses
    // serve as well as ours, and do not tell where our memory lies.
    table.regions[table.count] = {region.guestAddress, region.bytes.size(), region.guestAddress, region.fileOffset};
    fds[table.count++] = memory.fd();
  }
  const std::size_t size = 8 + table.count * sizeof(MemoryRegion);
  return tell(Request::kSetMemoryTable, std::as_bytes(std::span(&table, 1)).first(size),
              std::span(fds).first(table.count));
}

Result<void> VhostUserConnection::startRing(const Ring& ring) {
  TSHYVE_CHECK(tell(Request::kSetRingSize, RingState{ring.index, ring.layout.size}));
  TSHYVE_CHECK(tell(Request::kSetRingBase, RingState{ring.index, ring.nextAvailable}));
  TSHYVE_CHECK(tell(Request::kSetRingAddress, RingAddress{.index = ring.index,
                                                          .flags = 0,
                                                          .descriptors = ring.layout.descriptorTable,
                                                          .used = ring.layout.usedRing,
                                                          .available = ring.layout.availableRing,
                                                          .log = 0}));
  const std::uint64_t index = ring.index;
  const std::array interrupt{ring.interruptFd};
  TSHYVE_CHECK(ring.interruptFd < 0 ? tell(Request::kSetRingCall, index | kNoDescriptor)
                                    : tell(Request::kSetRingCall, index, interrupt));
  // The kick starts the ring; it comes last.
  const std::array kick{ring.kickFd};
  TSHYVE_CHECK(tell(Request::kSetRingKick, index, kick));
  if (!enablesRings_) return {};
  return tell(Request::kSetRingEnable, RingState{ring.index, 1});
}

Result<std::uint16_t> VhostUserConnection::stopRing(std::uint16_t index) {
  const RingState asked{index, 0};
  RingState state{};
  TSHYVE_CHECK(
      ask(Request::kGetRingBase, std::as_bytes(std::span(&asked, 1)), std::as_writable_bytes(std::span(&state, 1))));
  if (state.index != index || state.number > UINT16_MAX) return failed("gave a senseless position of a queue");
  return static_cast<std::uint16_t>(state.number);
}

Result<void> VhostUserConnection::tell(Request request, std::span<const std::byte> payload, std::span<const int> fds) {
  TSHYVE_CHECK(send(request, confirms_ ? kNeedReply : 0, payload, fds));
  if (!confirms_) return {};
  std::uint64_t refusal = 0;
  TSHYVE_CHECK(receiveReply(request, std::as_writable_bytes(std::span(&refusal, 1))));
  if (refusal != 0) {
    return failed("refuses request " + std::to_string(static_cast<std::uint32_t>(request)) + ": see its log");
  }
  return {};
}

Result<void> VhostUserConnection::ask(Request request, std::span<const std::byte> payload, std::span<std::byte> reply) {
  TSHYVE_CHECK(send(request, 0, payload, {}));
  return receiveReply(request, reply);
}

Result<std::uint64_t> VhostUserConnection::askNumber(Request request) {
  std::uint64_t number = 0;
  TSHYVE_CHECK(ask(request, {}, std::as_writable_bytes(std::span(&number, 1))));
  return number;
}

Result<void> VhostUserConnection::send(Request request, std::uint32_t flags, std::span<const std::byte> payload,
                                       std::span<const int> fds) {
  const Header header{static_cast<std::uint32_t>(request), kVersion | flags,
                      static_cast<std::uint32_t>(payload.size())};
  std::vector<std::byte> message(sizeof header + payload.size());
  std::memcpy(message.data(), &header, sizeof header);
  if (!payload.empty()) std::memcpy(message.data() + sizeof header, payload.data(), payload.size());

  iovec vector{message.data(), message.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxRegions * sizeof(int))> control{};
  msghdr out{};
  out.msg_iov = &vector;
  out.msg_iovlen = 1;
  if (!fds.empty()) {
    out.msg_control = control.data();
    out.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* item = CMSG_FIRSTHDR(&out);
    item->cmsg_level = SOL_SOCKET;
    item->cmsg_type = SCM_RIGHTS;
    item->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(item), fds.data(), fds.size_bytes());
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket_.get(), &out, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  // A message is far smaller than a socket buffer: it fits, or the peer has stopped reading.
  if (sent != static_cast<ssize_t>(message.size())) return failed(sent < 0 ? std::strerror(errno) : "does not read");
  return {};
}

Result<void> VhostUserConnection::receiveReply(Request request, std::span<std::byte> payload) {
  Header header{};
  TSHYVE_CHECK(receiveAll(std::as_writable_bytes(std::span(&header, 1))));
  const bool fits = header.request == static_cast<std::uint32_t>(request) &&
                    (header.flags & kVersionMask) == kVersion && (header.flags & kReply) != 0 &&
                    header.size == payload.size();
  if (!fits) return failed("does not keep to the vhost-user protocol");
  return receiveAll(payload);
}

Result<void> VhostUserConnection::receiveAll(std::span<std::byte> out) {
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (!out.empty()) {
    // Descriptors that come along are dropped by the kernel: we ask for none.
    const ssize_t count = ::recv(socket_.get(), out.data(), out.size(), MSG_DONTWAIT);
    if (count > 0) {
      out = out.subspan(static_cast<std::size_t>(count));
      continue;
    }
    if (count == 0) return failed("has closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return failed(std::strerror(errno));
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) return failed("does not answer");
    pollfd poll{socket_.get(), POLLIN, 0};
    ::poll(&poll, 1, static_cast<int>(left));
  }
  return {};
}

Result<UniqueFd> connectUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kInvalidArgument, "the socket path " + path + " is empty or too long"};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Error::fromErrno("socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error::fromErrno("cannot connect to " + path);
  }
  return fd;
}

}  // namespace tshyve::virtio
