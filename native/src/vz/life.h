#pragma once

#include <chrono>
#include <string>

#include "base/result.h"
#include "vz/framework.h"

namespace tshyve::vz {

/// What may be asked of a machine.
enum class Command { kStart, kPause, kResume, kPressPowerButton, kSave };

/// Whether a machine in this state takes a command.
/// @return kState with what to do first
Result<void> allowed(Command command, State state);

/// The next rung of ending a machine at once.
enum class StopStep {
  kDone,    ///< it is over
  kStop,    ///< the framework can be asked
  kWait,    ///< it is between two states: look again
  kGiveUp,  ///< it has been between two states for too long; letting go of it ends it
};
/// How long a machine may be between two states before it is given up.
constexpr std::chrono::seconds kStopPatience{20};
/// @param waited since the end was asked for
/// @param asked the framework has been asked and has not answered
StopStep nextStopStep(State state, bool asked, std::chrono::milliseconds waited);

/// A word for messages, e.g. "paused".
const char* toText(State state);

/// The framework's words when a machine has broken down, with what to do.
std::string explainFailure(const std::string& description);

}  // namespace tshyve::vz
