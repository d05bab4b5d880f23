#include "kvm/vm.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <string>

namespace tshyve::kvm {

namespace {

/// Three pages KVM needs for real mode on old Intel processors; inside the hole below 4 GiB that layout.h keeps free.
constexpr std::uint64_t kIdentityMapAddress = 0xfffbc000;
constexpr unsigned long kTssAddress = 0xfffbd000;
/// Inputs of the IO-APIC; message-signalled interrupts get the numbers above.
constexpr std::uint32_t kIoApicPins = 24;
constexpr std::uint32_t kPicPins = 16;
constexpr std::uint32_t kPicMaster = KVM_IRQCHIP_PIC_MASTER;
constexpr std::uint32_t kPicSlave = KVM_IRQCHIP_PIC_SLAVE;
constexpr std::uint32_t kIoApicChip = KVM_IRQCHIP_IOAPIC;
constexpr std::uint32_t kInterruptChips[] = {kPicMaster, kPicSlave, kIoApicChip};
/// KVM's limit on routes is 4096.
constexpr std::size_t kMaxMsiRoutes = 2048;

template <typename T>
void putRaw(StateWriter& writer, const T& value) {
  writer.putBytes(std::as_bytes(std::span(&value, 1)));
}
template <typename T>
Result<void> getRaw(StateReader& reader, T& value) {
  TSHYVE_TRY(const auto bytes, reader.getBytes());
  if (bytes.size() != sizeof value) return Error{ErrorCode::kCorrupt, "the snapshot's VM state has a wrong size"};
  std::memcpy(&value, bytes.data(), sizeof value);
  return {};
}

class GsiLine final : public InterruptLine {
 public:
  GsiLine(int vmFd, std::uint32_t gsi) : vmFd_(vmFd), gsi_(gsi) {}
  void set(bool asserted) override {
    kvm_irq_level level{};
    level.irq = gsi_;
    level.level = asserted ? 1 : 0;
    ioctlRetry(vmFd_, KVM_IRQ_LINE, &level);
  }

 private:
  int vmFd_;
  std::uint32_t gsi_;
};

}  // namespace

/// The eventfd's counter is the pending bit: while the vector is masked the kernel does not look at it, and when the
/// irqfd is attached again the kernel injects what has been counted meanwhile.
class KvmMsiVector final : public MsiVector {
 public:
  KvmMsiVector(Vm& vm, std::uint32_t gsi, EventFd event) : vm_(vm), gsi_(gsi), event_(std::move(event)) {}
  KvmMsiVector(const KvmMsiVector&) = delete;
  KvmMsiVector& operator=(const KvmMsiVector&) = delete;
  ~KvmMsiVector() override {
    if (attached_) static_cast<void>(attach(false));
    vm_.releaseGsi(gsi_);
  }

  Result<void> configure(std::uint64_t address, std::uint32_t data) override {
    const std::lock_guard lock(mutex_);
    if (address == address_ && data == data_) return {};
    address_ = address;
    data_ = data;
    routed_ = false;
    // Routing costs the kernel an RCU grace period: a masked vector waits, guests write address and data one by one.
    return masked_ ? Result<void>() : route();
  }

  Result<void> setMasked(bool masked) override {
    const std::lock_guard lock(mutex_);
    if (masked == masked_) return {};
    masked_ = masked;
    if (masked) return attached_ ? attach(false) : Result<void>();
    TSHYVE_CHECK(route());
    TSHYVE_CHECK(attach(true));
    // Attaching has injected what was pending; from here on the kernel consumes each signal.
    event_.drain();
    return {};
  }

  void trigger() override { event_.signal(); }

