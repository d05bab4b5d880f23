#include "sandbox/seccomp.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tshyve::sandbox {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
/// Numbers from here on are the x32 interface's aliases.
constexpr std::uint32_t kFirstForeignCall = 0x40000000;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
constexpr std::uint32_t kFirstForeignCall = 0xffffffff;
#endif

// What memory allocation, locks, clocks, event loops and the end of a thread need.
constexpr int kEveryThread[] = {
    SYS_futex,
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_close,
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_getrandom,
    SYS_getpid,
    SYS_gettid,
    SYS_tgkill,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_membarrier,
    SYS_timerfd_settime,
    SYS_timerfd_gettime,
    SYS_epoll_ctl,
    SYS_ppoll,
#ifdef SYS_poll
    SYS_poll,
#endif
    SYS_exit,
    SYS_exit_group,
};

// Event loops, files that are open, messages on sockets that are connected, and worker threads.
constexpr int kDeviceThread[] = {
    SYS_epoll_pwait,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
    SYS_eventfd2,    SYS_timerfd_create, SYS_pread64,  SYS_pwrite64,        SYS_preadv,    SYS_pwritev,
    SYS_preadv2,     SYS_pwritev2,       SYS_lseek,    SYS_fstat,           SYS_fdatasync, SYS_fsync,
    SYS_fallocate,   SYS_io_uring_enter, SYS_sendmsg,  SYS_recvmsg,         SYS_sendmmsg,  SYS_recvmmsg,
    SYS_sendto,      SYS_recvfrom,       SYS_shutdown, SYS_set_robust_list, SYS_rseq,
};

constexpr int kSocketThread[] = {
    SYS_socket,      SYS_socketpair, SYS_connect,    SYS_bind,        SYS_listen,   SYS_accept4,    SYS_accept,
    SYS_getsockname, SYS_getsockopt, SYS_setsockopt, SYS_getpeername, SYS_unlinkat, SYS_newfstatat, SYS_fcntl,
#ifdef SYS_unlink
    SYS_unlink,
#endif
};

constexpr std::uint32_t kKvm = 0xae;
constexpr std::uint32_t kVhost = 0xaf;
constexpr std::uint32_t kTunSetOffload = 0x400454d0;
constexpr std::uint32_t kFionbio = 0x5421;
constexpr std::uint32_t kFionread = 0x541b;

class Assembler {
 public:
  void load(std::size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)); }
  /// The low half of an argument; calls that are checked by it ignore the high half.
  void loadArgument(std::size_t index) { load(offsetof(seccomp_data, args) + index * sizeof(std::uint64_t)); }
  void andWith(std::uint32_t mask) { add(BPF_ALU | BPF_AND | BPF_K, mask); }
  void finish(std::uint32_t verdict) { add(BPF_RET | BPF_K, verdict); }
  void finishIf(std::uint32_t value, std::uint32_t verdict) {
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    finish(verdict);
  }
  void finishUnless(std::uint32_t value, std::uint32_t verdict) {
    add(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
    finish(verdict);
  }
  void finishFrom(std::uint32_t value, std::uint32_t verdict) {
    add(BPF_JMP | BPF_JGE | BPF_K, value, 0, 1);
    finish(verdict);
  }
  /// Instructions that `body` adds run for this system call only; they must end with a verdict.
  template <typename Body>
  void onCall(int number, const Body& body) {
    const std::size_t jump = program_.size();
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), 0, 0);
    body();
    program_[jump].jf = static_cast<std::uint8_t>(program_.size() - jump - 1);
  }
  std::vector<sock_filter> take() { return std::move(program_); }

 private:
  void add(unsigned code, std::uint32_t k, std::uint8_t jt = 0, std::uint8_t jf = 0) {
    program_.push_back({static_cast<std::uint16_t>(code), jt, jf, k});
  }
  std::vector<sock_filter> program_;
};

constexpr std::uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr std::uint32_t kKill = SECCOMP_RET_KILL_PROCESS;
constexpr std::uint32_t refuseWith(int error) { return SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error); }

}  // namespace

std::vector<sock_filter> filterProgram(Role role) {
  Assembler filter;
  filter.load(offsetof(seccomp_data, arch));
  filter.finishUnless(kArchitecture, kKill);
  filter.load(offsetof(seccomp_data, nr));
  filter.finishFrom(kFirstForeignCall, kKill);

  // First, since a vCPU makes hardly any other call.
  filter.onCall(SYS_ioctl, [&] {
    filter.loadArgument(1);
    if (role == Role::kSockets) {
      for (const std::uint32_t request : {kTunSetOffload, kFionbio, kFionread}) filter.finishIf(request, kAllow);
    }
    // The middle byte of a request says which driver it is for.
    filter.andWith(0xff00);
    filter.finishIf(kKvm << 8, kAllow);
    if (role != Role::kVcpu) filter.finishIf(kVhost << 8, kAllow);
    filter.finish(kKill);
  });
  const auto allow = [&](std::span<const int> calls) {
    for (const int call : calls) filter.finishIf(static_cast<std::uint32_t>(call), kAllow);
  };
  allow(kEveryThread);
  for (const int call : {SYS_mmap, SYS_mprotect}) {
    filter.onCall(call, [&] {
      filter.loadArgument(2);
      filter.andWith(PROT_EXEC);
      filter.finishIf(0, kAllow);
      filter.finish(kKill);
    });
  }
  if (role != Role::kVcpu) {
    allow(kDeviceThread);
    // Threads, not processes. The newer call hides its flags behind a pointer: the C library then takes the older one.
    filter.onCall(SYS_clone3, [&] { filter.finish(refuseWith(ENOSYS)); });
    filter.onCall(SYS_clone, [&] {
      filter.loadArgument(0);
      filter.andWith(CLONE_THREAD);
      filter.finishIf(CLONE_THREAD, kAllow);
      filter.finish(kKill);
    });
    filter.onCall(SYS_prctl, [&] {
      filter.loadArgument(0);
      filter.finishIf(PR_SET_NAME, kAllow);
      filter.finish(kKill);
    });
  }
  if (role == Role::kSockets) {
    allow(kSocketThread);
    // A user-mode network reads the host's resolver configuration.
    filter.onCall(SYS_openat, [&] {
      filter.loadArgument(2);
      filter.andWith(O_ACCMODE | O_CREAT | O_TRUNC);
      filter.finishIf(O_RDONLY, kAllow);
      filter.finish(refuseWith(EACCES));
    });
  }
  filter.finish(kKill);
  return filter.take();
}

Result<void> confineThread(Role role) {
  // An unprivileged thread may install a filter only with this. Both concern the calling thread alone.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Error::fromErrno("PR_SET_NO_NEW_PRIVS");
  std::vector<sock_filter> program = filterProgram(role);
  const sock_fprog description{static_cast<unsigned short>(program.size()), program.data()};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &description, 0, 0) != 0) {
    return Error::fromErrno("cannot confine a thread (PR_SET_SECCOMP); the kernel needs CONFIG_SECCOMP_FILTER");
  }
  return {};
}

}  // namespace tshyve::sandbox
