#include "sandbox/seccomp.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace tshyve::sandbox {
namespace {

/// Runs in a process of its own, since a refused call ends it. @return what a confined thread of it computed
template <typename Work>
void inConfinedThread(Role role, const Work& work) {
  int code = 1;
  std::thread([&] {
    if (!confineThread(role)) return;
    code = work() ? 0 : 2;
  }).join();
  ::_exit(code);
}

TEST(Seccomp, LetsThreadsDoTheirWork) {
  EXPECT_EXIT(inConfinedThread(Role::kVcpu,
                               [] {
                                 std::vector<int> numbers(1 << 20, 7);  // needs mmap
                                 return numbers.back() == 7 && ::getpid() > 0;
                               }),
              testing::ExitedWithCode(0), "");
  EXPECT_EXIT(inConfinedThread(Role::kDevices,
                               [] {
                                 int value = 0;
                                 std::thread([&] { value = 1; }).join();
                                 return value == 1;
                               }),
              testing::ExitedWithCode(0), "");
  EXPECT_EXIT(inConfinedThread(Role::kSockets,
                               [] {
                                 const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                                 const int file = ::open("/etc/hostname", O_RDONLY | O_CLOEXEC);
                                 return fd >= 0 && file >= 0;
                               }),
              testing::ExitedWithCode(0), "");
}

TEST(Seccomp, EndsTheProcessOnOtherCalls) {
  const auto killed = testing::KilledBySignal(SIGSYS);
  EXPECT_EXIT(inConfinedThread(Role::kVcpu, [] { return ::socket(AF_UNIX, SOCK_STREAM, 0) >= 0; }), killed, "");
  EXPECT_EXIT(inConfinedThread(Role::kVcpu, [] { return ::open("/etc/passwd", O_RDONLY) >= 0; }), killed, "");
  EXPECT_EXIT(inConfinedThread(Role::kDevices, [] { return ::socket(AF_UNIX, SOCK_STREAM, 0) >= 0; }), killed, "");
  EXPECT_EXIT(inConfinedThread(Role::kDevices, [] { return ::syscall(SYS_fork) >= 0; }), killed, "");
  EXPECT_EXIT(inConfinedThread(Role::kSockets,
                               [] {
                                 const char* const arguments[] = {"/bin/true", nullptr};
                                 return ::syscall(SYS_execve, arguments[0], arguments, nullptr) == 0;
                               }),
              killed, "");
  EXPECT_EXIT(inConfinedThread(Role::kVcpu,
                               [] {
                                 return ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                                               0) != MAP_FAILED;
                               }),
              killed, "");
}

TEST(Seccomp, RefusesToWriteFilesFromSocketThreads) {
  EXPECT_EXIT(
      inConfinedThread(Role::kSockets, [] { return ::open("/tmp", O_RDWR | O_TMPFILE, 0600) < 0 && errno == EACCES; }),
      testing::ExitedWithCode(0), "");
}

TEST(Seccomp, LeavesOtherThreadsAlone) {
  EXPECT_EXIT(
      {
        std::thread([] { static_cast<void>(confineThread(Role::kVcpu)); }).join();
        const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ::_exit(fd >= 0 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tshyve::sandbox
