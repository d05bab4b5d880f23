#include "vz/life.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tshyve::vz {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr State kAll[] = {State::kStopped,  State::kRunning,   State::kPaused,   State::kError,
                          State::kStarting, State::kPausing,   State::kResuming, State::kStopping,
                          State::kSaving,   State::kRestoring, State::kUnknown};
constexpr Command kCommands[] = {Command::kStart, Command::kPause, Command::kResume, Command::kPressPowerButton,
                                 Command::kSave};

TEST(Life, EachCommandHasOneStateItIsFor) {
  const auto home = [](Command command) {
    switch (command) {
      case Command::kStart:
        return State::kStopped;
      case Command::kPause:
      case Command::kPressPowerButton:
        return State::kRunning;
      case Command::kResume:
      case Command::kSave:
        return State::kPaused;
    }
    return State::kUnknown;
  };
  for (const Command command : kCommands) {
    for (const State state : kAll) {
      const auto may = allowed(command, state);
      EXPECT_EQ(may.ok(), state == home(command)) << toText(state);
      if (may) continue;
      EXPECT_EQ(may.error().code, ErrorCode::kState);
      EXPECT_THAT(may.error().message, HasSubstr(toText(state)));
    }
  }
  EXPECT_THAT(allowed(Command::kPressPowerButton, State::kPaused).error().message, HasSubstr("resume it first"));
  EXPECT_THAT(allowed(Command::kPause, State::kStarting).error().message, HasSubstr("try again"));
}

TEST(Life, TheStopLadder) {
  using enum StopStep;
  for (const State state : {State::kStopped, State::kError}) {
    EXPECT_EQ(nextStopStep(state, false, milliseconds(0)), kDone);
    EXPECT_EQ(nextStopStep(state, true, kStopPatience), kDone);
  }
  for (const State state : {State::kRunning, State::kPaused}) {
    EXPECT_EQ(nextStopStep(state, false, milliseconds(0)), kStop);
    EXPECT_EQ(nextStopStep(state, true, milliseconds(0)), kWait);
    EXPECT_EQ(nextStopStep(state, true, kStopPatience), kGiveUp);
  }
  for (const State state : {State::kStarting, State::kPausing, State::kResuming, State::kStopping, State::kSaving,
                            State::kRestoring, State::kUnknown}) {
    EXPECT_EQ(nextStopStep(state, false, milliseconds(100)), kWait);
    EXPECT_EQ(nextStopStep(state, false, kStopPatience), kGiveUp);
  }
}

TEST(Life, ExplainsTheMissingEntitlement) {
  EXPECT_EQ(explainFailure("Out of disk space."), "Out of disk space.");
  EXPECT_THAT(explainFailure(""), HasSubstr("does not say why"));
  EXPECT_THAT(explainFailure("Invalid configuration. The process doesn't have the entitlement."),
              HasSubstr("signed with the entitlement"));
}

}  // namespace
}  // namespace tshyve::vz
