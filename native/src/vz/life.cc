#include "vz/life.h"

namespace tshyve::vz {
namespace {

Error refuse(const std::string& message) { return {ErrorCode::kState, message}; }

bool isBetween(State state) {
  switch (state) {
    case State::kStarting:
    case State::kPausing:
    case State::kResuming:
    case State::kStopping:
    case State::kSaving:
    case State::kRestoring:
    case State::kUnknown:
      return true;
    case State::kStopped:
    case State::kRunning:
    case State::kPaused:
    case State::kError:
      return false;
  }
  return true;
}

}  // namespace

const char* toText(State state) {
  switch (state) {
    case State::kStopped:
      return "stopped";
    case State::kRunning:
      return "running";
    case State::kPaused:
      return "paused";
    case State::kError:
      return "broken";
    case State::kStarting:
      return "starting";
    case State::kPausing:
      return "being paused";
    case State::kResuming:
      return "being resumed";
    case State::kStopping:
      return "stopping";
    case State::kSaving:
      return "being saved";
    case State::kRestoring:
      return "being restored";
    case State::kUnknown:
      return "in a state that this tshyve does not know";
  }
  return "in a state that this tshyve does not know";
}

Result<void> allowed(Command command, State state) {
  const std::string is = std::string("the machine is ") + toText(state);
  if (isBetween(state)) return refuse(is + "; try again when that is over");
  switch (command) {
    case Command::kStart:
      if (state == State::kStopped) return {};
      return refuse(is + " and cannot be started");
    case Command::kPause:
      if (state == State::kRunning) return {};
      return refuse(is + " and cannot be paused");
    case Command::kResume:
      if (state == State::kPaused) return {};
      return refuse(is + " and cannot be resumed");
    case Command::kPressPowerButton:
      if (state == State::kRunning) return {};
      if (state == State::kPaused) return refuse(is + ", so that its guest hears no power button; resume it first");
      return refuse(is + " and has no power button to press");
    case Command::kSave:
      if (state == State::kPaused) return {};
      return refuse(is + "; only a paused machine can be saved");
  }
  return refuse(is);
}

StopStep nextStopStep(State state, bool asked, std::chrono::milliseconds waited) {
  if (state == State::kStopped || state == State::kError) return StopStep::kDone;
  if (waited >= kStopPatience) return StopStep::kGiveUp;
  if (asked || isBetween(state)) return StopStep::kWait;
  return StopStep::kStop;
}

std::string explainFailure(const std::string& description) {
  const std::string said = description.empty() ? "macOS does not say why" : description;
  if (said.find("entitlement") != std::string::npos) return said + " (" + kNotEntitled + ")";
  return said;
}

}  // namespace tshyve::vz
