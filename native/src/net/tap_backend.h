#pragma once

#include "net/frame_backend.h"

namespace tshyve::net {

/// A tap interface (Linux Documentation/networking/tuntap.rst).
class TapBackend final : public FrameBackend {
 public:
  static Result<std::unique_ptr<TapBackend>> create(EventLoop& loop, const TapNetwork& config);

  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return true; }
  Result<void> setReceiveOffloads(const Offloads& offloads) override;
  std::size_t send(std::span<const OutgoingFrame> frames) override;
  std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) override;
  void setReceiving(bool receiving) override;

 private:
  TapBackend() = default;
  Result<void> openNamed(const std::string& name);
  Result<void> adopt(int fd);
  Result<void> prepare(EventLoop& loop, bool vhost);
  void updateInterest();

  UniqueFd fd_;
  bool hasHeader_ = true;
  bool receiving_ = false;
  bool sendBlocked_ = false;
  Properties properties_;
  std::vector<iovec> scratch_;
  EventLoop::Watch watch_;
};

}  // namespace tshyve::net
