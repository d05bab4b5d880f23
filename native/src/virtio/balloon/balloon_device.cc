#include "virtio/balloon/balloon_device.h"

#include <algorithm>
#include <cstring>

namespace tshyve::virtio {
namespace {

/// struct virtio_balloon_config (section 5.5.4).
struct Config {
  std::uint32_t targetPages;
  std::uint32_t actualPages;
};
static_assert(sizeof(Config) == 8);

struct [[gnu::packed]] Statistic {
  std::uint16_t tag;
  std::uint64_t value;
};
static_assert(sizeof(Statistic) == 10);
/// The specification has 10 tags, Linux some more.
constexpr std::size_t kMaxStatistics = 64;

constexpr std::uint64_t kPageBytes = 4096;

}  // namespace

std::uint64_t BalloonDevice::features() const {
  return kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureStatistics | kFeatureDeflateOnOom |
         kFeaturePageReporting;
}

void BalloonDevice::setTarget(std::uint64_t bytes) {
  targetPages_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(bytes >> kPageShift, UINT32_MAX));
  loop_.post([self = std::weak_ptr(self_)] {
    const auto device = self.lock();
    if (device && (*device)->signals_ != nullptr) (*device)->signals_->configChanged();
  });
}

void BalloonDevice::requestStatistics(std::function<void(const BalloonStatistics&)> done) {
  loop_.post([self = std::weak_ptr(self_), done = std::move(done)] {
    const auto device = self.lock();
    if (!device) return;
    (*device)->statisticsDone_ = done;
    (*device)->askForStatistics();
  });
}

void BalloonDevice::readConfig(std::uint32_t offset, std::span<std::byte> data) {
  const Config config{targetPages_, actualPages_};
  const auto bytes = std::as_bytes(std::span(&config, 1));
  std::memset(data.data(), 0, data.size());
  if (offset >= bytes.size()) return;
  std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
}

void BalloonDevice::writeConfig(std::uint32_t offset, std::span<const std::byte> data) {
  if (offset != offsetof(Config, actualPages) || data.size() != sizeof(std::uint32_t)) return;
  std::uint32_t pages = 0;
  std::memcpy(&pages, data.data(), sizeof pages);
  actualPages_ = pages;
}

Result<void> BalloonDevice::activate(Activation activation) {
  std::ranges::copy(activation.queues, queues_.begin());
  memory_ = &activation.memory;
  signals_ = &activation.signals;
  // Drivers leave no gap for the queue of a feature they did not take.
  roles_ = {Role::kInflate, Role::kDeflate};
  std::size_t next = 2;
  if ((activation.features & kFeatureStatistics) != 0) roles_[next++] = Role::kStatistics;
  if ((activation.features & kFeaturePageReporting) != 0) roles_[next] = Role::kReporting;
  return {};
}

void BalloonDevice::notify(std::uint16_t queue) {
  if (paused_ || queue >= queues_.size() || queues_[queue] == nullptr || !roles_[queue]) return;
  switch (*roles_[queue]) {
    case Role::kInflate:
      return serve(queue, &BalloonDevice::inflate);
    case Role::kDeflate:
      return serve(queue, &BalloonDevice::deflate);
    case Role::kStatistics:
      return takeStatistics(queue);
    case Role::kReporting:
      return serve(queue, &BalloonDevice::report);
  }
}

void BalloonDevice::reset() {
  queues_ = {};
  roles_ = {};
  memory_ = nullptr;
  signals_ = nullptr;
  statisticsHead_.reset();
  // A driver that starts anew has given nothing up.
  actualPages_ = 0;
}

void BalloonDevice::resume() {
  paused_ = false;
  askForStatistics();
}

void BalloonDevice::serve(std::uint16_t index, Result<void> (BalloonDevice::*handle)()) {
  Queue& queue = *queues_[index];
  for (;;) {
    const auto popped = queue.pop(chain_);
    if (!popped) return broken(popped.error());
    if (!*popped) break;
    if (const auto handled = (this->*handle)(); !handled) return broken(handled.error());
    queue.push(chain_.head, 0);
  }
  if (queue.shouldInterrupt()) signals_->queueInterrupt(index);
}

