#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace tshyve::net {

/// Frames that wait for the guest, in order, in a bounded number of bytes.
class FrameQueue {
 public:
  explicit FrameQueue(std::size_t capacity) : capacity_(capacity) {}

  /// @return false when it does not fit
  bool push(std::span<const std::byte> frame) {
    if (frame.size() > capacity_ - bytes_) return false;
    if (lengths_.empty()) {
      storage_.clear();
      begin_ = 0;
    } else if (begin_ > capacity_) {
      // Frames come and go without the queue ever being empty.
      storage_.erase(storage_.begin(), storage_.begin() + static_cast<std::ptrdiff_t>(begin_));
      begin_ = 0;
    }
    storage_.insert(storage_.end(), frame.begin(), frame.end());
    lengths_.push_back(frame.size());
    bytes_ += frame.size();
    return true;
  }
  [[nodiscard]] bool empty() const { return lengths_.empty(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  /// Valid until the next `push`; only when not empty.
  [[nodiscard]] std::span<const std::byte> front() const {
    return std::span(storage_).subspan(begin_, lengths_.front());
  }
  void pop() {
    begin_ += lengths_.front();
    bytes_ -= lengths_.front();
    lengths_.pop_front();
  }

 private:
  std::size_t capacity_;
  std::vector<std::byte> storage_;
  std::deque<std::size_t> lengths_;
  std::size_t begin_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace tshyve::net
