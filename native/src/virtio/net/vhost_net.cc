#include "virtio/net/vhost_net.h"

#include <fcntl.h>
// Its inline functions are C that is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "virtio/features.h"

namespace tshyve::virtio {
namespace {

/// VIRTIO_NET_F_MRG_RXBUF.
constexpr std::uint64_t kFeatureMergeableBuffers = 1ULL << 15;
constexpr const char* kDevice = "/dev/vhost-net";

std::uint64_t hostAddress(const GuestMemory& memory, std::uint64_t guestAddress) {
  // The queue was checked when it was made: its rings are in RAM.
  const auto slice = memory.slice(guestAddress, 2);
  return slice ? reinterpret_cast<std::uintptr_t>(slice->data()) : 0;
}

}  // namespace

VhostNet::VhostNet(EventLoop& loop, UniqueFd fd, EventFd error)
    : loop_(loop), fd_(std::move(fd)), error_(std::move(error)) {}

Result<std::unique_ptr<VhostNet>> VhostNet::open(EventLoop& loop) {
  UniqueFd fd(::open(kDevice, O_RDWR | O_CLOEXEC));
  if (!fd) return Error::fromErrno(kDevice);
  TSHYVE_TRY(EventFd error, EventFd::create());
  return std::unique_ptr<VhostNet>(new VhostNet(loop, std::move(fd), std::move(error)));
}

Result<void> VhostNet::prepare(const GuestMemory& memory, std::uint64_t features) {
  if (!owned_ && ::ioctl(fd_.get(), VHOST_SET_OWNER) != 0) return Error::fromErrno("VHOST_SET_OWNER");
  owned_ = true;
  std::uint64_t offered = 0;
  if (::ioctl(fd_.get(), VHOST_GET_FEATURES, &offered) != 0) return Error::fromErrno("VHOST_GET_FEATURES");
  // Offloads, MAC, MTU and status are the tap's business and ours; the rest is how the rings are read.
  constexpr std::uint64_t kRingFeatures =
      kFeatureMergeableBuffers | kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureVersion1;
  const std::uint64_t wanted = features & kRingFeatures;
  if ((wanted & ~offered) != 0) {
    return Error{ErrorCode::kUnsupported, "vhost-net of this kernel lacks features the guest uses"};
  }
  if (::ioctl(fd_.get(), VHOST_SET_FEATURES, &wanted) != 0) return Error::fromErrno("VHOST_SET_FEATURES");
  // A table with a flexible array behind it.
  std::vector<std::uint64_t> storage(
      (sizeof(vhost_memory) + memory.regions().size() * sizeof(vhost_memory_region)) / 8 + 1);
  auto* table = reinterpret_cast<vhost_memory*>(storage.data());
  for (const GuestMemory::Region& region : memory.regions()) {
    vhost_memory_region& entry = table->regions[table->nregions++];
    entry.guest_phys_addr = region.guestAddress;
    entry.memory_size = region.bytes.size();
    entry.userspace_addr = reinterpret_cast<std::uintptr_t>(region.bytes.data());
  }
  if (::ioctl(fd_.get(), VHOST_SET_MEM_TABLE, table) != 0) return Error::fromErrno("VHOST_SET_MEM_TABLE");
  return {};
}

Result<void> VhostNet::setRing(const GuestMemory& memory, unsigned index, const Ring& ring) {
  const QueueLayout& layout = ring.layout;
  const vhost_vring_state size{index, layout.size};
  if (::ioctl(fd_.get(), VHOST_SET_VRING_NUM, &size) != 0) return Error::fromErrno("VHOST_SET_VRING_NUM");
  const vhost_vring_state base{index, ring.position.nextAvailable};
  if (::ioctl(fd_.get(), VHOST_SET_VRING_BASE, &base) != 0) return Error::fromErrno("VHOST_SET_VRING_BASE");
  vhost_vring_addr addresses{};
  addresses.index = index;
  addresses.desc_user_addr = hostAddress(memory, layout.descriptorTable);
  addresses.avail_user_addr = hostAddress(memory, layout.availableRing);
  addresses.used_user_addr = hostAddress(memory, layout.usedRing);
  if (::ioctl(fd_.get(), VHOST_SET_VRING_ADDR, &addresses) != 0) return Error::fromErrno("VHOST_SET_VRING_ADDR");
  if (ring.interruptFd < 0) {
    return Error{ErrorCode::kUnsupported, "the guest polls its network queues, vhost-net has nothing to signal"};
  }
  TSHYVE_CHECK(setFile(VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL", index, ring.interruptFd));
  return setFile(VHOST_SET_VRING_ERR, "VHOST_SET_VRING_ERR", index, error_.fd());
}

Result<void> VhostNet::setFile(unsigned long request, const char* what, unsigned index, int fd) {
  const vhost_vring_file file{index, fd};
  if (::ioctl(fd_.get(), request, &file) != 0) return Error::fromErrno(what);
  return {};
}

Result<void> VhostNet::setBackend(int tapFd) {
  for (unsigned index = 0; index < 2; index++) {
    TSHYVE_CHECK(setFile(VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND", index, tapFd));
  }
  return {};
}

Result<void> VhostNet::start(const GuestMemory& memory, std::uint64_t features, int tapFd,
                             const std::array<Ring, 2>& rings, const std::function<int(unsigned)>& takeKick,
                             EventLoop::Task failed) {
  TSHYVE_CHECK(prepare(memory, features));
  for (unsigned index = 0; index < 2; index++) TSHYVE_CHECK(setRing(memory, index, rings.at(index)));
  error_.drain();
  TSHYVE_TRY(errorWatch_, loop_.watch(error_.fd(), EPOLLIN, [this, failed = std::move(failed)](std::uint32_t) {
    error_.drain();
    failed();
  }));
  if (const auto attached = setBackend(tapFd); !attached) {
    errorWatch_.reset();
    (void)setBackend(-1);
    return attached.error();
  }
  for (unsigned index = 0; index < 2; index++) {
    const int kick = takeKick(index);
    TSHYVE_CHECK(setFile(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", index, kick));
    // What the driver offered before nobody has looked at since.
    const std::uint64_t one = 1;
    (void)!::write(kick, &one, sizeof one);
  }
  return {};
}

Result<std::array<QueuePosition, 2>> VhostNet::stop() {
  errorWatch_.reset();
  // Waits for what is in flight.
  TSHYVE_CHECK(setBackend(-1));
  std::array<QueuePosition, 2> positions{};
  for (unsigned index = 0; index < 2; index++) {
    vhost_vring_state base{index, 0};
    if (::ioctl(fd_.get(), VHOST_GET_VRING_BASE, &base) != 0) return Error::fromErrno("VHOST_GET_VRING_BASE");
    positions.at(index).nextAvailable = static_cast<std::uint16_t>(base.num);
    // Everything taken was used: the stop waited for it.
    positions.at(index).nextUsed = static_cast<std::uint16_t>(base.num);
  }
  return positions;
}

}  // namespace tshyve::virtio
