#include "net/frame_backend.h"

#include "net/datagram_backend.h"
#include "net/slirp_backend.h"
#include "net/stream_backend.h"
#include "net/tap_backend.h"

namespace tshyve::net {
namespace {

/// Any backend as a FrameBackend.
template <typename Backend>
Result<std::unique_ptr<FrameBackend>> upcast(Result<std::unique_ptr<Backend>> created) {
  if (!created) return std::move(created).error();
  return std::unique_ptr<FrameBackend>(std::move(created).value());
}

struct Creator {
  EventLoop& loop;
  const Log& log;

  auto operator()(const UserNetwork& config) const { return upcast(SlirpBackend::create(loop, config, log)); }
  auto operator()(const TapNetwork& config) const { return upcast(TapBackend::create(loop, config)); }
  auto operator()(const StreamNetwork& config) const { return upcast(StreamBackend::create(loop, config, log)); }
  auto operator()(const DatagramNetwork& config) const { return upcast(DatagramBackend::create(loop, config, log)); }
  auto operator()(const VpnkitNetwork& config) const { return upcast(StreamBackend::create(loop, config, log)); }
  auto operator()(const NatNetwork& /*config*/) const { return onlyOnMacs("nat"); }
  auto operator()(const BridgedNetwork& /*config*/) const { return onlyOnMacs("bridged"); }
  auto operator()(const VmnetNetwork& /*config*/) const { return onlyOnMacs("vmnet"); }

 private:
  static Result<std::unique_ptr<FrameBackend>> onlyOnMacs(const std::string& kind) {
    return Error{ErrorCode::kUnsupported, "there are " + kind + " networks only on macOS: use user or tap"};
  }
};

}  // namespace

Result<std::unique_ptr<FrameBackend>> createBackend(EventLoop& loop, const NetworkConfig& config, Log log) {
  return std::visit(Creator{loop, log}, config.backend);
}

}  // namespace tshyve::net
