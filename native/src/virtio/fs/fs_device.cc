#include "virtio/fs/fs_device.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>

namespace tshyve::virtio {
namespace {

/// struct virtio_fs_config (section 5.11.4).
struct Config {
  char tag[36];
  std::uint32_t requestQueues;
};
static_assert(sizeof(Config) == 40);

}  // namespace

Result<std::unique_ptr<FsDevice>> FsDevice::create(EventLoop& loop, const std::string& tag, const std::string& socket) {
  return create(
      loop, tag, [socket] { return connectUnix(socket); }, "virtiofsd at " + socket);
}

Result<std::unique_ptr<FsDevice>> FsDevice::create(EventLoop& loop, const std::string& tag, Connector connect,
                                                   std::string peer) {
  if (tag.empty() || tag.size() > kTagBytes || tag.find('\0') != std::string::npos) {
    return Error{ErrorCode::kInvalidArgument, "the tag of a shared folder has 1 to 36 bytes, \"" + tag + "\" has not"};
  }
  std::unique_ptr<FsDevice> device(new FsDevice(loop, tag, std::move(connect), std::move(peer)));
  TSHYVE_CHECK(device->connect());
  device->features_ =
      device->connection_->features() & (kFeatureIndirectDescriptors | kFeatureEventIndex | kFeatureVersion1);
  return device;
}

FsDevice::FsDevice(EventLoop& loop, std::string tag, Connector connect, std::string peer)
    : loop_(loop), tag_(std::move(tag)), name_("fs-" + tag_), connect_(std::move(connect)), peer_(std::move(peer)) {}

Result<void> FsDevice::connect() {
  TSHYVE_TRY(UniqueFd socket, connect_());
  TSHYVE_TRY(connection_, VhostUserConnection::open(std::move(socket), peer_));
  return {};
}

void FsDevice::readConfig(std::uint32_t offset, std::span<std::byte> data) {
  Config config{{}, 1};
  std::ranges::copy(tag_, config.tag);
  const auto bytes = std::as_bytes(std::span(&config, 1));
  std::memset(data.data(), 0, data.size());
  if (offset >= bytes.size()) return;
  std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
}

Result<void> FsDevice::activate(Activation activation) {
  memory_ = &activation.memory;
  signals_ = &activation.signals;
  negotiated_ = activation.features;
  std::ranges::copy(activation.queues, queues_.begin());
  return paused_ ? Result<void>() : start();
}

Result<void> FsDevice::start() {
  if (!connection_) TSHYVE_CHECK(connect());
  const auto run = [&]() -> Result<void> {
    TSHYVE_CHECK(connection_->configure(*memory_, negotiated_));
    for (std::uint16_t index = 0; index < queues_.size(); index++) {
      if (queues_[index] == nullptr) continue;
      const int kick = signals_->queueKickFd(index);
      TSHYVE_CHECK(connection_->startRing({.index = index,
                                           .layout = queues_[index]->layout(),
                                           .nextAvailable = queues_[index]->position().nextAvailable,
                                           .kickFd = kick,
                                           .interruptFd = signals_->queueInterruptFd(index)}));
      // Buffers offered before now may have been announced already.
      ::eventfd_write(kick, 1);
    }
    return {};
  };
  if (auto result = run(); !result) {
    // A peer that is half configured is of no use.
    connection_.reset();
    return result;
  }
  running_ = true;
  listen();
  return {};
}

void FsDevice::listen() {
  // The daemon speaks only when asked: what comes unasked is the end of it, or nonsense.
  auto watch = loop_.watch(connection_->fd(), EPOLLIN | EPOLLRDHUP, [this](std::uint32_t) {
    lost({ErrorCode::kHost, peer_ + " has gone: start it again and remount in the guest"});
  });
  if (!watch) return lost(watch.error());
  watch_ = std::move(*watch);
}

void FsDevice::lost(const Error& error) {
  watch_.reset();
  connection_.reset();
  running_ = false;
  if (signals_ != nullptr) signals_->deviceBroken(error.message);
}

void FsDevice::stop() {
  watch_.reset();
  if (!running_) return;
  running_ = false;
  for (std::uint16_t index = 0; index < queues_.size(); index++) {
    if (queues_[index] == nullptr || !connection_) continue;
    const auto next = connection_->stopRing(index);
    if (!next) {
      connection_.reset();
      continue;
    }
    const auto used = memory_->read<std::uint16_t>(queues_[index]->layout().usedRing + 2);
    queues_[index]->setPosition({*next, used.value_or(*next)});
  }
}

void FsDevice::notify(std::uint16_t queue) {
  if (running_ && queue < queues_.size() && queues_[queue] != nullptr) ::eventfd_write(signals_->queueKickFd(queue), 1);
}

void FsDevice::reset() {
  stop();
  queues_ = {};
  memory_ = nullptr;
  signals_ = nullptr;
}

void FsDevice::pause() {
  paused_ = true;
  const bool wasRunning = running_;
  stop();
  // The daemon has gone while it should have stopped.
  if (wasRunning && !connection_) lost({ErrorCode::kHost, peer_ + " does not answer"});
}

void FsDevice::resume() {
  paused_ = false;
  if (signals_ == nullptr || running_) return;
  if (const auto started = start(); !started) lost(started.error());
}

void FsDevice::save(StateWriter& writer) const {
  writer.section("fs", 1);
  writer.putString(tag_);
}

Result<void> FsDevice::restore(StateReader& reader) {
  TSHYVE_CHECK(reader.section("fs", 1));
  TSHYVE_TRY(const std::string tag, reader.getString());
  if (tag != tag_) {
    return Error{ErrorCode::kCorrupt, "the snapshot has a shared folder \"" + tag + "\", the machine \"" + tag_ + "\""};
  }
  return {};
}

}  // namespace tshyve::virtio
