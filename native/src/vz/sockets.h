#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "machine/machine_config.h"

namespace tshyve::vz {

/// The datagram socket of a file-handle network, connected and with the buffers that Apple asks for.
struct FrameSocket {
  UniqueFd fd;
  std::string localPath;  ///< ours, to be removed; empty: none
  FrameSocket() = default;
  FrameSocket(FrameSocket&&) = default;
  FrameSocket& operator=(FrameSocket&&) = default;
  ~FrameSocket();
};
Result<FrameSocket> openFrameSocket(const DatagramNetwork& peer);

/// The guest's sockets as unix sockets in a folder, by the names of our own core (virtio/vsock/host_sockets.h): clients
/// write a line to `connect` or `vsock.sock`, or go to `<cid>.<port>`; the guest reaches `vsock.sock_<port>` or
/// `00000002.<port in hexadecimal>`. One thread of its own carries the bytes.
class SocketBridge {
 public:
  /// Called on the bridge's thread for a client that wants a port of the guest; whoever connects calls `joinClient`.
  using OnClient = std::function<void(std::uint64_t id, std::uint32_t port)>;

  static Result<std::unique_ptr<SocketBridge>> create(const VsockConfig& config, OnClient onClient);
  SocketBridge(const SocketBridge&) = delete;
  SocketBridge& operator=(const SocketBridge&) = delete;
  ~SocketBridge();

  /// Gives a client its connection to the guest; without one, the client is hung up. Any thread.
  void joinClient(std::uint64_t id, Result<UniqueFd> guest);
  /// Connects the guest to who serves this port on the host. Any thread.
  /// @return false when nobody does
  bool joinGuest(std::uint32_t port, UniqueFd guest);

 private:
  struct Listener {
    std::string path;
    bool firecracker = false;
    std::optional<std::uint32_t> port;  ///< of the guest; where clients say it, none
    UniqueFd socket;
  };
  /// A client that has not said where it wants to go, or waits for the guest.
  struct Caller {
    std::uint64_t id = 0;
    UniqueFd socket;
    bool firecracker = false;
    bool waiting = false;
    std::string line = {};
    std::chrono::steady_clock::time_point deadline;
  };
  struct Half {
    std::vector<char> bytes;  ///< read and not yet written
    bool ended = false;       ///< the reader saw the end
    bool closed = false;      ///< the end was passed on
  };
  struct Pair {
    std::array<UniqueFd, 2> ends;
    std::array<Half, 2> halves;  ///< halves[i]: from ends[i] to the other
  };

  explicit SocketBridge(const VsockConfig& config, OnClient onClient);
  Result<void> listen();
  Result<void> listenAt(const std::string& name, bool firecracker, std::optional<std::uint32_t> port);
  void run();
  void acceptAll(const Listener& listener);
  /// @return false when the caller is to be dropped
  bool readLine(Caller& caller);
  /// Moves what can be moved. @return false when the pair is over
  static bool carry(Pair& pair);
  void wake() const;
  void adopt();

  const VsockConfig config_;
  const OnClient onClient_;
  UniqueFd wakeRead_, wakeWrite_;
  std::thread thread_;

  // The bridge's thread only.
  std::list<Listener> listeners_;
  std::list<Caller> callers_;
  std::list<Pair> pairs_;
  std::uint64_t nextId_ = 1;

  struct Arrival {
    std::uint64_t id = 0;  ///< 0: a pair that is complete
    UniqueFd guest;
    UniqueFd host;
  };
  std::mutex mutex_;
  std::vector<Arrival> arrivals_;  // guarded by mutex_
  bool over_ = false;              // guarded by mutex_
};

}  // namespace tshyve::vz
