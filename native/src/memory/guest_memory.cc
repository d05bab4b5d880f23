#include "memory/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace tshyve {
namespace {

constexpr std::uint64_t kPageSize = 4096;

/// The size of a large page of x86 and of arm64 with 4 KiB pages.
constexpr std::uint64_t kLargePageSize = 2 << 20;

/// Reserves addresses that begin on a large page: only where guest and host address agree in their low bits can the
/// processor map a large page, which saves a guest that starts thousands of faults. Linux before 6.7 does not align
/// by itself.
void* reserveAligned(std::uint64_t size) {
  void* const reserved =
      ::mmap(nullptr, size + kLargePageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  auto* const start = static_cast<std::byte*>(reserved);
  const std::uint64_t before = -reinterpret_cast<std::uintptr_t>(start) % kLargePageSize;
  if (before > 0) ::munmap(start, before);
  // Guest memory is whole pages of 4 KiB, so this is as well.
  if (before < kLargePageSize) ::munmap(start + before + size, kLargePageSize - before);
  return start + before;
}

/// Copies the parts of a file that are no holes into fresh memory.
Result<void> load(int file, std::uint64_t start, std::span<std::byte> bytes) {
  auto at = static_cast<off_t>(start);
  const off_t end = at + static_cast<off_t>(bytes.size());
  while (at < end) {
    const off_t data = ::lseek(file, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    if (data < 0) return Error::fromErrno("memory file");
    if (data >= end) return {};
    const off_t hole = std::min(end, ::lseek(file, data, SEEK_HOLE));
    at = data;
    while (at < hole) {
      const auto target = bytes.subspan(static_cast<std::size_t>(at) - start, static_cast<std::size_t>(hole - at));
      const ssize_t count = ::pread(file, target.data(), target.size(), at);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Error::fromErrno("memory file");
      at += count;
    }
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<GuestMemory>> GuestMemory::create(std::span<const Extent> extents, Backing backing) {
  return map(extents, backing, -1);
}

Result<std::unique_ptr<GuestMemory>> GuestMemory::createFromFile(std::span<const Extent> extents, Backing backing,
                                                                 int file) {
  struct stat status {};
  if (::fstat(file, &status) != 0) return Error::fromErrno("memory file");
  std::uint64_t total = 0;
  for (const Extent& extent : extents) total += extent.size;
  // Mapped memory beyond the end of its file is deadly to touch.
  if (status.st_size < 0 || static_cast<std::uint64_t>(status.st_size) != total) {
    return Error{ErrorCode::kCorrupt, "the memory file holds " + std::to_string(status.st_size) +
                                          " bytes where the machine has " + std::to_string(total)};
  }
  if (backing == Backing::kPrivate) return map(extents, backing, file);
  TSHYVE_TRY(auto memory, map(extents, backing, -1));
  for (const Region& region : memory->regions()) TSHYVE_CHECK(load(file, region.fileOffset, region.bytes));
  return memory;
}

/// @param file to be mapped copy-on-write; -1: none
Result<std::unique_ptr<GuestMemory>> GuestMemory::map(std::span<const Extent> extents, Backing backing, int file) {
  std::unique_ptr<GuestMemory> memory(new GuestMemory());
  std::uint64_t total = 0;
  std::uint64_t end = 0;
  for (const Extent& extent : extents) {
    const bool aligned = extent.guestAddress % kPageSize == 0 && extent.size % kPageSize == 0;
    std::uint64_t extentEnd = 0;
    if (!aligned || extent.size == 0 || extent.guestAddress < end ||
        __builtin_add_overflow(extent.guestAddress, extent.size, &extentEnd)) {
      return Error{ErrorCode::kInvalidArgument, "guest memory: extents must be page-aligned, ascending and disjoint"};
    }
    end = extentEnd;
    total += extent.size;
  }
  const bool shared = backing == Backing::kShared;
  memory->fromFile_ = file >= 0;
  if (shared) {
    memory->fd_.reset(::memfd_create("tshyve-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory->fd_) return Error::fromErrno("memfd_create");
    if (::ftruncate(memory->fd_.get(), static_cast<off_t>(total)) != 0) return Error::fromErrno("guest memory");
    // A vhost-user peer holds the descriptor too; it must not cut memory away under us.
    if (::fcntl(memory->fd_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
      return Error::fromErrno("guest memory seals");
    }
  }
  const int source = shared ? memory->fd_.get() : file;
  const int flags = (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE) | (source < 0 ? MAP_ANONYMOUS : 0);
  std::uint64_t offset = 0;
  for (const Extent& extent : extents) {
    void* const reserved = reserveAligned(extent.size);
    void* const mapped = reserved == MAP_FAILED
                             ? MAP_FAILED
                             : ::mmap(reserved, extent.size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, source,
                                      source < 0 ? 0 : static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) {
      const int error = errno;
      if (reserved != MAP_FAILED) ::munmap(reserved, extent.size);
      errno = error;
      return Error::fromErrno("cannot reserve " + std::to_string(extent.size >> 20) + " MiB of guest memory");
    }
    memory->regions_.push_back(
        {extent.guestAddress, {static_cast<std::byte*>(mapped), extent.size}, shared ? offset : 0});
    // Best effort: fewer TLB misses; a core dump of us is no place for the guest's secrets.
    ::madvise(mapped, extent.size, MADV_HUGEPAGE);
    ::madvise(mapped, extent.size, MADV_DONTDUMP);
    offset += extent.size;
  }
  return memory;
}

GuestMemory::~GuestMemory() {
  for (const Region& region : regions_) ::munmap(region.bytes.data(), region.bytes.size());
}

std::uint64_t GuestMemory::totalBytes() const {
  std::uint64_t total = 0;
  for (const Region& region : regions_) total += region.bytes.size();
  return total;
}

std::optional<std::span<std::byte>> GuestMemory::slice(std::uint64_t address, std::uint64_t length) const {
  for (const Region& region : regions_) {
    if (address < region.guestAddress) continue;
    const std::uint64_t offset = address - region.guestAddress;
    const std::uint64_t size = region.bytes.size();
    if (offset < size && length <= size - offset) return region.bytes.subspan(offset, length);
  }
  return std::nullopt;
}

bool GuestMemory::readBytes(std::uint64_t address, std::span<std::byte> out) const {
  const auto source = slice(address, out.size());
  if (!source) return false;
  // An empty span may have no address at all, which memcpy must not see.
  if (!out.empty()) std::memcpy(out.data(), source->data(), out.size());
  return true;
}

bool GuestMemory::writeBytes(std::uint64_t address, std::span<const std::byte> data) const {
  const auto target = slice(address, data.size());
  if (!target) return false;
  if (!data.empty()) std::memcpy(target->data(), data.data(), data.size());
  return true;
}

Result<void> GuestMemory::discard(std::uint64_t address, std::uint64_t length) const {
  const auto range = slice(address, length);
  return discard(range.value_or(std::span<std::byte>()));
}

Result<void> GuestMemory::discard(std::span<std::byte> range) const {
  // Regions begin on pages, on both sides.
  const auto start = reinterpret_cast<std::uintptr_t>(range.data());
  const bool inside = std::ranges::any_of(regions_, [&](const Region& region) {
    const auto regionStart = reinterpret_cast<std::uintptr_t>(region.bytes.data());
    return start >= regionStart && start - regionStart <= region.bytes.size() &&
           range.size() <= region.bytes.size() - (start - regionStart);
  });
  if (!inside || range.empty() || start % kPageSize != 0 || range.size() % kPageSize != 0) {
    return Error{ErrorCode::kGuest, "a range that is not whole pages of guest memory cannot be given back"};
  }
  if (fromFile_ && !fd_) {
    // Dropping the private copy would bring the file's content back.
    const void* mapped = ::mmap(range.data(), range.size(), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) return Error::fromErrno("cannot give guest memory back");
    return {};
  }
  // MADV_REMOVE punches a hole into the memfd; private memory has no file behind it.
  const int advice = fd_ ? MADV_REMOVE : MADV_DONTNEED;
  if (::madvise(range.data(), range.size(), advice) != 0) return Error::fromErrno("madvise");
  return {};
}

}  // namespace tshyve
