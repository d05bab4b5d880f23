#include "machine/snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "base/crc32.h"
#include "base/state_stream.h"

namespace tshyve::snapshot {
namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'T', 'S', 'H', 'Y', 'V', 'E', 'S', 'N'};
constexpr std::uint32_t kVersion = 1;
constexpr const char* kStateFile = "state.bin";
constexpr const char* kMemoryPrefix = "memory-";
constexpr std::size_t kPageSize = 4096;
/// A machine of 64 vCPUs has some 2 MiB of state.
constexpr std::size_t kMaxState = 256 << 20;

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t crc;  // of the state
  std::uint64_t stateBytes;
  std::uint64_t memoryBytes;
  char memoryFile[32];  // name in the same folder, padded with NULs
};
static_assert(sizeof(Header) == 64);

// pagemap bits (Linux: Documentation/admin-guide/mm/pagemap.rst).
constexpr std::uint64_t kPagePresent = 1ULL << 63;
constexpr std::uint64_t kPageSwapped = 1ULL << 62;

Result<void> writeAll(int fd, std::span<const std::byte> bytes, std::uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::fromErrno("cannot write " + path);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

bool isZero(std::span<const std::byte> page) {
  return page[0] == std::byte{0} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

/// Tells which pages of private memory were ever touched; reading the others would cost time and memory.
class PageMap {
 public:
  PageMap() : fd_(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {}
  /// @param flags one entry a page from `address` on
  bool read(const std::byte* address, std::span<std::uint64_t> flags) const {
    const auto offset = reinterpret_cast<std::uint64_t>(address) / kPageSize * sizeof(std::uint64_t);
    const auto bytes = static_cast<ssize_t>(flags.size_bytes());
    return fd_ && ::pread(fd_.get(), flags.data(), flags.size_bytes(), static_cast<off_t>(offset)) == bytes;
  }

 private:
  UniqueFd fd_;
};

Result<void> writeMemory(const GuestMemory& memory, int fd, const std::string& path) {
  if (::ftruncate(fd, static_cast<off_t>(memory.totalBytes())) != 0) return Error::fromErrno("cannot size " + path);
  const PageMap pageMap;
  std::uint64_t base = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    constexpr std::size_t kBatch = 4096;  // pages
    std::vector<std::uint64_t> flags(kBatch);
    for (std::size_t start = 0; start < region.bytes.size(); start += kBatch * kPageSize) {
      const auto batch = region.bytes.subspan(start, std::min(kBatch * kPageSize, region.bytes.size() - start));
      const auto batchFlags = std::span(flags).first(batch.size() / kPageSize);
      const bool known = memory.untouchedReadsZero() && pageMap.read(batch.data(), batchFlags);
      std::size_t run = 0;  // bytes before `at` that wait to be written
      for (std::size_t at = 0;; at += kPageSize) {
        const bool end = at == batch.size();
        const bool untouched = !end && known && (batchFlags[at / kPageSize] & (kPagePresent | kPageSwapped)) == 0;
        const bool skip = end || untouched || isZero(batch.subspan(at, kPageSize));
        if (!skip) run += kPageSize;
        if (skip && run > 0) {
          TSHYVE_CHECK(writeAll(fd, batch.subspan(at - run, run), base + start + at - run, path));
          run = 0;
        }
        if (end) break;
      }
    }
    base += region.bytes.size();
  }
  return {};
}

Result<UniqueFd> createFile(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Error::fromErrno("cannot create " + path);
  return fd;
}

Result<void> sync(int fd, const std::string& path) {
  if (::fsync(fd) != 0) return Error::fromErrno("cannot write " + path);
  return {};
}

/// A name no snapshot of this folder uses; another process may have mapped the present one.
std::string freeMemoryName(const fs::path& folder) {
  for (unsigned number = 0;; number++) {
    const std::string name = kMemoryPrefix + std::to_string(number) + ".bin";
    std::error_code ignored;
    if (!fs::exists(folder / name, ignored)) return name;
  }
}

Error corrupt(const std::string& path, const std::string& why) {
  return {ErrorCode::kCorrupt, "the snapshot " + path + " " + why};
}

}  // namespace

Result<void> write(const std::string& folder, const GuestMemory& memory, std::span<const std::byte> state) {
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return Error::fromErrno("cannot make " + folder);
  const std::string memoryName = freeMemoryName(folder);
  const std::string memoryPath = folder + "/" + memoryName;
  const std::string statePath = folder + "/" + kStateFile;
  const std::string newStatePath = statePath + ".new";

  const auto writeFiles = [&]() -> Result<void> {
    TSHYVE_TRY(const UniqueFd memoryFile, createFile(memoryPath));
    TSHYVE_CHECK(writeMemory(memory, memoryFile.get(), memoryPath));
    TSHYVE_CHECK(sync(memoryFile.get(), memoryPath));
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.crc = crc32(state);
    header.stateBytes = state.size();
    header.memoryBytes = memory.totalBytes();
    memoryName.copy(header.memoryFile, sizeof header.memoryFile - 1);
    TSHYVE_TRY(const UniqueFd stateFile, createFile(newStatePath));
    TSHYVE_CHECK(writeAll(stateFile.get(), std::as_bytes(std::span(&header, 1)), 0, newStatePath));
    TSHYVE_CHECK(writeAll(stateFile.get(), state, sizeof header, newStatePath));
    TSHYVE_CHECK(sync(stateFile.get(), newStatePath));
    if (::rename(newStatePath.c_str(), statePath.c_str()) != 0) return Error::fromErrno("cannot write " + statePath);
    const UniqueFd folderFd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return sync(folderFd.get(), folder);
  };
  std::error_code ignored;
  if (auto written = writeFiles(); !written) {
    fs::remove(memoryPath, ignored);
    fs::remove(newStatePath, ignored);
    return written.error();
  }
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(kMemoryPrefix, 0) == 0 && name != memoryName) fs::remove(entry.path(), ignored);
  }
  return {};
}

