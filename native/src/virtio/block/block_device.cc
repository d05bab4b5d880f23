#include "virtio/block/block_device.h"

#include <sys/epoll.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tshyve::virtio {
namespace {

// Feature bits (Virtual I/O Device 1.2, section 5.2.3).
constexpr std::uint64_t kFeatureSegmentsMax = 1ULL << 2;
constexpr std::uint64_t kFeatureReadOnly = 1ULL << 5;
constexpr std::uint64_t kFeatureBlockSize = 1ULL << 6;
constexpr std::uint64_t kFeatureFlush = 1ULL << 9;
constexpr std::uint64_t kFeatureTopology = 1ULL << 10;
constexpr std::uint64_t kFeatureMultiQueue = 1ULL << 12;
constexpr std::uint64_t kFeatureDiscard = 1ULL << 13;
constexpr std::uint64_t kFeatureWriteZeroes = 1ULL << 14;

/// Section 5.2.4.
struct BlockConfig {
  std::uint64_t capacity;
  std::uint32_t sizeMax;
  std::uint32_t segmentsMax;
  std::uint8_t geometry[4];
  std::uint32_t blockSize;
  std::uint8_t physicalBlockExponent;
  std::uint8_t alignmentOffset;
  std::uint16_t minIoBlocks;
  std::uint32_t optimalIoBlocks;
  std::uint8_t writeback;
  std::uint8_t unused;
  std::uint16_t queues;
  std::uint32_t maxDiscardSectors;
  std::uint32_t maxDiscardSegments;
  std::uint32_t discardSectorAlignment;
  std::uint32_t maxWriteZeroesSectors;
  std::uint32_t maxWriteZeroesSegments;
  std::uint8_t writeZeroesMayUnmap;
  std::uint8_t padding[3];
};
static_assert(sizeof(BlockConfig) == 64 && offsetof(BlockConfig, queues) == 34 &&
              offsetof(BlockConfig, writeZeroesMayUnmap) == 56);

/// Request types and answers (section 5.2.6).
enum RequestType : std::uint32_t {
  kIn = 0,
  kOut = 1,
  kFlush = 4,
  kGetId = 8,
  kDiscard = 11,
  kWriteZeroes = 13,
};
constexpr std::uint8_t kOk = 0;
constexpr std::uint8_t kIoError = 1;
constexpr std::uint8_t kUnsupported = 2;

struct RequestHeader {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16);

struct RangeDescriptor {
  std::uint64_t sector;
  std::uint32_t sectors;
  std::uint32_t flags;
};
static_assert(sizeof(RangeDescriptor) == 16);
constexpr std::uint32_t kRangeUnmap = 1;

/// Zeros for file systems without FALLOC_FL_ZERO_RANGE; written again and again, a piece for each buffer.
constexpr std::size_t kZeroPiece = 64 * 1024;
constexpr std::size_t kZeroPieces = 64;
const std::array<std::byte, kZeroPiece> kZeros{};

/// Removes what has been moved from the front.
std::span<iovec> advance(std::span<iovec> buffers, std::size_t bytes) {
  while (!buffers.empty() && bytes >= buffers.front().iov_len) {
    bytes -= buffers.front().iov_len;
    buffers = buffers.subspan(1);
  }
  if (bytes > 0 && !buffers.empty()) {
    buffers.front().iov_base = static_cast<std::byte*>(buffers.front().iov_base) + bytes;
    buffers.front().iov_len -= bytes;
  }
  return buffers;
}

}  // namespace

/// A request on its way. It owns what the host needs to carry it out; only the guest's own data lie in guest memory,
/// which outlives every device.
struct BlockDevice::Request {
  Chain chain;
  std::uint16_t queue = 0;
  std::byte* status = nullptr;
  IoOperation operation;
  std::vector<iovec> buffers;
  std::uint32_t written = 0;
  std::vector<RangeDescriptor> ranges;
  std::size_t range = 0;
  bool discard = false;
  /// Of the present range, still to be overwritten with zeros by hand.
  std::uint64_t zerosLeft = 0;
};

Result<std::shared_ptr<BlockDevice>> BlockDevice::create(EventLoop& loop, const DiskConfig& config, Log log) {
  TSHYVE_TRY(DiskFile disk, DiskFile::open(config.path, config.readOnly, log));
  TSHYVE_TRY(auto engine, makeIoEngine(disk.fd.get(), kDepth));
  return create(loop, config, std::move(disk), std::move(engine), std::move(log));
}

