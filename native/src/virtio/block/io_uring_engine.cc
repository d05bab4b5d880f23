#include <linux/falloc.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "virtio/block/io_engine.h"

namespace tshyve::virtio {
namespace {

int setup(unsigned entries, io_uring_params& params) {
  return static_cast<int>(::syscall(SYS_io_uring_setup, entries, &params));
}
int enter(int fd, unsigned submit, unsigned wait, unsigned flags) {
  return static_cast<int>(::syscall(SYS_io_uring_enter, fd, submit, wait, flags, nullptr, 0));
}
int registerResource(int fd, unsigned opcode, void* argument, unsigned count) {
  return static_cast<int>(::syscall(SYS_io_uring_register, fd, opcode, argument, count));
}

/// A piece of the kernel's rings.
class Mapping {
 public:
  Mapping() = default;
  Mapping(int fd, std::size_t size, std::uint64_t offset)
      : address_(
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(offset))),
        size_(size) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, MAP_FAILED)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (valid()) ::munmap(address_, size_);
  }
  [[nodiscard]] bool valid() const { return address_ != MAP_FAILED; }
  template <typename T>
  [[nodiscard]] T* at(std::uint64_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(address_) + offset);
  }

 private:
  void* address_ = MAP_FAILED;
  std::size_t size_ = 0;
};

/// The operations of ours; the youngest came with Linux 5.6.
constexpr std::array kOperations{IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ,
                                 IORING_OP_WRITE, IORING_OP_FSYNC,  IORING_OP_FALLOCATE};

/// Asks the kernel which operations it knows (io_uring_register(2), IORING_REGISTER_PROBE).
bool operationsSupported(int fd) {
  constexpr unsigned kSlots = 64;
  // struct io_uring_probe: a header of 16 bytes, then one entry for each operation.
  constexpr std::size_t kHeader = 16;
  alignas(io_uring_probe) std::array<std::byte, kHeader + kSlots * sizeof(io_uring_probe_op)> buffer{};
  if (registerResource(fd, IORING_REGISTER_PROBE, buffer.data(), kSlots) < 0) return false;
  return std::all_of(kOperations.begin(), kOperations.end(), [&](unsigned operation) {
    io_uring_probe_op answer;
    std::memcpy(&answer, buffer.data() + kHeader + operation * sizeof answer, sizeof answer);
    return (answer.flags & IO_URING_OP_SUPPORTED) != 0;
  });
}

/// From this size on a read is the kernel's workers' to copy. Data that the page cache holds would else be copied by
/// the device thread while it submits: one request after the other, where workers share the processors, and everything
/// else that the thread serves (other disks, the network) would wait. Handing over costs some microseconds, which short
/// reads would feel. Writes to the page cache are the workers' in most file systems anyhow.
constexpr std::size_t kReadOfWorkers = 128 * 1024;

/// Allows these operations on the ring's own file and nothing else, then sets the ring going (Linux 5.10). What a ring
/// does no seccomp filter sees: without this, whoever took over a device thread could open files through it.
bool restrictAndEnable(int fd) {
  std::array<io_uring_restriction, kOperations.size() + 2> rules{};
  for (std::size_t index = 0; index < kOperations.size(); index++) {
    rules[index].opcode = IORING_RESTRICTION_SQE_OP;
    rules[index].sqe_op = static_cast<std::uint8_t>(kOperations[index]);
  }
  rules[kOperations.size()].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  rules[kOperations.size()].sqe_flags = IOSQE_FIXED_FILE;
  rules.back().opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
  rules.back().sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC;
  return registerResource(fd, IORING_REGISTER_RESTRICTIONS, rules.data(), static_cast<unsigned>(rules.size())) == 0 &&
         registerResource(fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) == 0;
}

