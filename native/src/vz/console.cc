#include "vz/console.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace tshyve::vz {
namespace {

constexpr std::size_t kChunk = 16 * 1024;
/// Of one drain: a guest that prints without end must not keep its machine from ending.
constexpr int kMaxChunks = 64;

Result<void> makePipe(UniqueFd& readEnd, UniqueFd& writeEnd) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return Error::fromErrno("cannot make a pipe for the console");
  readEnd.reset(ends[0]);
  writeEnd.reset(ends[1]);
  for (const int fd : ends) {
    // No pipe2 on macOS.
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return Error::fromErrno("cannot set up a pipe for the console");
  }
  return {};
}

Result<void> makeNonBlocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return Error::fromErrno("cannot set up a pipe for the console");
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Console>> Console::create(std::function<void(std::string)> onOutput) {
  std::unique_ptr<Console> console(new Console);
  console->onOutput_ = std::move(onOutput);
  TSHYVE_CHECK(makePipe(console->toGuestRead_, console->toGuestWrite_));
  TSHYVE_CHECK(makePipe(console->fromGuestRead_, console->fromGuestWrite_));
  TSHYVE_CHECK(makePipe(console->wakeRead_, console->wakeWrite_));
  // The framework's ends keep blocking: it is theirs to say.
  TSHYVE_CHECK(makeNonBlocking(console->toGuestWrite_.get()));
  TSHYVE_CHECK(makeNonBlocking(console->fromGuestRead_.get()));
  console->thread_ = std::thread([raw = console.get()] { raw->run(); });
  return console;
}

Result<void> Console::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(toGuestWrite_.get(), bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) return Error{ErrorCode::kBusy, "the guest does not read its console"};
    if (put < 0) return Error::fromErrno("cannot write to the guest's console");
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

void Console::run() {
  for (;;) {
    std::array<pollfd, 2> watched = {pollfd{fromGuestRead_.get(), POLLIN, 0}, pollfd{wakeRead_.get(), POLLIN, 0}};
    if (::poll(watched.data(), watched.size(), -1) < 0 && errno != EINTR) return;
    if (watched[1].revents != 0) {
      drain();
      return;
    }
    if (watched[0].revents != 0 && !drain()) return;
  }
}

bool Console::drain() {
  std::array<char, kChunk> chunk;
  for (int i = 0; i < kMaxChunks; ++i) {
    const ssize_t got = ::read(fromGuestRead_.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    onOutput_(std::string(chunk.data(), static_cast<std::size_t>(got)));
  }
  return true;
}

void Console::finish() {
  if (!thread_.joinable()) return;
  const char byte = 0;
  while (::write(wakeWrite_.get(), &byte, 1) < 0 && errno == EINTR) {
  }
  thread_.join();
}

}  // namespace tshyve::vz