Result<std::shared_ptr<BlockDevice>> BlockDevice::create(EventLoop& loop, const DiskConfig& config, DiskFile disk,
                                                         std::unique_ptr<IoEngine> engine, Log log) {
  if (config.queues < 1 || config.queues > kMaxQueues) {
    return Error{ErrorCode::kInvalidArgument, "the disk " + config.path + " has " + std::to_string(config.queues) +
                                                  " queues: from 1 to " + std::to_string(kMaxQueues) + " are possible"};
  }
  if (config.id.size() > kIdLength) {
    return Error{ErrorCode::kInvalidArgument,
                 "the disk id \"" + config.id + "\" is longer than " + std::to_string(kIdLength) + " bytes"};
  }
  std::shared_ptr<BlockDevice> device(
      new BlockDevice(loop, config, std::move(disk), std::move(engine), std::move(log)));
  Result<void> watched;
  loop.runSync([&] {
    auto watch =
        loop.watch(device->engine_->completionFd(), EPOLLIN, [raw = device.get()](std::uint32_t) { raw->serve(); });
    if (watch) {
      device->completions_ = std::move(*watch);
    } else {
      watched = watch.error();
    }
  });
  TSHYVE_CHECK(watched);
  return device;
}

BlockDevice::BlockDevice(EventLoop& loop, const DiskConfig& config, DiskFile disk, std::unique_ptr<IoEngine> engine,
                         Log log)
    : loop_(loop),
      name_("block-" + config.id),
      id_(config.id),
      path_(config.path),
      log_(std::move(log)),
      disk_(std::move(disk)),
      queueSizes_(config.queues, kQueueSize),
      engine_(std::move(engine)) {
  for (std::uint16_t count = 0; count < kDepth; count++) {
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }
  done_.reserve(kDepth);
}

BlockDevice::~BlockDevice() {
  loop_.runSync([this] {
    reset();
    completions_.reset();
  });
}

std::uint64_t BlockDevice::features() const {
  std::uint64_t features = kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureSegmentsMax | kFeatureBlockSize |
                           kFeatureTopology | kFeatureFlush;
  if (queueSizes_.size() > 1) features |= kFeatureMultiQueue;
  if (disk_.readOnly) features |= kFeatureReadOnly;
  if (disk_.canDiscard) features |= kFeatureDiscard | kFeatureWriteZeroes;
  return features;
}

void BlockDevice::readConfig(std::uint32_t offset, std::span<std::byte> data) {
  BlockConfig config{};
  config.capacity = disk_.bytes / kSectorSize;
  config.segmentsMax = kMaxSegments;
  config.blockSize = disk_.logicalBlock;
  const std::uint32_t blocksPerPhysical = disk_.physicalBlock / disk_.logicalBlock;
  config.physicalBlockExponent = static_cast<std::uint8_t>(std::countr_zero(blocksPerPhysical));
  config.minIoBlocks = static_cast<std::uint16_t>(blocksPerPhysical);
  config.queues = static_cast<std::uint16_t>(queueSizes_.size());
  if (disk_.canDiscard) {
    config.maxDiscardSectors = kMaxRangeSectors;
    config.maxDiscardSegments = kMaxRanges;
    config.discardSectorAlignment = disk_.physicalBlock / kSectorSize;
    config.maxWriteZeroesSectors = kMaxRangeSectors;
    config.maxWriteZeroesSegments = kMaxRanges;
    config.writeZeroesMayUnmap = 1;
  }
  const auto bytes = std::as_bytes(std::span(&config, 1));
  for (std::size_t index = 0; index < data.size(); index++) {
    data[index] = offset + index < bytes.size() ? bytes[offset + index] : std::byte{0};
  }
}

Result<void> BlockDevice::activate(Activation activation) {
  queues_.clear();
  for (Queue* queue : activation.queues) queues_.push_back({.queue = queue});
  signals_ = &activation.signals;
  // A driver that cannot flush must find its data safe once a write is answered (section 5.2.6.2).
  writeThrough_ = (activation.features & kFeatureFlush) == 0;
  return {};
}

void BlockDevice::notify(std::uint16_t) { serve(); }

