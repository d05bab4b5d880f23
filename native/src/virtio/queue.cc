#include "virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "virtio/features.h"

namespace tshyve::virtio {
namespace {

// Descriptor flags (section 2.7.5).
constexpr std::uint16_t kDescriptorNext = 1;
constexpr std::uint16_t kDescriptorWrite = 2;
constexpr std::uint16_t kDescriptorIndirect = 4;

// Ring flags (sections 2.7.6 and 2.7.8).
constexpr std::uint16_t kAvailableNoInterrupt = 1;
constexpr std::uint16_t kUsedNoNotify = 1;

// Both rings begin with 16-bit flags and a 16-bit index.
constexpr std::uint64_t kRingFlags = 0;
constexpr std::uint64_t kRingIndex = 2;
constexpr std::uint64_t kRingElements = 4;
constexpr std::uint64_t kUsedElementSize = 8;
constexpr std::uint64_t kDescriptorSize = 16;

static_assert(std::endian::native == std::endian::little, "virtio 1.x rings are little-endian, and so are our hosts");

/// A 16-bit field the driver reads or writes at the same time.
std::atomic_ref<std::uint16_t> shared16(std::byte* address) {
  return std::atomic_ref<std::uint16_t>(*reinterpret_cast<std::uint16_t*>(address));
}

std::uint64_t totalBytes(const auto& spans) {
  std::uint64_t total = 0;
  for (const auto& span : spans) total += span.size();
  return total;
}

/// Calls `copy(part of the spans, position in the data)` for each piece of [offset, offset + length).
std::size_t forEachPiece(const auto& spans, std::uint64_t offset, std::size_t length, const auto& copy) {
  std::size_t done = 0;
  for (const auto& span : spans) {
    if (done == length) break;
    if (offset >= span.size()) {
      offset -= span.size();
      continue;
    }
    const std::size_t piece = std::min(length - done, span.size() - static_cast<std::size_t>(offset));
    copy(span.subspan(static_cast<std::size_t>(offset), piece), done);
    done += piece;
    offset = 0;
  }
  return done;
}

}  // namespace

struct Queue::Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

std::uint64_t Chain::readableBytes() const { return totalBytes(readable); }
std::uint64_t Chain::writableBytes() const { return totalBytes(writable); }

std::size_t Chain::copyOut(std::uint64_t offset, std::span<std::byte> out) const {
  return forEachPiece(readable, offset, out.size(), [&](std::span<const std::byte> piece, std::size_t position) {
    std::memcpy(out.data() + position, piece.data(), piece.size());
  });
}

std::size_t Chain::copyIn(std::uint64_t offset, std::span<const std::byte> data) const {
  return forEachPiece(writable, offset, data.size(), [&](std::span<std::byte> piece, std::size_t position) {
    std::memcpy(piece.data(), data.data() + position, piece.size());
  });
}

Result<std::unique_ptr<Queue>> Queue::create(const GuestMemory& memory, const QueueLayout& layout,
                                             std::uint64_t features, QueuePosition position) {
  if (!std::has_single_bit(layout.size) || layout.size > kMaxQueueSize) {
    return Error{ErrorCode::kGuest, "a queue's size is no power of two up to " + std::to_string(kMaxQueueSize)};
  }
  // Alignments and sizes: section 2.7. The last two bytes of both rings are used_event and avail_event.
  const std::uint64_t size = layout.size;
  const auto ring = [&](std::uint64_t address, std::uint64_t alignment, std::uint64_t length) -> std::byte* {
    const auto slice = memory.slice(address, length);
    return slice && address % alignment == 0 ? slice->data() : nullptr;
  };
  const Rings rings{ring(layout.descriptorTable, 16, size * kDescriptorSize),
                    ring(layout.availableRing, 2, kRingElements + size * 2 + 2),
                    ring(layout.usedRing, 4, kRingElements + size * kUsedElementSize + 2)};
  if (rings.descriptors == nullptr || rings.available == nullptr || rings.used == nullptr) {
    return Error{ErrorCode::kGuest, "a queue's rings are not aligned or not in RAM"};
  }
  return std::unique_ptr<Queue>(new Queue(memory, layout, rings, features, position));
}

Queue::Queue(const GuestMemory& memory, const QueueLayout& layout, Rings rings, std::uint64_t features,
             QueuePosition position)
    : memory_(memory),
      layout_(layout),
      rings_(rings),
      eventIndex_((features & kFeatureEventIndex) != 0),
      indirect_((features & kFeatureIndirectDescriptors) != 0),
      position_(position),
      seenAvailable_(position.nextAvailable),
      signalledUsed_(position.nextUsed),
      // A restored queue does not know what was signalled before: it interrupts once too often.
      signalledUsedKnown_(position.nextUsed == 0 && position.nextAvailable == 0) {}

std::uint16_t Queue::availableIndex() const {
  // Acquire: ring entries and descriptors are read after it.
  return shared16(rings_.available + kRingIndex).load(std::memory_order_acquire);
}

Error Queue::broken(const char* why) {
  broken_ = why;
  return {ErrorCode::kGuest, why};
}

bool Queue::empty() const {
  return seenAvailable_ == position_.nextAvailable && availableIndex() == position_.nextAvailable;
}

bool Queue::armNotification() {
  if (eventIndex_) {
    shared16(rings_.used + kRingElements + layout_.size * kUsedElementSize)
        .store(position_.nextAvailable, std::memory_order_relaxed);
  }
  // The driver writes avail.idx and then reads our wish; we write the wish and then read avail.idx. Only with full
  // fences on both sides one of the two sees the other.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return !empty();
}

Result<bool> Queue::poll() {
  if (broken_ != nullptr) return Error{ErrorCode::kGuest, broken_};
  if (seenAvailable_ != position_.nextAvailable) return true;
  for (bool armed = false;; armed = true) {
    seenAvailable_ = availableIndex();
    // The driver cannot have offered more than fits the ring (a jump would have us work for nothing, forever).
    if (static_cast<std::uint16_t>(seenAvailable_ - position_.nextAvailable) > layout_.size) {
      seenAvailable_ = position_.nextAvailable;
      return broken("the driver's available index jumped by more than the queue's size");
    }
    if (seenAvailable_ != position_.nextAvailable) return true;
    if (armed || !notifications_ || !armNotification()) return false;
  }
}

Result<bool> Queue::pop(Chain& chain) {
  chain.readable.clear();
  chain.writable.clear();
  TSHYVE_TRY(const bool offered, poll());
  if (!offered) return false;
  TSHYVE_CHECK(walk(chain));
  position_.nextAvailable++;
  return true;
}

Result<void> Queue::walk(Chain& chain) {
  const std::uint64_t slot = position_.nextAvailable & (layout_.size - 1U);
  // A second read could give another value: the guest writes here. So everything is read once.
  chain.head = shared16(rings_.available + kRingElements + slot * 2).load(std::memory_order_relaxed);
  std::uint16_t index = chain.head;
  std::uint64_t total = 0;
  for (std::uint32_t count = 0; count < layout_.size; count++) {
    if (index >= layout_.size) return broken("a descriptor's index lies beyond the queue's end");
    Descriptor descriptor;
    std::memcpy(&descriptor, rings_.descriptors + index * kDescriptorSize, sizeof descriptor);
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      if ((descriptor.flags & kDescriptorNext) != 0)
        return broken("an indirect descriptor is not the last of its chain");
      return walkIndirect(descriptor, chain, total);
    }
    TSHYVE_CHECK(addBuffer(descriptor, chain, total));
    if ((descriptor.flags & kDescriptorNext) == 0) return {};
    index = descriptor.next;
  }
  return broken("a descriptor chain is longer than the queue: a loop");
}

