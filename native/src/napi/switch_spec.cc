#include "napi/switch_spec.h"

#include "napi/fields.h"

namespace tshyve {
namespace {

constexpr std::size_t kMaxPath = 4095;  // PATH_MAX without its NUL
constexpr std::size_t kMaxName = 255;
constexpr std::size_t kMaxNames = 32;

}  // namespace

Result<net::UserSwitchSettings> readSwitchSettings(Napi::Value value) {
  Fields fields(value, "settings");
  net::UserSwitchSettings settings;
  settings.domain = fields.text("domain", kMaxName);
  fields.each("hosts", kMaxNames, [&](Fields& host) { settings.hostNames.push_back(host.text("name", kMaxName)); });
  fields.finish();
  if (!fields.failure().empty()) return Error{ErrorCode::kInvalidArgument, fields.failure()};
  return settings;
}

Result<net::UserSwitchMachine> readSwitchMachine(Napi::Value value) {
  Fields fields(value, "machine");
  net::UserSwitchMachine machine;
  machine.mac = fields.text("mac", 17);
  machine.address = fields.text("address", 15);
  machine.hostname = fields.text("hostname", kMaxName);
  machine.socket.localPath = fields.text("localPath", kMaxPath);
  machine.socket.path = fields.text("path", kMaxPath);
  machine.socket.connectionless = true;
  fields.finish();
  if (!fields.failure().empty()) return Error{ErrorCode::kInvalidArgument, fields.failure()};
  return machine;
}

}  // namespace tshyve
