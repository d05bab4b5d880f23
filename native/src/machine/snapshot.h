#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "memory/guest_memory.h"

namespace tshyve {

/// A machine's snapshot on disk: a folder with `state.bin` (header, then what a StateWriter made) and the memory file
/// that the header names. The state file is put in place last and by rename, so that a folder holds the old snapshot or
/// the new one, whatever happens while it is written.
namespace snapshot {

/// Writes a snapshot, replacing the folder's earlier one. The memory file is as large as the guest's RAM and has holes
/// where that is zero.
Result<void> write(const std::string& folder, const GuestMemory& memory, std::span<const std::byte> state);

struct Loaded {
  std::vector<std::byte> state;
  UniqueFd memoryFile;
};
/// Opens a snapshot and checks header, length and checksum of its state.
Result<Loaded> open(const std::string& folder);

}  // namespace snapshot
}  // namespace tshyve
