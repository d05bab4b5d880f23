#include "bus/bus.h"

#include <cstring>
#include <mutex>

namespace tshyve {

Result<void> Bus::add(std::uint64_t address, std::uint64_t length, std::shared_ptr<BusDevice> device) {
  const std::unique_lock lock(mutex_);
  const auto next = ranges_.lower_bound(address);
  const bool hitsNext = next != ranges_.end() && next->first - address < length;
  const bool hitsPrevious =
      next != ranges_.begin() && address - std::prev(next)->first < std::prev(next)->second.length;
  if (length == 0 || address + (length - 1) < address || hitsNext || hitsPrevious) {
    return Error{ErrorCode::kInvalidArgument, "a device's address range is taken"};
  }
  ranges_.emplace(address, Range{length, std::move(device)});
  return {};
}

void Bus::remove(std::uint64_t address) {
  const std::unique_lock lock(mutex_);
  ranges_.erase(address);
}

std::pair<std::shared_ptr<BusDevice>, std::uint64_t> Bus::find(std::uint64_t address, std::size_t width) const {
  const std::shared_lock lock(mutex_);
  auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return {};
  --next;
  const std::uint64_t offset = address - next->first;
  if (offset >= next->second.length || width > next->second.length - offset) return {};
  return {next->second.device, offset};
}

void Bus::read(std::uint64_t address, std::span<std::byte> data) const {
  const auto [device, offset] = find(address, data.size());
  if (device == nullptr) {
    std::memset(data.data(), 0xff, data.size());
    return;
  }
  device->read(offset, data);
}

void Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
  const auto [device, offset] = find(address, data.size());
  if (device != nullptr) device->write(offset, data);
}

}  // namespace tshyve
