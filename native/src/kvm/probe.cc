#include "kvm/probe.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include "kvm/system.h"
#include "kvm/vcpu.h"
#include "memory/guest_memory.h"

namespace tshyve::kvm {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using std::chrono::microseconds;

// Layout of the little guest.
constexpr std::uint64_t kMemorySize = 0x8000;
constexpr std::uint64_t kPageMap = 0x1000;  // PML4
constexpr std::uint64_t kPageDirectoryPointers = 0x2000;
constexpr std::uint64_t kPageDirectory = 0x3000;
constexpr std::uint64_t kCode = 0x4000;
constexpr std::uint64_t kData = 0x5000;
constexpr std::uint64_t kStack = 0x7000;

// 64-bit code; rcx counts the rounds, rsi points to data:
//   1: add (%rsi), %rax; add %rax, 8(%rsi); push %rax; pop %rbx; xor %rbx, %rdx; lea 1(%rax), %rax; dec %rcx; jnz 1b
//   hlt
constexpr std::array<std::uint8_t, 22> kLoop = {
    0x48, 0x03, 0x06,        // add (%rsi), %rax
    0x48, 0x01, 0x46, 0x08,  // add %rax, 8(%rsi)
    0x50,                    // push %rax
    0x5b,                    // pop %rbx
    0x48, 0x31, 0xda,        // xor %rbx, %rdx
    0x48, 0x8d, 0x40, 0x01,  // lea 1(%rax), %rax
    0x48, 0xff, 0xc9,        // dec %rcx
    0x75, 0xeb,              // jnz 1b
    0xf4,                    // hlt
};
constexpr double kInstructionsPerRound = 8;

/// Emulation runs 1 to 3 million instructions a second; the slowest thing worth using, a guest nested in an
/// interpreting machine, 27 million when its code is met for the first time and 500 million later; hardware thousands
/// of millions.
constexpr double kSlowestUsable = 8e6;
/// Measured long enough; with each attempt eight times as long as the last, it is over well before 20 ms.
constexpr microseconds kEnough{200};
/// The best of so many measurements counts: whatever disturbs makes it slower, nothing makes it faster.
constexpr int kMeasurements = 3;
constexpr std::uint64_t kFirstRounds = 64;
constexpr std::uint64_t kMostRounds = kFirstRounds << 15;

// Page table entry and segment bits (Intel SDM volume 3, 4.5 and 3.4.5).
constexpr std::uint64_t kPresentWritable = 0x3;
constexpr std::uint64_t kLargePage = 0x80;

/// Time this thread was running, guest included: a busy host must not look like a slow one.
Seconds processorTime() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

kvm_segment segment(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment segment{};
  segment.selector = selector;
  segment.limit = 0xffffffff;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code ? 1 : 0;
  segment.db = code ? 0 : 1;
  return segment;
}

Result<void> enterLongMode(Vcpu& vcpu) {
  TSHYVE_TRY(kvm_sregs special, vcpu.systemRegisters());
  special.cs = segment(0x8, 0xb, true);
  special.ds = special.es = special.fs = special.gs = special.ss = segment(0x10, 0x3, false);
  special.cr3 = kPageMap;
  special.cr4 = 0x20;                         // PAE
  special.cr0 = 0x80000011 | 0x20 | 0x10000;  // PG, PE, ET, NE, WP
  special.efer = 0x500;                       // LME, LMA
  return vcpu.setSystemRegisters(special);
}

/// Instructions per second, or what KVM says against it.
Result<double> measure(const System& system) {
  constexpr GuestMemory::Extent extent[] = {{0, kMemorySize}};
  TSHYVE_TRY(const auto memory, GuestMemory::create(extent, GuestMemory::Backing::kPrivate));
  const bool written = memory->write(kPageMap, kPageDirectoryPointers | kPresentWritable) &&
                       memory->write(kPageDirectoryPointers, kPageDirectory | kPresentWritable) &&
                       memory->write(kPageDirectory, kPresentWritable | kLargePage) && memory->write(kCode, kLoop);
  if (!written) return Error{ErrorCode::kHost, "the probe's memory is too small"};

  const UniqueFd vm(ioctlRetry(system.fd(), KVM_CREATE_VM, 0UL));
  if (!vm) return Error::fromErrno("KVM_CREATE_VM");
  kvm_userspace_memory_region slot{};
  slot.memory_size = kMemorySize;
  slot.userspace_addr = reinterpret_cast<std::uint64_t>(memory->regions()[0].bytes.data());
  if (ioctlRetry(vm.get(), KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
    return Error::fromErrno("KVM_SET_USER_MEMORY_REGION");
  }
  TSHYVE_TRY(const auto vcpu, Vcpu::create(system, vm.get(), 0));
  TSHYVE_TRY(const auto cpuid, system.supportedCpuid());
  TSHYVE_CHECK(vcpu->setCpuid(cpuid));
  TSHYVE_CHECK(enterLongMode(*vcpu));

  kvm_regs registers{};
  registers.rip = kCode;
  registers.rflags = 0x2;
  registers.rsi = kData;
  registers.rsp = kStack;
  // The first entry pays for page faults and set-up; it is not measured.
  registers.rcx = 1;
  double best = 0;
  int measurements = 0;
  std::uint64_t rounds = 1;
  for (;;) {
    registers.rcx = rounds;
    registers.rip = kCode;
    TSHYVE_CHECK(vcpu->setRegisters(registers));
    const Seconds begin = processorTime();
    Exit exit = Interrupted{};
    do {
      exit = vcpu->enter();
    } while (std::holds_alternative<Interrupted>(exit));
    const Seconds elapsed = processorTime() - begin;
    if (const auto* failure = std::get_if<Failure>(&exit)) return Error{ErrorCode::kUnsupported, failure->what};
    if (!std::holds_alternative<Halted>(exit)) {
      return Error{ErrorCode::kUnsupported, "a guest of ten instructions did not run to its end"};
    }
    if (rounds == 1) {
      rounds = kFirstRounds;
      continue;
    }
    if (elapsed < kEnough && rounds < kMostRounds) {
      rounds *= 8;
      continue;
    }
    best = std::max(best, static_cast<double>(rounds) * kInstructionsPerRound / elapsed.count());
    if (best >= kSlowestUsable || ++measurements == kMeasurements) return best;
  }
}

std::string tooSlow(double rate) {
  char text[256];
  std::snprintf(text, sizeof text,
                "/dev/kvm of this host emulates guest kernel code (%.1f million instructions a second): it is not "
                "hardware virtualization. Enable nested virtualization on the outer host, or use the qemu backend",
                rate / 1e6);
  return text;
}

}  // namespace

ProbeResult probe() {
  const auto begin = Clock::now();
  ProbeResult result;
  const auto finish = [&](std::string reason) {
    result.reason = std::move(reason);
    result.duration = std::chrono::duration_cast<microseconds>(Clock::now() - begin);
    return result;
  };
  const auto system = System::open();
  if (!system) {
    result.supported = system.error().code == ErrorCode::kPermission;
    return finish(system.error().message);
  }
  result.supported = true;
  result.permitted = true;
  const auto rate = measure(*system);
  if (!rate) return finish("a test guest does not run on this host's KVM: " + rate.error().message);
  result.instructionsPerSecond = *rate;
  result.hardwareSpeed = *rate >= kSlowestUsable;
  return finish(result.hardwareSpeed ? "" : tooSlow(*rate));
}

}  // namespace tshyve::kvm