Result<void> BalloonDevice::inflate() {
  const std::uint64_t size = chain_.readableBytes();
  if (size > kMaxPages * sizeof(std::uint32_t)) {
    return Error{ErrorCode::kGuest, "the balloon was given more pages at once than any driver sends"};
  }
  std::vector<std::uint32_t> pages(size / sizeof(std::uint32_t));
  chain_.copyOut(0, std::as_writable_bytes(std::span(pages)));
  // Linux gives neighbours in descending order; one call for a run of them is much cheaper.
  std::ranges::sort(pages);
  for (std::size_t first = 0; first < pages.size();) {
    std::size_t last = first;
    while (last + 1 < pages.size() && pages[last + 1] - pages[last] <= 1) last++;
    const std::uint64_t count = std::uint64_t{pages[last]} - pages[first] + 1;
    // A page that is no RAM, or that the host does not take back, is the guest's loss alone.
    (void)memory_->discard(std::uint64_t{pages[first]} << kPageShift, count << kPageShift).ok();
    first = last + 1;
  }
  return {};
}

Result<void> BalloonDevice::report() {
  for (const std::span<std::byte> range : chain_.writable) {
    // Whole pages inside the range: Linux reports blocks of 2 MiB and more, but who knows.
    const auto start = reinterpret_cast<std::uintptr_t>(range.data());
    const std::size_t skip = (kPageBytes - start % kPageBytes) % kPageBytes;
    if (skip >= range.size()) continue;
    const std::size_t size = (range.size() - skip) / kPageBytes * kPageBytes;
    if (size > 0 && memory_->discard(range.subspan(skip, size))) reportedBytes_ += size;
  }
  return {};
}

void BalloonDevice::takeStatistics(std::uint16_t index) {
  Queue& queue = *queues_[index];
  for (;;) {
    const auto popped = queue.pop(chain_);
    if (!popped) return broken(popped.error());
    if (!*popped) break;
    // One buffer is lent to us at a time; of more, the last one counts.
    if (statisticsHead_) queue.push(*statisticsHead_, 0);
    statisticsHead_ = chain_.head;
    if (!statisticsDone_) continue;
    BalloonStatistics statistics;
    for (std::size_t entry = 0; entry < kMaxStatistics; entry++) {
      const auto statistic = chain_.read<Statistic>(entry * sizeof(Statistic));
      if (!statistic) break;
      statistics[statistic->tag] = statistic->value;
    }
    std::exchange(statisticsDone_, nullptr)(statistics);
  }
  if (queue.shouldInterrupt()) signals_->queueInterrupt(index);
}

void BalloonDevice::askForStatistics() {
  if (paused_ || !statisticsDone_ || !statisticsHead_) return;
  const auto role = std::ranges::find(roles_, std::optional(Role::kStatistics));
  const auto index = static_cast<std::uint16_t>(role - roles_.begin());
  if (role == roles_.end() || queues_[index] == nullptr) return;
  queues_[index]->push(*statisticsHead_, 0);
  statisticsHead_.reset();
  if (queues_[index]->shouldInterrupt()) signals_->queueInterrupt(index);
}

void BalloonDevice::broken(const Error& error) {
  signals_->deviceBroken(error.message);
  queues_ = {};
}

void BalloonDevice::save(StateWriter& writer) const {
  writer.section("balloon", 1);
  writer.put(targetPages_.load());
  writer.put(actualPages_.load());
  writer.put(static_cast<std::uint8_t>(statisticsHead_.has_value()));
  writer.put(statisticsHead_.value_or(0));
}

Result<void> BalloonDevice::restore(StateReader& reader) {
  TSHYVE_CHECK(reader.section("balloon", 1));
  std::uint32_t target = 0;
  std::uint32_t actual = 0;
  std::uint8_t lent = 0;
  std::uint16_t head = 0;
  TSHYVE_CHECK(reader.get(target));
  TSHYVE_CHECK(reader.get(actual));
  TSHYVE_CHECK(reader.get(lent));
  TSHYVE_CHECK(reader.get(head));
  targetPages_ = target;
  actualPages_ = actual;
  if (lent != 0) statisticsHead_ = head;
  return {};
}

}  // namespace tshyve::virtio
