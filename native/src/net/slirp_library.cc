#include "net/slirp_library.h"

#include <dlfcn.h>

namespace tshyve::net {
namespace {

template <typename Function>
bool resolve(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(handle, name));
  return function != nullptr;
}

}  // namespace

Result<SlirpLibrary> SlirpLibrary::load(const char* file) {
  // Its threads and GLib's global state forbid unloading.
  void* handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    return Error{ErrorCode::kUnsupported,
                 std::string("user-mode networking needs libslirp (") + (reason != nullptr ? reason : file) +
                     "); install the package libslirp0 (Debian, Ubuntu) or libslirp (Fedora, Arch, Alpine)"};
  }
  SlirpLibrary library{};
  const bool complete =
      resolve(handle, "slirp_new", library.create) && resolve(handle, "slirp_cleanup", library.cleanup) &&
      resolve(handle, "slirp_pollfds_fill", library.fillPollFds) &&
      resolve(handle, "slirp_pollfds_poll", library.handlePollFds) && resolve(handle, "slirp_input", library.input) &&
      resolve(handle, "slirp_handle_timer", library.handleTimer) &&
      resolve(handle, "slirp_add_hostxfwd", library.addForward) &&
      resolve(handle, "slirp_remove_hostxfwd", library.removeForward);
  if (!complete) {
    return Error{ErrorCode::kUnsupported,
                 std::string("the libslirp found is older than 4.7 (") + ::dlerror() + "); update the package"};
  }
  return library;
}

}  // namespace tshyve::net
