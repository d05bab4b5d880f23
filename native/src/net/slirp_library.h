#pragma once

#include <slirp/libslirp.h>

#include "base/result.h"

namespace tshyve::net {

/// libslirp, loaded when a user-mode network is asked for, so that everything else works without it.
struct SlirpLibrary {
  decltype(&::slirp_new) create;
  decltype(&::slirp_cleanup) cleanup;
  decltype(&::slirp_pollfds_fill) fillPollFds;
  decltype(&::slirp_pollfds_poll) handlePollFds;
  decltype(&::slirp_input) input;
  decltype(&::slirp_handle_timer) handleTimer;
  decltype(&::slirp_add_hostxfwd) addForward;
  decltype(&::slirp_remove_hostxfwd) removeForward;

  /// @param file for tests; the library stays loaded
  static Result<SlirpLibrary> load(const char* file = "libslirp.so.0");
};

}  // namespace tshyve::net