void BlockDevice::reset() {
  discarding_ = true;
  drain();
  discarding_ = false;
  queues_.clear();
  signals_ = nullptr;
}

void BlockDevice::pause() {
  paused_ = true;
  drain();
  finishAnswered();
}

void BlockDevice::resume() { paused_ = false; }

void BlockDevice::save(StateWriter& writer) const {
  writer.section("block", 1);
  writer.put(disk_.bytes);
}

Result<void> BlockDevice::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("block", 1));
  std::uint64_t bytes = 0;
  TSHYVE_CHECK(reader.get(bytes));
  if (bytes != disk_.bytes) {
    return Error{ErrorCode::kState, "the disk " + path_ + " had " + std::to_string(bytes) +
                                        " bytes when the snapshot was taken and has " + std::to_string(disk_.bytes) +
                                        " now: put the disk of that time back"};
  }
  return {};
}

/// Moves everything on as far as it goes: takes new requests, starts them together, answers what is done. Meanwhile the
/// driver need not notify: that would cost it an exit, and we look anyway.
void BlockDevice::serve() {
  for (const QueueState& state : queues_) {
    if (state.queue != nullptr) state.queue->disableNotifications();
  }
  for (bool more = true; more;) {
    more = reap(false);
    if (!paused_) {
      for (std::uint16_t index = 0; index < queues_.size(); index++) more |= takeFrom(index);
    }
    engine_->flush();
    finishAnswered();
    if (!more) more = listen();
  }
}

/// Asks for notifications again. @return true when requests have come meanwhile that can be taken
bool BlockDevice::listen() {
  bool waiting = false;
  for (const QueueState& state : queues_) {
    // While all requests are in use, the next completion brings us back.
    if (state.queue != nullptr) waiting |= state.queue->enableNotifications() && !free_.empty() && !paused_;
  }
  return waiting;
}

/// @return true when requests were taken
bool BlockDevice::takeFrom(std::uint16_t index) {
  bool taken = false;
  Queue* queue = queues_[index].queue;
  while (queue != nullptr && !free_.empty()) {
    Request& request = *free_.back();
    const auto popped = queue->pop(request.chain);
    if (!popped || !*popped) {
      if (popped) break;
      signals_->deviceBroken(popped.error().message);
      for (QueueState& state : queues_) state.queue = nullptr;
      break;
    }
    free_.pop_back();
    request.queue = index;
    taken = true;
    if (!begin(request)) {
      free_.push_back(&request);
      signals_->deviceBroken("a block request without room for its header or its status");
      for (QueueState& state : queues_) state.queue = nullptr;
      break;
    }
  }
  return taken;
}

void BlockDevice::finishAnswered() {
  for (std::uint16_t index = 0; index < queues_.size(); index++) {
    QueueState& state = queues_[index];
    if (std::exchange(state.used, false) && state.queue != nullptr && state.queue->shouldInterrupt()) {
      signals_->queueInterrupt(index);
    }
  }
}

/// @return true when something was done
bool BlockDevice::reap(bool wait) {
  done_.clear();
  engine_->reap(done_, wait);
  for (IoOperation* operation : done_) completed(*static_cast<Request*>(operation->owner));
  return !done_.empty();
}

void BlockDevice::drain() {
  while (free_.size() < requests_.size()) {
    engine_->flush();
    reap(true);
  }
}

bool BlockDevice::inRange(std::uint64_t sector, std::uint64_t sectors) const {
  const std::uint64_t capacity = disk_.bytes / kSectorSize;
  return sectors <= capacity && sector <= capacity - sectors;
}

bool BlockDevice::begin(Request& request) {
  const auto header = request.chain.read<RequestHeader>(0);
  if (!header || request.chain.writable.empty()) return false;
  request.status = &request.chain.writable.back().back();
  request.written = 0;
  request.zerosLeft = 0;
  request.ranges.clear();
  request.operation = {};
  request.operation.owner = &request;
  switch (header->type) {
    case kIn:
    case kOut:
      beginTransfer(request, header->sector, header->type == kOut);
      break;
    case kFlush:
      request.operation.kind = IoOperation::Kind::kFlush;
      // Nothing to flush; firmware asks anyway and must not fail.
      if (disk_.readOnly) {
        answer(request, kOk, 1);
      } else {
        submit(request);
      }
      break;
    case kGetId:
      giveId(request);
      break;
    case kDiscard:
    case kWriteZeroes:
      beginRanges(request, header->type == kDiscard);
      break;
    default:
      answer(request, kUnsupported, 1);
  }
  return true;
}

