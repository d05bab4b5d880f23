#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include "net/backoff.h"
#include "net/frame_backend.h"

namespace tshyve::net {

/// A peer at a unix datagram socket, one frame a datagram. A peer that was reached by path is reached again when it
/// comes back, at once where no connection is kept; a socket the caller connected cannot be.
class DatagramBackend final : public FrameBackend {
 public:
  /// @param hello send gvproxy's `VFKT` first, so that a peer that waits for clients learns our address
  static Result<std::unique_ptr<DatagramBackend>> create(EventLoop& loop, const DatagramNetwork& config, Log log,
                                                         bool hello = false);
  ~DatagramBackend() override;

  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return connected_; }
  std::size_t send(std::span<const OutgoingFrame> frames) override;
  std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) override;
  void setReceiving(bool receiving) override;

 private:
  DatagramBackend(EventLoop& loop, const DatagramNetwork& config, Log log, bool hello);
  Result<void> prepare();
  Result<void> open();
  Result<void> bindAndConnect();
  void waitForPeer();
  void onEvents(std::uint32_t events);
  void disconnect(int error);
  void reconnect();
  void onRetry();
  void updateInterest();

  EventLoop& loop_;
  const DatagramNetwork config_;
  const Log log_;
  const bool hello_;
  Properties properties_;
  sockaddr_un peer_{};
  UniqueFd socket_;
  bool bound_ = false;
  bool connected_ = false;
  bool receiving_ = false;
  bool sendBlocked_ = false;
  int noBufferRetries_ = 0;
  std::chrono::microseconds retryDelay_{0};
  std::vector<mmsghdr> messages_;
  std::vector<iovec> parts_;
  Backoff backoff_;
  EventLoop::Watch watch_;
  std::unique_ptr<EventLoop::Timer> reconnectTimer_;
  std::unique_ptr<EventLoop::Timer> retryTimer_;
};

}  // namespace tshyve::net
