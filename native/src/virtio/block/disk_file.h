#pragma once

#include <cstdint>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tshyve::virtio {

/// The unit of virtio-blk requests and capacities, whatever the block size (Virtual I/O Device 1.2, section 5.2).
constexpr std::uint32_t kSectorSize = 512;

/// A raw disk on the host: an image file or a block device, open and locked.
struct DiskFile {
  DiskFile() = default;
  DiskFile(DiskFile&&) = default;
  DiskFile& operator=(DiskFile&&) = delete;
  /// Unlocks it, which closing alone would not do at once: the kernel takes an io_uring with its reference to the file
  /// apart some time later.
  ~DiskFile();

  UniqueFd fd;
  bool readOnly = false;
  bool blockDevice = false;
  /// Whole sectors only.
  std::uint64_t bytes = 0;
  /// What the guest should use as smallest and as best unit: powers of two.
  std::uint32_t logicalBlock = kSectorSize;
  std::uint32_t physicalBlock = 4096;
  /// Holes can be punched into it.
  bool canDiscard = false;

  /// Opens and locks it: a writer alone, readers among themselves.
  /// @return kBusy when another machine or program has it
  static Result<DiskFile> open(const std::string& path, bool readOnly, const Log& log);
};

}  // namespace tshyve::virtio
