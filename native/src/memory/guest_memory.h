#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve {

/// The guest's RAM. Every access of ours goes through here and is checked against overflow and holes. The guest writes
/// to it at any time from its vCPUs: read a field once into a local copy, then look at the copy.
class GuestMemory {
 public:
  /// One contiguous piece, as KVM gets it as a slot.
  struct Region {
    std::uint64_t guestAddress;
    std::span<std::byte> bytes;
    /// Where the region begins in the memfd; 0 for private memory.
    std::uint64_t fileOffset;
  };
  enum class Backing {
    kPrivate,  ///< anonymous: cheapest
    kShared,   ///< a memfd that other processes (vhost-user) may map
  };
  struct Extent {
    std::uint64_t guestAddress;
    std::uint64_t size;
  };

  /// Reserves memory; pages cost nothing until they are touched.
  /// @param extents ascending, not overlapping, page-aligned
  static Result<std::unique_ptr<GuestMemory>> create(std::span<const Extent> extents, Backing backing);
  /// Memory with the content of a file, one extent after the other. Private memory is mapped copy-on-write: it loads as
  /// it is touched, and the file stays as it is.
  static Result<std::unique_ptr<GuestMemory>> createFromFile(std::span<const Extent> extents, Backing backing,
                                                             int file);
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;
  ~GuestMemory();

  [[nodiscard]] std::span<const Region> regions() const { return regions_; }
  /// The memfd, or -1 for private memory.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::uint64_t totalBytes() const;
  /// Pages that have never been touched are zero: true unless they come from a file.
  [[nodiscard]] bool untouchedReadsZero() const { return !fromFile_ && !fd_; }

  /// The host view of a guest range; nothing unless all of it is RAM of one region.
  [[nodiscard]] std::optional<std::span<std::byte>> slice(std::uint64_t address, std::uint64_t length) const;

  /// Copies out of guest memory. @return false when the range is not RAM
  [[nodiscard]] bool readBytes(std::uint64_t address, std::span<std::byte> out) const;
  [[nodiscard]] bool writeBytes(std::uint64_t address, std::span<const std::byte> data) const;

  /// A copy of a plain structure (little-endian, as x86, arm64 and virtio 1.x have it).
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  [[nodiscard]] std::optional<T> read(std::uint64_t address) const {
    T value;
    if (!readBytes(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  [[nodiscard]] bool write(std::uint64_t address, const T& value) const {
    return writeBytes(address, std::as_bytes(std::span(&value, 1)));
  }

  /// Gives pages back to the host; the guest reads zeros there afterwards (balloon, free page reporting).
  Result<void> discard(std::uint64_t address, std::uint64_t length) const;
  /// The same for a host view from `slice` or a queue.
  Result<void> discard(std::span<std::byte> range) const;

 private:
  GuestMemory() = default;
  static Result<std::unique_ptr<GuestMemory>> map(std::span<const Extent> extents, Backing backing, int file);
  std::vector<Region> regions_;
  UniqueFd fd_;
  bool fromFile_ = false;
};

}  // namespace tshyve
