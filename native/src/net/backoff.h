#pragma once

#include <algorithm>
#include <chrono>

namespace tshyve::net {

/// How long to wait before the next attempt to reach a peer: doubling up to a bound.
class Backoff {
 public:
  [[nodiscard]] std::chrono::milliseconds next() {
    const auto delay = delay_;
    delay_ = std::min(delay_ * 2, kLongest);
    return delay;
  }
  void reset() { delay_ = kShortest; }

 private:
  static constexpr std::chrono::milliseconds kShortest{50};
  static constexpr std::chrono::milliseconds kLongest{2000};
  std::chrono::milliseconds delay_ = kShortest;
};

}  // namespace tshyve::net