Result<Loaded> open(const std::string& folder) {
  const std::string path = folder + "/" + kStateFile;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("cannot open the snapshot " + path);
  Header header{};
  if (::pread(fd.get(), &header, sizeof header, 0) != sizeof header ||
      std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
    return corrupt(path, "is not one of tshyve's");
  }
  if (header.version != kVersion) {
    return corrupt(path, "has format " + std::to_string(header.version) + ", this program reads " +
                             std::to_string(kVersion) + ": restore it with the tshyve that saved it");
  }
  if (header.stateBytes > kMaxState) return corrupt(path, "is damaged: its header gives an absurd size");
  Loaded loaded;
  loaded.state.resize(header.stateBytes);
  const ssize_t count = ::pread(fd.get(), loaded.state.data(), loaded.state.size(), sizeof header);
  if (count != static_cast<ssize_t>(loaded.state.size())) return corrupt(path, "is cut short");
  if (crc32(loaded.state) != header.crc) return corrupt(path, "is damaged: its checksum does not match");

  const std::string name(header.memoryFile, ::strnlen(header.memoryFile, sizeof header.memoryFile));
  if (name.empty() || name.find('/') != std::string::npos) return corrupt(path, "names no memory file");
  const std::string memoryPath = folder + "/" + name;
  loaded.memoryFile.reset(::open(memoryPath.c_str(), O_RDONLY | O_CLOEXEC));
  if (!loaded.memoryFile) return Error::fromErrno("cannot open the snapshot's memory " + memoryPath);
  struct stat status {};
  if (::fstat(loaded.memoryFile.get(), &status) != 0) return Error::fromErrno(memoryPath);
  if (static_cast<std::uint64_t>(status.st_size) != header.memoryBytes) {
    return corrupt(memoryPath, "is cut short");
  }
  return loaded;
}

}  // namespace tshyve::snapshot