void BlockDevice::beginTransfer(Request& request, std::uint64_t sector, bool write) {
  const std::uint64_t bytes =
      write ? request.chain.readableBytes() - sizeof(RequestHeader) : request.chain.writableBytes() - 1;
  const bool valid = bytes > 0 && bytes % kSectorSize == 0 && inRange(sector, bytes / kSectorSize);
  if (!valid || (write && disk_.readOnly)) {
    answer(request, kIoError, 1);
    return;
  }
  request.buffers.clear();
  if (write) {
    std::size_t skip = sizeof(RequestHeader);
    for (const std::span<const std::byte> span : request.chain.readable) {
      const std::size_t skipped = std::min(skip, span.size());
      skip -= skipped;
      if (skipped == span.size()) continue;
      // preadv(2) and pwritev(2) share a type that knows no const.
      request.buffers.push_back({const_cast<std::byte*>(span.data()) + skipped, span.size() - skipped});
    }
  } else {
    for (const std::span<std::byte> span : request.chain.writable)
      request.buffers.push_back({span.data(), span.size()});
    // The status.
    if (--request.buffers.back().iov_len == 0) request.buffers.pop_back();
  }
  request.operation.kind = write ? IoOperation::Kind::kWrite : IoOperation::Kind::kRead;
  request.operation.durable = write && writeThrough_;
  request.operation.offset = sector * kSectorSize;
  request.operation.buffers = request.buffers;
  submit(request);
}

void BlockDevice::giveId(Request& request) {
  if (request.chain.writableBytes() < kIdLength + 1) {
    answer(request, kIoError, 1);
    return;
  }
  // Filled up with zeros, not terminated (section 5.2.6).
  std::array<char, kIdLength> id{};
  id_.copy(id.data(), id.size());
  request.chain.copyIn(0, std::as_bytes(std::span(id)));
  answer(request, kOk, kIdLength + 1);
}

void BlockDevice::beginRanges(Request& request, bool discard) {
  if (disk_.readOnly) {
    answer(request, kIoError, 1);
    return;
  }
  const std::uint64_t bytes = request.chain.readableBytes() - sizeof(RequestHeader);
  const std::uint64_t count = bytes / sizeof(RangeDescriptor);
  if (!disk_.canDiscard || bytes % sizeof(RangeDescriptor) != 0) {
    answer(request, kUnsupported, 1);
    return;
  }
  if (count < 1 || count > kMaxRanges) {
    answer(request, kIoError, 1);
    return;
  }
  for (std::uint64_t index = 0; index < count; index++) {
    const auto range =
        request.chain.read<RangeDescriptor>(sizeof(RequestHeader) + index * sizeof(RangeDescriptor)).value();
    // Unmapping is for zeroed ranges only, other bits for nobody (section 5.2.6.2).
    if ((range.flags & ~(discard ? 0U : kRangeUnmap)) != 0) {
      answer(request, kUnsupported, 1);
      return;
    }
    if (range.sectors > kMaxRangeSectors || !inRange(range.sector, range.sectors)) {
      answer(request, kIoError, 1);
      return;
    }
    if (range.sectors > 0) request.ranges.push_back(range);
  }
  request.discard = discard;
  request.range = 0;
  nextRange(request);
}

void BlockDevice::nextRange(Request& request) {
  if (request.range == request.ranges.size()) {
    answer(request, kOk, 1);
    return;
  }
  const RangeDescriptor& range = request.ranges[request.range];
  const bool punch = request.discard || (range.flags & kRangeUnmap) != 0;
  request.operation.offset = range.sector * kSectorSize;
  request.operation.length = std::uint64_t{range.sectors} * kSectorSize;
  request.operation.kind = punch ? IoOperation::Kind::kPunchHole : IoOperation::Kind::kZeroRange;
  if (!punch && !zeroRangeWorks_) {
    request.zerosLeft = request.operation.length;
    writeZeros(request);
    return;
  }
  submit(request);
}