Result<void> Queue::walkIndirect(const Descriptor& table, Chain& chain, std::uint64_t& total) {
  if (!indirect_) return broken("an indirect descriptor although the feature was not negotiated");
  if (table.length == 0 || table.length % kDescriptorSize != 0) {
    return broken("an indirect table's length is no multiple of a descriptor's");
  }
  // The table must be in RAM as a whole, and no longer than what may be used of it.
  const std::uint64_t entries = table.length / kDescriptorSize;
  const std::size_t direct = chain.readable.size() + chain.writable.size();
  if (entries > kMaxChainLength - direct) return broken("an indirect table is too long");
  const auto bytes = memory_.slice(table.address, table.length);
  if (!bytes) return broken("an indirect table is not in RAM");
  std::uint64_t index = 0;
  for (std::uint64_t count = 0; count < entries; count++) {
    if (index >= entries) return broken("an indirect descriptor's index lies beyond the table's end");
    Descriptor descriptor;
    std::memcpy(&descriptor, bytes->data() + index * kDescriptorSize, sizeof descriptor);
    if ((descriptor.flags & kDescriptorIndirect) != 0) return broken("an indirect table within an indirect table");
    TSHYVE_CHECK(addBuffer(descriptor, chain, total));
    if ((descriptor.flags & kDescriptorNext) == 0) return {};
    index = descriptor.next;
  }
  return broken("an indirect chain is longer than its table: a loop");
}

