#include "virtio/block/disk_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <bit>
#include <chrono>
#include <thread>

namespace tshyve::virtio {
namespace {

struct flock wholeFile(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

/// A machine that was killed holds its disks until the kernel has taken its io_urings apart.
constexpr auto kLockPatience = std::chrono::seconds(1);
constexpr auto kLockInterval = std::chrono::milliseconds(20);

Result<void> lock(const DiskFile& disk, const std::string& path, const Log& log) {
  // Locks of the open file description (fcntl(2)): unlike the classic ones they hold against our own process too, and
  // closing some other descriptor of the file does not drop them.
  struct flock whole = wholeFile(disk.readOnly ? F_RDLCK : F_WRLCK);
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  while (::fcntl(disk.fd.get(), F_OFD_SETLK, &whole) != 0) {
    if (errno == ENOLCK || errno == EOPNOTSUPP) {
      if (log) log("the file system of " + path + " has no locks: nothing keeps two machines off that disk");
      return {};
    }
    if (errno != EAGAIN && errno != EACCES) return Error::fromErrno("cannot lock the disk " + path);
    if (std::chrono::steady_clock::now() >= deadline) {
      return Error{ErrorCode::kBusy, "the disk " + path + " is in use by another machine or program: stop that first"};
    }
    std::this_thread::sleep_for(kLockInterval);
  }
  return {};
}

Result<void> measureDevice(DiskFile& disk, const std::string& path) {
  unsigned int physical = 0;
  int logical = 0;
  if (::ioctl(disk.fd.get(), BLKGETSIZE64, &disk.bytes) != 0 || ::ioctl(disk.fd.get(), BLKSSZGET, &logical) != 0 ||
      ::ioctl(disk.fd.get(), BLKPBSZGET, &physical) != 0) {
    return Error::fromErrno("cannot measure the block device " + path);
  }
  disk.logicalBlock = static_cast<std::uint32_t>(logical);
  disk.physicalBlock = physical;
  // Devices that cannot discard say so when asked; the guest then stops.
  disk.canDiscard = !disk.readOnly;
  return {};
}

}  // namespace

DiskFile::~DiskFile() {
  if (!fd) return;
  struct flock none = wholeFile(F_UNLCK);
  ::fcntl(fd.get(), F_OFD_SETLK, &none);
}

Result<DiskFile> DiskFile::open(const std::string& path, bool readOnly, const Log& log) {
  DiskFile disk;
  disk.readOnly = readOnly;
  // A FIFO would have us wait for its other end.
  disk.fd.reset(::open(path.c_str(), (readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK));
  if (!disk.fd) return Error::fromErrno("cannot open the disk " + path);
  struct stat status {};
  if (::fstat(disk.fd.get(), &status) != 0) return Error::fromErrno("cannot examine the disk " + path);
  disk.blockDevice = S_ISBLK(status.st_mode);
  if (!disk.blockDevice && !S_ISREG(status.st_mode)) {
    return Error{ErrorCode::kInvalidArgument, "the disk " + path + " is neither a file nor a block device"};
  }
  // io_uring would take it for "fail rather than wait".
  ::fcntl(disk.fd.get(), F_SETFL, 0);
  TSHYVE_CHECK(lock(disk, path, log));
  if (disk.blockDevice) {
    TSHYVE_CHECK(measureDevice(disk, path));
  } else {
    disk.bytes = static_cast<std::uint64_t>(status.st_size);
    // Beyond the end a hole changes nothing, but tells whether the file system can.
    disk.canDiscard = !readOnly && ::fallocate(disk.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                               status.st_size, kSectorSize) == 0;
  }
  if (disk.bytes < kSectorSize) {
    return Error{ErrorCode::kInvalidArgument, "the disk " + path + " is smaller than one sector"};
  }
  const bool blocksUsable = std::has_single_bit(disk.logicalBlock) && disk.logicalBlock >= kSectorSize &&
                            std::has_single_bit(disk.physicalBlock) && disk.physicalBlock >= disk.logicalBlock;
  if (!blocksUsable) disk.physicalBlock = disk.logicalBlock = kSectorSize;
  if (disk.bytes % kSectorSize != 0) {
    if (log) log("the disk " + path + " ends within a sector: the guest does not see that last part");
    disk.bytes -= disk.bytes % kSectorSize;
  }
  return disk;
}

}  // namespace tshyve::virtio