/// The slow way: ordinary writes of zeros over the present range.
void BlockDevice::writeZeros(Request& request) {
  const std::uint64_t bytes = std::min<std::uint64_t>(request.zerosLeft, kZeroPiece * kZeroPieces);
  request.buffers.clear();
  for (std::uint64_t covered = 0; covered < bytes; covered += kZeroPiece) {
    request.buffers.push_back(
        {const_cast<std::byte*>(kZeros.data()), std::min<std::uint64_t>(kZeroPiece, bytes - covered)});
  }
  request.operation.kind = IoOperation::Kind::kWrite;
  request.operation.durable = writeThrough_;
  request.operation.buffers = request.buffers;
  submit(request);
}

void BlockDevice::submit(Request& request) { engine_->submit(request.operation); }

void BlockDevice::completed(Request& request) {
  const std::int64_t result = request.operation.result;
  if (result == -EINTR || result == -EAGAIN) {
    submit(request);
    return;
  }
  switch (request.operation.kind) {
    case IoOperation::Kind::kRead:
    case IoOperation::Kind::kWrite:
      transferCompleted(request, result);
      break;
    case IoOperation::Kind::kFlush:
      if (result < 0) failed(request, result);
      answer(request, result < 0 ? kIoError : kOk, 1);
      break;
    case IoOperation::Kind::kPunchHole:
    case IoOperation::Kind::kZeroRange:
      if (result < 0) {
        rangeFailed(request, result);
      } else if (writeThrough_ && request.range + 1 == request.ranges.size()) {
        // Holes and zeros are to be safe too, and one flush is for all of the ranges.
        request.operation.kind = IoOperation::Kind::kFlush;
        submit(request);
      } else {
        request.range++;
        nextRange(request);
      }
      break;
  }
}

void BlockDevice::transferCompleted(Request& request, std::int64_t result) {
  const bool write = request.operation.kind == IoOperation::Kind::kWrite;
  if (result <= 0) {
    // Nothing moved although all of it lies within the disk: someone has cut the file.
    failed(request, result == 0 ? -ENODATA : result);
    answer(request, kIoError, request.written + 1);
    return;
  }
  const auto moved = static_cast<std::uint64_t>(result);
  if (!write) request.written += static_cast<std::uint32_t>(moved);
  request.operation.offset += moved;
  request.operation.buffers = advance(request.operation.buffers, moved);
  if (!request.operation.buffers.empty()) {
    submit(request);
    return;
  }
  if (request.ranges.empty()) {
    answer(request, kOk, request.written + 1);
    return;
  }
  // A piece of the zeros is written; `operation.offset` has moved on with them.
  const RangeDescriptor& range = request.ranges[request.range];
  const std::uint64_t end = (range.sector + range.sectors) * kSectorSize;
  request.zerosLeft = end - request.operation.offset;
  if (request.zerosLeft > 0) {
    writeZeros(request);
  } else {
    request.range++;
    nextRange(request);
  }
}

void BlockDevice::rangeFailed(Request& request, std::int64_t error) {
  if (error != -EOPNOTSUPP) {
    failed(request, error);
    answer(request, kIoError, 1);
  } else if (request.operation.kind == IoOperation::Kind::kZeroRange) {
    zeroRangeWorks_ = false;
    nextRange(request);
  } else {
    answer(request, kUnsupported, 1);
  }
}

void BlockDevice::answer(Request& request, std::uint8_t status, std::uint32_t written) {
  free_.push_back(&request);
  if (discarding_) return;
  *request.status = std::byte{status};
  QueueState& state = queues_[request.queue];
  if (state.queue == nullptr) return;
  state.queue->push(request.chain.head, written);
  state.used = true;
}

void BlockDevice::failed(const Request& request, std::int64_t error) {
  const auto now = std::chrono::steady_clock::now();
  // A full disk fails every write: one line a minute says it.
  if (!log_ || (error == loggedError_ && now - loggedAt_ < std::chrono::minutes(1))) return;
  loggedError_ = error;
  loggedAt_ = now;
  constexpr const char* kVerbs[] = {"read from", "write to", "flush", "discard", "zero"};
  log_("cannot " + std::string(kVerbs[static_cast<std::size_t>(request.operation.kind)]) + " the disk " + path_ +
       " at byte " + std::to_string(request.operation.offset) + ": " +
       (error == -ENODATA ? "the file has become shorter" : std::strerror(static_cast<int>(-error))) +
       "; the guest sees an I/O error");
}

}  // namespace tshyve::virtio