class IoUringEngine final : public IoEngine {
 public:
  IoUringEngine(UniqueFd ring, const io_uring_params& params) : ring_(std::move(ring)), params_(params) {}
  IoUringEngine(const IoUringEngine&) = delete;
  IoUringEngine& operator=(const IoUringEngine&) = delete;
  ~IoUringEngine() override {
    // The kernel still writes to the operations' buffers until they are done.
    std::vector<IoOperation*> done;
    while (underWay_ > 0) reap(done, true);
  }

  Result<void> map() {
    const std::size_t submissionSize = params_.sq_off.array + params_.sq_entries * sizeof(std::uint32_t);
    const std::size_t completionSize = params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe);
    // One mapping holds both rings (IORING_FEAT_SINGLE_MMAP, Linux 5.4).
    rings_ = Mapping(ring_.get(), std::max(submissionSize, completionSize), IORING_OFF_SQ_RING);
    entries_ = Mapping(ring_.get(), params_.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    if (!rings_.valid() || !entries_.valid()) return Error::fromErrno("cannot map the io_uring");
    submissionMask_ = *rings_.at<std::uint32_t>(params_.sq_off.ring_mask);
    completionMask_ = *rings_.at<std::uint32_t>(params_.cq_off.ring_mask);
    submissionTail_ = *rings_.at<std::uint32_t>(params_.sq_off.tail);
    return {};
  }

  [[nodiscard]] const char* name() const override { return "io_uring"; }

  void submit(IoOperation& operation) override {
    // The ring is as long as the depth: there is room once what waits has been handed over.
    if (pending_ == params_.sq_entries) flush();
    const std::uint32_t slot = submissionTail_ & submissionMask_;
    io_uring_sqe& entry = *entries_.at<io_uring_sqe>(slot * sizeof(io_uring_sqe));
    entry = io_uring_sqe{};
    describe(operation, entry);
    rings_.at<std::uint32_t>(params_.sq_off.array)[slot] = slot;
    submissionTail_++;
    pending_++;
    underWay_++;
  }

  void flush() override {
    std::atomic_ref(*rings_.at<std::uint32_t>(params_.sq_off.tail)).store(submissionTail_, std::memory_order_release);
    while (pending_ > 0) {
      const int taken = enter(ring_.get(), pending_, 0, 0);
      if (taken >= 0) {
        pending_ -= static_cast<std::uint32_t>(taken);
      } else if (errno == EAGAIN || errno == EBUSY) {
        // Out of memory for requests, or completions pile up: wait for one, then go on.
        enter(ring_.get(), 0, 1, IORING_ENTER_GETEVENTS);
        if (completionsWaiting()) return;
      } else if (errno != EINTR) {
        return;
      }
    }
  }

  void reap(std::vector<IoOperation*>& done, bool wait) override {
    if (pending_ > 0) flush();
    while (wait && underWay_ > 0 && !completionsWaiting()) enter(ring_.get(), pending_, 1, IORING_ENTER_GETEVENTS);
    auto head = std::atomic_ref(*rings_.at<std::uint32_t>(params_.cq_off.head));
    std::uint32_t next = head.load(std::memory_order_relaxed);
    const std::uint32_t tail =
        std::atomic_ref(*rings_.at<std::uint32_t>(params_.cq_off.tail)).load(std::memory_order_acquire);
    for (; next != tail; next++) {
      const io_uring_cqe& entry =
          *rings_.at<io_uring_cqe>(params_.cq_off.cqes + (next & completionMask_) * sizeof(io_uring_cqe));
      auto* operation = reinterpret_cast<IoOperation*>(static_cast<std::uintptr_t>(entry.user_data));
      operation->result = entry.res;
      done.push_back(operation);
      underWay_--;
    }
    head.store(next, std::memory_order_release);
  }

  /// The ring itself can be polled; unlike an eventfd it is quiet about what completes during submission.
  [[nodiscard]] int completionFd() const override { return ring_.get(); }

 private:
  [[nodiscard]] bool completionsWaiting() const {
    const std::uint32_t head = *rings_.at<std::uint32_t>(params_.cq_off.head);
    return head != std::atomic_ref(*rings_.at<std::uint32_t>(params_.cq_off.tail)).load(std::memory_order_acquire);
  }

