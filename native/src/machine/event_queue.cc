#include "machine/event_queue.h"

#include <chrono>
#include <iterator>
#include <string>
#include <utility>
#include <variant>

namespace tshyve {

bool EventQueue::push(MachineEvent event) {
  const std::lock_guard lock(mutex_);
  const bool wasEmpty = events_.empty();
  if (auto* console = std::get_if<ConsoleOutput>(&event)) {
    pushConsole(std::move(*console));
  } else if (auto* address = std::get_if<AddressAssigned>(&event)) {
    pushAddress(std::move(*address));
  } else if (const auto* link = std::get_if<LinkChanged>(&event)) {
    pushLink(*link);
  } else if (!std::holds_alternative<MachineLog>(event)) {
    events_.push_back(std::move(event));
  } else if (logLines_ < kMaxLogLines) {
    ++logLines_;
    events_.push_back(std::move(event));
  } else {
    ++droppedLines_;
  }
  return wasEmpty && !events_.empty();
}

void EventQueue::pushConsole(ConsoleOutput output) {
  const std::size_t room = kMaxConsoleBytes - consoleBytes_;
  if (output.bytes.size() > room) {
    droppedBytes_ += output.bytes.size() - room;
    output.bytes.resize(room);
  }
  if (output.bytes.empty()) return;
  consoleBytes_ += output.bytes.size();
  auto* last = events_.empty() ? nullptr : std::get_if<ConsoleOutput>(&events_.back());
  if (last != nullptr) {
    last->bytes += output.bytes;
  } else {
    events_.emplace_back(std::move(output));
  }
}

void EventQueue::pushAddress(AddressAssigned address) {
  for (auto& event : events_) {
    auto* known = std::get_if<AddressAssigned>(&event);
    if (known != nullptr && known->nic == address.nic && known->mac == address.mac) {
      *known = std::move(address);
      return;
    }
  }
  events_.emplace_back(std::move(address));
}

void EventQueue::pushLink(const LinkChanged& link) {
  std::erase_if(events_, [&](const MachineEvent& event) {
    const auto* known = std::get_if<LinkChanged>(&event);
    return known != nullptr && known->nic == link.nic;
  });
  events_.emplace_back(link);
}

std::vector<MachineEvent> EventQueue::take() {
  const std::lock_guard lock(mutex_);
  std::vector<MachineEvent> taken(std::move_iterator(events_.begin()), std::move_iterator(events_.end()));
  // A consumer takes the end of the machine for the last event.
  const bool ended = !taken.empty() && std::holds_alternative<MachineExited>(taken.back());
  const auto now = std::chrono::steady_clock::now();
  if ((droppedBytes_ > 0 || droppedLines_ > 0) && (ended || now >= nextNote_)) {
    MachineLog note{"the guest was faster than its reader: " + std::to_string(droppedBytes_) +
                    " bytes of console and " + std::to_string(droppedLines_) + " log lines were dropped"};
    taken.insert(ended ? std::prev(taken.end()) : taken.end(), std::move(note));
    droppedBytes_ = 0;
    droppedLines_ = 0;
    nextNote_ = now + kNoteInterval;
  }
  events_.clear();
  consoleBytes_ = 0;
  logLines_ = 0;
  return taken;
}

}  // namespace tshyve
