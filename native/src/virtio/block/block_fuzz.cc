// The block device with a hostile driver, on a file in memory.
#include <sys/mman.h>

#include <cstdlib>

#include "virtio/block/block_device.h"
#include "virtio/testing/fuzz_device.h"

using namespace tshyve;
using namespace tshyve::virtio;

namespace {

constexpr std::uint64_t kDiskBytes = 256 * 1024;

/// Does at once what it is told, so that a run depends on its input alone; every few operations fall short or fail.
class ImmediateEngine final : public IoEngine {
 public:
  ImmediateEngine(int fd, std::uint8_t mischief) : fd_(fd), mischief_(mischief) {}
  [[nodiscard]] const char* name() const override { return "immediate"; }
  void submit(IoOperation& operation) override {
    operation.result = perform(operation);
    done_.push_back(&operation);
  }
  void flush() override {}
  void reap(std::vector<IoOperation*>& done, bool) override {
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }
  [[nodiscard]] int completionFd() const override { return never_.fd(); }

 private:
  std::int64_t perform(const IoOperation& operation) {
    const auto offset = static_cast<off_t>(operation.offset);
    count_++;
    if ((mischief_ & 1) != 0 && count_ % 5 == 0) return -EIO;
    if ((mischief_ & 2) != 0 && count_ % 7 == 0) return -EINTR;
    if ((mischief_ & 4) != 0 && operation.kind == IoOperation::Kind::kZeroRange) return -EOPNOTSUPP;
    switch (operation.kind) {
      case IoOperation::Kind::kRead:
      case IoOperation::Kind::kWrite: {
        // Beyond the end of the disk is where no request may ever get.
        std::uint64_t bytes = 0;
        for (const iovec& buffer : operation.buffers) bytes += buffer.iov_len;
        if (bytes == 0 || operation.offset + bytes > kDiskBytes) std::abort();
        const bool part = (mischief_ & 8) != 0 && count_ % 3 == 0;
        const int buffers = part ? 1 : static_cast<int>(operation.buffers.size());
        return operation.kind == IoOperation::Kind::kRead ? ::preadv(fd_, operation.buffers.data(), buffers, offset)
                                                          : ::pwritev(fd_, operation.buffers.data(), buffers, offset);
      }
      case IoOperation::Kind::kPunchHole:
      case IoOperation::Kind::kZeroRange:
        if (operation.length == 0 || operation.offset + operation.length > kDiskBytes) std::abort();
        return 0;
      case IoOperation::Kind::kFlush:
        return 0;
    }
    return -EINVAL;
  }

  const int fd_;
  const std::uint8_t mischief_;
  int count_ = 0;
  std::vector<IoOperation*> done_;
  EventFd never_ = std::move(EventFd::create().value());
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fuzz").value());
  static const std::unique_ptr<GuestMemory> memory = test::makeMemory(1 << 20);
  static const UniqueFd file(::memfd_create("disk", MFD_CLOEXEC));
  if (::ftruncate(file.get(), kDiskBytes) != 0) std::abort();
  test::FuzzInput input(data, size);
  const auto options = input.take<std::uint8_t>();
  DiskFile disk;
  disk.fd.reset(::dup(file.get()));
  disk.bytes = kDiskBytes;
  disk.readOnly = (options & 0x10) != 0;
  disk.canDiscard = !disk.readOnly;
  auto engine = std::make_unique<ImmediateEngine>(file.get(), options & 0xf);
  const std::uint16_t queues = (options & 0x20) != 0 ? 2 : 1;
  auto device = BlockDevice::create(*loop, {.id = "fuzz", .path = "memory", .queues = queues}, std::move(disk),
                                    std::move(engine), {});
  test::fuzzDevice(**device, *memory, input, [](test::FuzzInput&) {});
  return 0;
}