  [[nodiscard]] bool pending() const override {
    const std::lock_guard lock(mutex_);
    if (!masked_) return false;
    pollfd poll{event_.fd(), POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1;
  }

  [[nodiscard]] int irqFd() const override { return event_.fd(); }

 private:
  Result<void> route() {
    if (routed_) return {};
    TSHYVE_CHECK(vm_.setMsiRoute(gsi_, address_, data_));
    routed_ = true;
    return {};
  }
  Result<void> attach(bool on) {
    kvm_irqfd request{};
    request.fd = static_cast<std::uint32_t>(event_.fd());
    request.gsi = gsi_;
    request.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN;
    if (ioctlRetry(vm_.fd(), KVM_IRQFD, &request) < 0) return Error::fromErrno("KVM_IRQFD");
    attached_ = on;
    return {};
  }

  Vm& vm_;
  const std::uint32_t gsi_;
  EventFd event_;
  mutable std::mutex mutex_;
  // Guarded by mutex_. MSI-X vectors come up masked (PCI 3.0, 6.8.2.9).
  bool masked_ = true;
  bool attached_ = false;
  bool routed_ = false;
  std::uint64_t address_ = 0;
  std::uint32_t data_ = 0;
};

Result<std::unique_ptr<Vm>> Vm::create(const System& system, const GuestMemory& memory) {
  UniqueFd fd(ioctlRetry(system.fd(), KVM_CREATE_VM, 0UL));
  if (!fd) return Error::fromErrno("cannot create a virtual machine (KVM_CREATE_VM)");
  std::unique_ptr<Vm> vm(new Vm(system, std::move(fd)));
  if (ioctlRetry(vm->fd(), KVM_SET_TSS_ADDR, kTssAddress) < 0) return Error::fromErrno("KVM_SET_TSS_ADDR");
  std::uint64_t identityMap = kIdentityMapAddress;
  if (system.capability(KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
      ioctlRetry(vm->fd(), KVM_SET_IDENTITY_MAP_ADDR, &identityMap) < 0) {
    return Error::fromErrno("KVM_SET_IDENTITY_MAP_ADDR");
  }
  if (ioctlRetry(vm->fd(), KVM_CREATE_IRQCHIP, 0UL) < 0) return Error::fromErrno("KVM_CREATE_IRQCHIP");
  TSHYVE_CHECK(vm->maskPics());
  TSHYVE_CHECK(vm->addMemory(memory));
  return vm;
}

Result<void> Vm::maskPics() {
  // KVM's 8259s begin with every input open, and LINT0 lets them through: an edge on a line of the IO-APIC below 16
  // would arrive a second time, as interrupt 0 to 15. A guest that wants them programs them first.
  for (const std::uint32_t chip : {kPicMaster, kPicSlave}) {
    kvm_irqchip state{};
    state.chip_id = chip;
    if (ioctlRetry(fd(), KVM_GET_IRQCHIP, &state) < 0) return Error::fromErrno("KVM_GET_IRQCHIP");
    state.chip.pic.imr = 0xff;
    if (ioctlRetry(fd(), KVM_SET_IRQCHIP, &state) < 0) return Error::fromErrno("KVM_SET_IRQCHIP");
  }
  return {};
}

Result<void> Vm::addMemory(const GuestMemory& memory) {
  std::uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    kvm_userspace_memory_region request{};
    request.slot = slot++;
    request.guest_phys_addr = region.guestAddress;
    request.memory_size = region.bytes.size();
    request.userspace_addr = reinterpret_cast<std::uint64_t>(region.bytes.data());
    if (ioctlRetry(fd(), KVM_SET_USER_MEMORY_REGION, &request) < 0) {
      return Error::fromErrno("KVM_SET_USER_MEMORY_REGION");
    }
  }
  return {};
}

Result<std::unique_ptr<Vcpu>> Vm::createVcpu(std::uint32_t id) { return Vcpu::create(system_, fd(), id); }

Result<std::uint32_t> Vm::allocateGsi() {
  const std::lock_guard lock(routesMutex_);
  std::size_t index = 0;
  while (index < msiRoutes_.size() && msiRoutes_[index].taken) index++;
  if (index == kMaxMsiRoutes) return Error{ErrorCode::kNoSpace, "the machine has too many interrupt vectors"};
  if (index == msiRoutes_.size()) msiRoutes_.emplace_back();
  msiRoutes_[index] = MsiRoute{.taken = true};
  return kIoApicPins + static_cast<std::uint32_t>(index);
}

void Vm::releaseGsi(std::uint32_t gsi) {
  const std::lock_guard lock(routesMutex_);
  msiRoutes_[gsi - kIoApicPins] = MsiRoute{};
}

Result<void> Vm::setMsiRoute(std::uint32_t gsi, std::uint64_t address, std::uint32_t data) {
  const std::lock_guard lock(routesMutex_);
  MsiRoute& route = msiRoutes_[gsi - kIoApicPins];
  route.set = true;
  route.address = address;
  route.data = data;
  return sendRoutes();
}

Result<void> Vm::sendRoutes() {
  std::vector<kvm_irq_routing_entry> entries;
  const auto pin = [&](std::uint32_t gsi, std::uint32_t chip, std::uint32_t number) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = number;
    entries.push_back(entry);
  };
  for (std::uint32_t gsi = 0; gsi < kIoApicPins; gsi++) {
    if (gsi < kPicPins) pin(gsi, gsi < 8 ? kPicMaster : kPicSlave, gsi % 8);
    pin(gsi, kIoApicChip, gsi);
  }
  for (std::size_t index = 0; index < msiRoutes_.size(); index++) {
    const MsiRoute& route = msiRoutes_[index];
    if (!route.set) continue;
    kvm_irq_routing_entry entry{};
    entry.gsi = kIoApicPins + static_cast<std::uint32_t>(index);
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<std::uint32_t>(route.address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(route.address >> 32);
    entry.u.msi.data = route.data;
    entries.push_back(entry);
  }
  FlexArray<kvm_irq_routing, kvm_irq_routing_entry> table{std::span<const kvm_irq_routing_entry>(entries)};
  table.header().nr = static_cast<std::uint32_t>(entries.size());
  if (ioctlRetry(fd(), KVM_SET_GSI_ROUTING, &table.header()) < 0) return Error::fromErrno("KVM_SET_GSI_ROUTING");
  return {};
}

Result<std::unique_ptr<MsiVector>> Vm::createMsiVector() {
  TSHYVE_TRY(EventFd event, EventFd::create());
  TSHYVE_TRY(const std::uint32_t gsi, allocateGsi());
  return std::unique_ptr<MsiVector>(std::make_unique<KvmMsiVector>(*this, gsi, std::move(event)));
}

Result<std::unique_ptr<InterruptLine>> Vm::interruptLine(std::uint32_t gsi) {
  if (gsi >= kIoApicPins) {
    return Error{ErrorCode::kInvalidArgument, "interrupt line " + std::to_string(gsi) + " does not exist"};
  }
  return std::unique_ptr<InterruptLine>(std::make_unique<GsiLine>(fd(), gsi));
}

Result<void> Vm::addIoEvent(IoSpace space, std::uint64_t address, int eventFd) {
  kvm_ioeventfd request{};
  request.addr = address;
  request.len = 0;  // any width
  request.fd = eventFd;
  request.flags = space == IoSpace::kPort ? static_cast<std::uint32_t>(KVM_IOEVENTFD_FLAG_PIO) : 0U;
  if (ioctlRetry(fd(), KVM_IOEVENTFD, &request) < 0) return Error::fromErrno("KVM_IOEVENTFD");
  return {};
}

void Vm::removeIoEvent(IoSpace space, std::uint64_t address, int eventFd) {
  kvm_ioeventfd request{};
  request.addr = address;
  request.fd = eventFd;
  request.flags =
      KVM_IOEVENTFD_FLAG_DEASSIGN | (space == IoSpace::kPort ? static_cast<std::uint32_t>(KVM_IOEVENTFD_FLAG_PIO) : 0U);
  ioctlRetry(fd(), KVM_IOEVENTFD, &request);
}

Result<void> Vm::save(StateWriter& writer) const {
  writer.section("kvm-vm", 1);
  for (const std::uint32_t chip : kInterruptChips) {
    kvm_irqchip state{};
    state.chip_id = chip;
    if (ioctlRetry(fd(), KVM_GET_IRQCHIP, &state) < 0) return Error::fromErrno("KVM_GET_IRQCHIP");
    putRaw(writer, state);
  }
  kvm_clock_data clock{};
  if (ioctlRetry(fd(), KVM_GET_CLOCK, &clock) < 0) return Error::fromErrno("KVM_GET_CLOCK");
  writer.put(std::uint64_t{clock.clock});
  return {};
}

Result<void> Vm::restore(StateReader& reader) {
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("kvm-vm", 1));
  for (const std::uint32_t chip : kInterruptChips) {
    kvm_irqchip state{};
    TSHYVE_CHECK(getRaw(reader, state));
    if (state.chip_id != chip) return Error{ErrorCode::kCorrupt, "the snapshot's interrupt controllers are mixed up"};
    if (ioctlRetry(fd(), KVM_SET_IRQCHIP, &state) < 0) return Error::fromErrno("KVM_SET_IRQCHIP");
  }
  // Without the host's real time: with it the guest's monotonic clock would jump by the time the snapshot lay there.
  std::uint64_t nanoseconds = 0;
  TSHYVE_CHECK(reader.get(nanoseconds));
  kvm_clock_data clock{};
  clock.clock = nanoseconds;
  if (ioctlRetry(fd(), KVM_SET_CLOCK, &clock) < 0) return Error::fromErrno("KVM_SET_CLOCK");
  return {};
}

}  // namespace tshyve::kvm