Result<void> Queue::addBuffer(const Descriptor& descriptor, Chain& chain, std::uint64_t& total) {
  if (descriptor.length == 0) return broken("a descriptor of length zero");
  total += descriptor.length;
  if (total > UINT32_MAX) return broken("a descriptor chain is longer than 4 GiB");
  const auto bytes = memory_.slice(descriptor.address, descriptor.length);
  if (!bytes) return broken("a descriptor points outside RAM");
  if ((descriptor.flags & kDescriptorWrite) != 0) {
    chain.writable.push_back(*bytes);
  } else {
    if (!chain.writable.empty()) return broken("a readable descriptor after a writable one");
    chain.readable.push_back(*bytes);
  }
  return {};
}

void Queue::undoPop(std::uint16_t count) {
  position_.nextAvailable = static_cast<std::uint16_t>(position_.nextAvailable - count);
}

void Queue::push(std::uint16_t head, std::uint32_t written) {
  const UsedChain chain{head, written};
  push(std::span(&chain, 1));
}

void Queue::push(std::span<const UsedChain> chains) {
  for (const UsedChain& chain : chains) {
    const std::uint64_t slot = position_.nextUsed & (layout_.size - 1U);
    const std::uint32_t element[2] = {chain.head, chain.written};
    std::memcpy(rings_.used + kRingElements + slot * kUsedElementSize, element, sizeof element);
    position_.nextUsed++;
  }
  // Release: the driver that sees the index sees the elements and the data.
  shared16(rings_.used + kRingIndex).store(position_.nextUsed, std::memory_order_release);
}

bool Queue::shouldInterrupt() {
  // Between the store of used.idx and the load of the driver's wish; pairs with the driver's fence (section 2.7.7).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint16_t before = signalledUsed_;
  const bool known = signalledUsedKnown_;
  signalledUsed_ = position_.nextUsed;
  signalledUsedKnown_ = true;
  const auto pushed = static_cast<std::uint16_t>(position_.nextUsed - before);
  if (pushed == 0 && known) return false;
  if (!eventIndex_) {
    return (shared16(rings_.available + kRingFlags).load(std::memory_order_relaxed) & kAvailableNoInterrupt) == 0;
  }
  if (!known) return true;
  const std::uint16_t event =
      shared16(rings_.available + kRingElements + layout_.size * 2U).load(std::memory_order_relaxed);
  // The driver asked for an interrupt once used.idx passes `event`: is that among what was pushed now?
  return static_cast<std::uint16_t>(position_.nextUsed - event - 1) < pushed;
}

void Queue::disableNotifications() {
  notifications_ = false;
  // With EVENT_IDX the driver notifies only when it passes avail_event, which stays behind.
  if (!eventIndex_) shared16(rings_.used + kRingFlags).store(kUsedNoNotify, std::memory_order_relaxed);
}

bool Queue::enableNotifications() {
  notifications_ = true;
  if (!eventIndex_) shared16(rings_.used + kRingFlags).store(0, std::memory_order_relaxed);
  return armNotification();
}

void Queue::setPosition(QueuePosition position) {
  position_ = position;
  seenAvailable_ = position.nextAvailable;
  signalledUsedKnown_ = false;
}

}  // namespace tshyve::virtio
