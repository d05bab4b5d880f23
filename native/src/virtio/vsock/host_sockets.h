#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "machine/machine_config.h"

namespace tshyve::virtio {

/// The host's ends of a guest's sockets, as unix sockets in a folder. Clients reach the guest by
///   - `connect`: they write `<cid>.<port>` in hexadecimal and a line feed, and are connected (HyperKit's way);
///   - `vsock.sock`: they write `CONNECT <port>` and a line feed, and read `OK <host port>` (Firecracker's way);
///   - `<cid>.<port>` in hexadecimal, for the ports of the config: they are connected at once (HyperKit's way).
/// The guest reaches servers at `vsock.sock_<port>` (Firecracker) or `00000002.<port in hexadecimal>` (HyperKit).
/// All on one loop.
class HostSockets {
 public:
  struct Client {
    UniqueFd socket;
    std::uint32_t port = 0;    ///< of the guest
    bool acknowledge = false;  ///< it waits for `OK`
  };

  /// Makes the folder (0700) when it is missing, and the sockets (0600).
  static Result<std::unique_ptr<HostSockets>> create(EventLoop& loop, const VsockConfig& config,
                                                     std::function<void(Client)> onClient);
  HostSockets(const HostSockets&) = delete;
  HostSockets& operator=(const HostSockets&) = delete;
  ~HostSockets();

  /// Connects to who serves this port on the host. Does not block.
  [[nodiscard]] Result<UniqueFd> connect(std::uint32_t port) const;

 private:
  enum class Convention { kHyperkit, kFirecracker, kPort };
  struct Listener {
    std::string path;
    Convention convention = Convention::kHyperkit;
    std::uint32_t port = 0;  ///< kPort: of the guest
    UniqueFd socket;
    EventLoop::Watch watch;
  };
  /// A client that has not said where it wants to go.
  struct Caller {
    UniqueFd socket;
    Convention convention = Convention::kHyperkit;
    std::chrono::steady_clock::time_point deadline;
    EventLoop::Watch watch;
  };
  using Callers = std::list<Caller>;

  HostSockets(EventLoop& loop, const VsockConfig& config, std::function<void(Client)> onClient);
  Result<void> listen(const std::string& name, Convention convention, std::uint32_t port = 0);
  void acceptAll(Listener& listener);
  void readLine(Callers::iterator caller);
  void onTimer();

  EventLoop& loop_;
  const VsockConfig config_;
  const std::function<void(Client)> onClient_;
  std::list<Listener> listeners_;
  Callers callers_;
  std::unique_ptr<EventLoop::Timer> timer_;
};

}  // namespace tshyve::virtio