  static void describe(IoOperation& operation, io_uring_sqe& entry) {
    // File 0 of the ring's own table.
    entry.flags = IOSQE_FIXED_FILE;
    entry.fd = 0;
    entry.off = operation.offset;
    entry.user_data = reinterpret_cast<std::uintptr_t>(&operation);
    switch (operation.kind) {
      case IoOperation::Kind::kRead:
        describeTransfer(operation, entry, IORING_OP_READ, IORING_OP_READV);
        if (lengthOf(operation) >= kReadOfWorkers) entry.flags |= IOSQE_ASYNC;
        break;
      case IoOperation::Kind::kWrite:
        describeTransfer(operation, entry, IORING_OP_WRITE, IORING_OP_WRITEV);
        entry.rw_flags = operation.durable ? RWF_DSYNC : 0;
        break;
      case IoOperation::Kind::kFlush:
        entry.opcode = IORING_OP_FSYNC;
        entry.off = 0;
        entry.fsync_flags = IORING_FSYNC_DATASYNC;
        break;
      case IoOperation::Kind::kPunchHole:
      case IoOperation::Kind::kZeroRange:
        entry.opcode = IORING_OP_FALLOCATE;
        entry.addr = operation.length;
        entry.len = FALLOC_FL_KEEP_SIZE |
                    (operation.kind == IoOperation::Kind::kPunchHole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
        break;
    }
  }

  static std::size_t lengthOf(const IoOperation& operation) {
    std::size_t sum = 0;
    for (const iovec& buffer : operation.buffers) sum += buffer.iov_len;
    return sum;
  }

  static void describeTransfer(const IoOperation& operation, io_uring_sqe& entry, std::uint8_t single,
                               std::uint8_t vectored) {
    if (operation.buffers.size() == 1) {
      entry.opcode = single;
      entry.addr = reinterpret_cast<std::uintptr_t>(operation.buffers[0].iov_base);
      entry.len = static_cast<std::uint32_t>(operation.buffers[0].iov_len);
    } else {
      entry.opcode = vectored;
      entry.addr = reinterpret_cast<std::uintptr_t>(operation.buffers.data());
      entry.len = static_cast<std::uint32_t>(operation.buffers.size());
    }
  }

  UniqueFd ring_;
  const io_uring_params params_;
  Mapping rings_;
  Mapping entries_;
  std::uint32_t submissionMask_ = 0;
  std::uint32_t completionMask_ = 0;
  std::uint32_t submissionTail_ = 0;
  /// Described but not yet taken by the kernel.
  std::uint32_t pending_ = 0;
  /// Submitted but not yet reaped.
  std::uint32_t underWay_ = 0;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> makeIoUringEngine(int fd, std::uint16_t depth) {
  io_uring_params params{};
  // Completions need not interrupt us: we come to the kernel often enough (Linux 5.19).
  params.flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN;
  UniqueFd ring(setup(depth, params));
  if (!ring && errno == EINVAL) {
    params = {};
    params.flags = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
    ring.reset(setup(depth, params));
  }
  if (!ring) return Error::fromErrno("io_uring_setup");
  constexpr unsigned kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if ((params.features & kNeeded) != kNeeded || params.sq_entries < depth || !operationsSupported(ring.get())) {
    return Error{ErrorCode::kUnsupported, "the kernel's io_uring is older than Linux 5.6"};
  }
  int files[] = {fd};
  if (registerResource(ring.get(), IORING_REGISTER_FILES, files, 1) < 0) return Error::fromErrno("io_uring files");
  if (!restrictAndEnable(ring.get())) {
    return Error{ErrorCode::kUnsupported, "the kernel's io_uring cannot be restricted: it is older than Linux 5.10"};
  }
  auto engine = std::make_unique<IoUringEngine>(std::move(ring), params);
  TSHYVE_CHECK(engine->map());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace tshyve::virtio
