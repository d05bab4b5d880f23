#pragma once

#include "net/backoff.h"
#include "net/frame_backend.h"
#include "net/stream_framing.h"
#include "net/vpnkit_handshake.h"

namespace tshyve::net {

/// A peer at a unix stream socket: frames behind a length, optionally after VPNKit's handshake. When the peer goes
/// away the link is down until it is back; frames sent meanwhile are dropped.
class StreamBackend final : public FrameBackend {
 public:
  /// Connects. The peer has to be there.
  static Result<std::unique_ptr<StreamBackend>> create(EventLoop& loop, const StreamNetwork& config, Log log);
  /// Connects and shakes hands, for at most 5 s.
  static Result<std::unique_ptr<StreamBackend>> create(EventLoop& loop, const VpnkitNetwork& config, Log log);

  [[nodiscard]] const Properties& properties() const override { return properties_; }
  [[nodiscard]] bool linkUp() const override { return connected_; }
  std::size_t send(std::span<const OutgoingFrame> frames) override;
  std::optional<std::size_t> receive(VirtioNetHeader& header, std::span<const iovec> target) override;
  void setReceiving(bool receiving) override;

 private:
  StreamBackend(EventLoop& loop, std::string path, LengthPrefix prefix, Log log);
  Result<void> prepare();
  Result<void> connect();
  Result<void> shakeHands();
  void onEvents(std::uint32_t events);
  /// Closes the connection and tries again later.
  void disconnect(const std::string& why);
  void reconnect();
  bool flushBacklog();
  bool readMore();
  std::size_t sendBatch(std::span<const OutgoingFrame> frames);
  void updateInterest();

  EventLoop& loop_;
  const std::string path_;
  const LengthPrefix prefix_;
  const Log log_;
  std::string uuid_;  ///< of VPNKit; empty without handshake
  Properties properties_;
  UniqueFd socket_;
  bool connected_ = false;
  bool receiving_ = false;
  bool sendBlocked_ = false;
  FrameBuffer incoming_;
  /// What is left of a frame that the socket took in part.
  std::vector<std::byte> backlog_;
  std::vector<iovec> parts_;
  std::vector<std::array<std::byte, 4>> prefixes_;
  Backoff backoff_;
  EventLoop::Watch watch_;
  std::unique_ptr<EventLoop::Timer> timer_;
};

}  // namespace tshyve::net
