#pragma once

#include <linux/filter.h>

#include <vector>

#include "base/result.h"

namespace tshyve::sandbox {

/// What a thread does decides which system calls it may make.
enum class Role {
  kVcpu,     ///< runs guest code; touches KVM and descriptors it was given
  kDevices,  ///< serves devices over descriptors that are open already: disks, console, entropy, balloon, shares
  kSockets,  ///< also opens and closes sockets: networks, vsock
};

/// The filter as the kernel takes it.
std::vector<sock_filter> filterProgram(Role role);

/// From now on the calling thread (and threads it starts) cannot gain privileges, and a system call outside its role's
/// list ends the process with SIGSYS: the guest has broken in, and nothing of it may go on. Other threads of the
/// process are not touched. Cannot be undone.
Result<void> confineThread(Role role);

}  // namespace tshyve::sandbox
