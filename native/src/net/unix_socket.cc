#include "net/unix_socket.h"

#include <sys/socket.h>

#include <cstring>

namespace tshyve::net {

Result<sockaddr_un> unixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos) {
    return Error{ErrorCode::kInvalidArgument, "the socket path \"" + path + "\" has " + std::to_string(path.size()) +
                                                  " bytes; 1 to " + std::to_string(sizeof address.sun_path - 1) +
                                                  " are possible: choose a shorter folder"};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace tshyve::net
