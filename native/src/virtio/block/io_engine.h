#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"

namespace tshyve::virtio {

/// One operation on a disk's file. Belongs to whoever submits it, and stays where it is until it is done.
struct IoOperation {
  enum class Kind { kRead, kWrite, kFlush, kPunchHole, kZeroRange };
  Kind kind = Kind::kRead;
  /// Write: on stable storage before it is done.
  bool durable = false;
  std::uint64_t offset = 0;
  /// Punched or zeroed bytes.
  std::uint64_t length = 0;
  /// Read and write: what is left to be moved, less than 4 GiB.
  std::span<iovec> buffers;
  /// The submitter's, untouched.
  void* owner = nullptr;
  /// Bytes moved, or 0, or a negative errno. May be less than was asked for.
  std::int64_t result = 0;
};

/// Carries out operations on one file, several at a time and in any order. One thread at a time.
class IoEngine {
 public:
  virtual ~IoEngine() = default;
  /// For logs.
  [[nodiscard]] virtual const char* name() const = 0;
  /// Takes an operation; it may wait for `flush`. At most `depth` may be under way.
  virtual void submit(IoOperation& operation) = 0;
  /// Sets everything submitted going.
  virtual void flush() = 0;
  /// Appends what is done to `done`. @param wait at least for one, when any is under way
  virtual void reap(std::vector<IoOperation*>& done, bool wait) = 0;
  /// Readable when `reap` has something.
  [[nodiscard]] virtual int completionFd() const = 0;
};

/// io_uring(7), by its system calls. An error when the kernel lacks it or does not let us (kernel.io_uring_disabled,
/// seccomp).
/// @param fd outlives the engine
Result<std::unique_ptr<IoEngine>> makeIoUringEngine(int fd, std::uint16_t depth);

/// Threads that block in ordinary system calls: works everywhere.
Result<std::unique_ptr<IoEngine>> makeThreadPoolEngine(int fd);

/// The best this host permits.
Result<std::unique_ptr<IoEngine>> makeIoEngine(int fd, std::uint16_t depth);

}  // namespace tshyve::virtio
