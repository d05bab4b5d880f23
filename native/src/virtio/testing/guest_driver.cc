#include "virtio/testing/guest_driver.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace tshyve::virtio::test {
namespace {

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;

struct RawDescriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

// The harness's own mistakes end the test program; the device's are for the test to find.
void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

std::unique_ptr<GuestMemory> makeMemory(std::uint64_t bytes, GuestMemory::Backing backing) {
  const GuestMemory::Extent extents[] = {{0, bytes}};
  auto memory = GuestMemory::create(extents, backing);
  require(memory.ok());
  return std::move(memory).value();
}

std::uint64_t GuestAllocator::allocate(std::uint64_t bytes, std::uint64_t alignment) {
  const std::uint64_t address = (next_ + alignment - 1) / alignment * alignment;
  require(memory_.slice(address, bytes).has_value());
  next_ = address + bytes;
  return address;
}

std::uint64_t GuestAllocator::put(std::span<const std::byte> data) {
  const std::uint64_t address = allocate(data.size());
  require(memory_.writeBytes(address, data));
  return address;
}

GuestQueue::GuestQueue(const GuestMemory& memory, GuestAllocator& allocator, std::uint16_t size)
    : memory_(memory), allocator_(allocator) {
  layout_.size = size;
  layout_.descriptorTable = allocator.allocate(16ULL * size, 16);
  layout_.availableRing = allocator.allocate(6 + 2ULL * size, 2);
  layout_.usedRing = allocator.allocate(6 + 8ULL * size, 4);
}

std::uint16_t GuestQueue::offer(std::span<const Buffer> buffers) {
  const std::uint16_t head = nextDescriptor_;
  for (std::size_t index = 0; index < buffers.size(); index++) {
    const auto next = static_cast<std::uint16_t>((nextDescriptor_ + 1) % layout_.size);
    const auto flags =
        static_cast<std::uint16_t>((index + 1 < buffers.size() ? kNext : 0) | (buffers[index].writable ? kWrite : 0));
    writeDescriptor(nextDescriptor_, buffers[index].address, buffers[index].length, flags, next);
    nextDescriptor_ = next;
  }
  offerHead(head);
  return head;
}

std::uint16_t GuestQueue::offerIndirect(std::initializer_list<Buffer> buffers) {
  std::vector<RawDescriptor> table;
  for (const Buffer& buffer : buffers) {
    const auto next = static_cast<std::uint16_t>(table.size() + 1);
    const auto flags = static_cast<std::uint16_t>((next < buffers.size() ? kNext : 0) | (buffer.writable ? kWrite : 0));
    table.push_back({buffer.address, buffer.length, flags, next});
  }
  const auto bytes = std::as_bytes(std::span(table));
  const std::uint16_t head = nextDescriptor_;
  writeDescriptor(head, allocator_.put(bytes), static_cast<std::uint32_t>(bytes.size()), kIndirect, 0);
  nextDescriptor_ = static_cast<std::uint16_t>((nextDescriptor_ + 1) % layout_.size);
  offerHead(head);
  return head;
}

std::optional<GuestQueue::Used> GuestQueue::takeUsed() {
  if (usedIndex() == usedIndex_) return std::nullopt;
  const auto used = memory_.read<Used>(layout_.usedRing + 4 + usedIndex_ % layout_.size * 8ULL);
  require(used.has_value());
  usedIndex_++;
  // What Linux does while it wants interrupts; means something only with EVENT_IDX.
  setUsedEvent(usedIndex_);
  return used;
}

void GuestQueue::writeDescriptor(std::uint16_t index, std::uint64_t address, std::uint32_t length, std::uint16_t flags,
                                 std::uint16_t next) {
  require(memory_.write(layout_.descriptorTable + index * 16ULL, RawDescriptor{address, length, flags, next}));
}

void GuestQueue::offerHead(std::uint16_t head) {
  store(layout_.availableRing + 4 + availableIndex_ % layout_.size * 2ULL, head);
  setAvailableIndex(static_cast<std::uint16_t>(availableIndex_ + 1));
}

void GuestQueue::setAvailableIndex(std::uint16_t index) {
  availableIndex_ = index;
  store(layout_.availableRing + 2, index);
}

void GuestQueue::setAvailableFlags(std::uint16_t flags) { store(layout_.availableRing, flags); }
void GuestQueue::setUsedEvent(std::uint16_t index) { store(layout_.availableRing + 4 + layout_.size * 2ULL, index); }
std::uint16_t GuestQueue::availableEvent() const { return load(layout_.usedRing + 4 + layout_.size * 8ULL); }
std::uint16_t GuestQueue::usedFlags() const { return load(layout_.usedRing); }
std::uint16_t GuestQueue::usedIndex() const { return load(layout_.usedRing + 2); }

std::uint16_t GuestQueue::load(std::uint64_t address) const {
  const auto bytes = memory_.slice(address, 2);
  require(bytes.has_value());
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes->data())).load(std::memory_order_seq_cst);
}

void GuestQueue::store(std::uint64_t address, std::uint16_t value) const {
  const auto bytes = memory_.slice(address, 2);
  require(bytes.has_value());
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes->data())).store(value, std::memory_order_seq_cst);
}

DeviceHarness::DeviceHarness(Device& device, std::uint64_t memoryBytes, std::uint16_t queueSize,
                             GuestMemory::Backing backing)
    : memory(makeMemory(memoryBytes, backing)), allocator(*memory), device_(device), queueSize_(queueSize) {}

DeviceHarness::~DeviceHarness() { reset(); }

Result<void> DeviceHarness::activate(std::uint64_t features) {
  reset();
  std::vector<Queue*> pointers;
  for (const std::uint16_t largest : device_.queueSizes()) {
    guestQueues_.push_back(std::make_unique<GuestQueue>(*memory, allocator, std::min(largest, queueSize_)));
    TSHYVE_TRY(auto queue, Queue::create(*memory, guestQueues_.back()->layout(), features));
    queues_.push_back(std::move(queue));
    pointers.push_back(queues_.back().get());
  }
  Result<void> result;
  device_.loop().runSync([&] {
    result = device_.activate({.memory = *memory, .queues = pointers, .features = features, .signals = signals});
  });
  return result;
}

void DeviceHarness::notify(std::uint16_t queue) {
  device_.loop().runSync([&] { device_.notify(queue); });
}

void DeviceHarness::reset() {
  device_.loop().runSync([&] { device_.reset(); });
  queues_.clear();
  guestQueues_.clear();
}

}  // namespace tshyve::virtio::test
