#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "machine/machine.h"
#include "vz/framework.h"

namespace tshyve::vz {

/// How long to wait for macOS; tests wait less.
struct Patience {
  std::chrono::milliseconds command = std::chrono::minutes(2);
  std::chrono::milliseconds saving = std::chrono::minutes(10);
  std::chrono::milliseconds stopPoll{50};
};

/// A Machine on Virtualization.framework. Its callers wait; the framework works on the machine's queue. What the
/// machine tells comes in this order: what the guest printed, then its end, then nothing.
/// @param snapshotFolder what `save` has written; none: a machine that boots
Result<std::unique_ptr<Machine>> makeMachine(const std::shared_ptr<Framework>& framework, const MachineConfig& config,
                                             const std::optional<std::string>& snapshotFolder, EventSink sink,
                                             Patience patience = {});

}  // namespace tshyve::vz
