#include "machine/kvm_machine.h"

#include <algorithm>
#include <utility>

#include "acpi/tables.h"
#include "boot/layout.h"
#include "boot/linux_loader.h"
#include "machine/snapshot.h"
#include "virtio/block/block_device.h"
#include "virtio/fs/fs_device.h"
#include "virtio/pci_transport.h"
#include "virtio/rng/rng_device.h"
#include "virtio/vsock/vsock_device.h"

namespace tshyve {
namespace {

constexpr std::uint64_t kPageSize = 4096;

Result<void> validate(const MachineConfig& config, const kvm::System& system) {
  const std::uint32_t most = std::min(layout::kMaxCpus, system.maxCpus());
  if (config.cpus < 1 || config.cpus > most) {
    return Error{ErrorCode::kInvalidArgument,
                 "a machine has from 1 to " + std::to_string(most) + " CPUs, not " + std::to_string(config.cpus)};
  }
  if (config.memoryBytes < layout::kMinMemory || config.memoryBytes > layout::kMaxMemory ||
      config.memoryBytes % kPageSize != 0) {
    return Error{ErrorCode::kInvalidArgument, "a machine has from " + std::to_string(layout::kMinMemory >> 20) +
                                                  " to " + std::to_string(layout::kMaxMemory >> 20) +
                                                  " MiB of memory in whole pages, not " +
                                                  std::to_string(config.memoryBytes) + " bytes"};
  }
  const bool servedByFramework = std::any_of(config.shares.begin(), config.shares.end(),
                                             [](const ShareConfig& share) { return !share.directory.empty(); });
  if (config.efi || servedByFramework || !config.rosettaTag.empty() || config.nestedVirtualization ||
      !config.serial.file.empty() || !config.serial.terminalLink.empty()) {
    return Error{ErrorCode::kUnsupported,
                 "firmware, shares by folder, Rosetta, nested virtualization and more serial ports are only on macOS"};
  }
  return {};
}

kvm_segment toKvm(const boot::Segment& segment) {
  kvm_segment out{};
  out.base = segment.base;
  out.limit = segment.limit;
  out.selector = segment.selector;
  out.type = segment.type;
  out.present = segment.present ? 1 : 0;
  out.dpl = segment.privilege & 3U;
  out.db = segment.defaultBig ? 1 : 0;
  out.s = segment.system ? 0 : 1;
  out.l = segment.longMode ? 1 : 0;
  out.g = segment.granularity ? 1 : 0;
  return out;
}

kvm_dtable toKvm(const boot::DescriptorTable& table) {
  kvm_dtable out{};
  out.base = table.base;
  out.limit = table.limit;
  return out;
}

Result<void> setBootRegisters(kvm::Vcpu& vcpu, const boot::CpuState& state) {
  TSHYVE_TRY(kvm_sregs special, vcpu.systemRegisters());
  special.cs = toKvm(state.code);
  special.ds = special.es = special.fs = special.gs = special.ss = toKvm(state.data);
  special.tr = toKvm(state.task);
  special.gdt = toKvm(state.gdt);
  special.idt = toKvm(state.idt);
  special.cr0 = state.cr0;
  special.cr3 = state.cr3;
  special.cr4 = state.cr4;
  special.efer = state.efer;
  TSHYVE_CHECK(vcpu.setSystemRegisters(special));
  kvm_regs general{};
  general.rip = state.rip;
  general.rsp = state.rsp;
  general.rbp = state.rsp;
  general.rbx = state.rbx;
  general.rsi = state.rsi;
  general.rflags = state.rflags;
  TSHYVE_CHECK(vcpu.setRegisters(general));
  kvm_fpu fpu{};
  fpu.fcw = state.fpuControlWord;
  fpu.mxcsr = state.mxcsr;
  return vcpu.setFpu(fpu);
}

std::vector<boot::CpuidEntry> fromKvm(std::span<const kvm_cpuid_entry2> entries) {
  std::vector<boot::CpuidEntry> out;
  out.reserve(entries.size());
  for (const kvm_cpuid_entry2& e : entries) {
    out.push_back({e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx});
  }
  return out;
}

std::vector<kvm_cpuid_entry2> toKvm(std::span<const boot::CpuidEntry> entries) {
  std::vector<kvm_cpuid_entry2> out;
  out.reserve(entries.size());
  for (const boot::CpuidEntry& e : entries) {
    out.push_back({e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx, {}});
  }
  return out;
}

/// Linux reads /dev/console from the console named last.
bool readsFromHvc(const std::string& commandLine) {
  constexpr std::string_view kParameter = "console=";
  const std::size_t last = commandLine.rfind(kParameter);
  return last != std::string::npos && commandLine.compare(last + kParameter.size(), 3, "hvc") == 0;
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config, EventSink sink) {
  TSHYVE_TRY(auto machine, KvmMachine::create(config, std::move(sink)));
  return std::unique_ptr<Machine>(std::move(machine));
}

Result<std::unique_ptr<Machine>> Machine::restore(const MachineConfig& config, const std::string& snapshotFolder,
                                                  EventSink sink) {
  TSHYVE_TRY(auto machine, KvmMachine::restore(config, snapshotFolder, std::move(sink)));
  return std::unique_ptr<Machine>(std::move(machine));
}

KvmMachine::KvmMachine(MachineConfig config, EventSink sink, kvm::System system)
    : config_(std::move(config)), sink_(std::move(sink)), system_(std::move(system)) {}

KvmMachine::~KvmMachine() {
  if (controlLoop_ != nullptr) {
    stop();
    controlLoop_->stop();
  }
  // A machine that was never finished still has them. Loops without threads run at once what is given to them.
  stopDevices();
}

// --- Assembly ---

Result<std::unique_ptr<KvmMachine>> KvmMachine::assemble(const MachineConfig& config, EventSink sink, int memoryFile) {
  TSHYVE_TRY(kvm::System system, kvm::System::open());
  TSHYVE_CHECK(validate(config, system));
  std::unique_ptr<KvmMachine> machine(new KvmMachine(config, std::move(sink), std::move(system)));
  TSHYVE_TRY(machine->controlLoop_, EventLoop::create("control"));
  TSHYVE_CHECK(machine->buildMemory(memoryFile));
  TSHYVE_CHECK(machine->buildLegacyDevices());
  TSHYVE_CHECK(machine->buildPciDevices());
  TSHYVE_CHECK(machine->buildVcpus());
  machine->controlLoop_->start();
  for (const DeviceLoop& device : machine->loops_) device.loop->start();
  return machine;
}

Result<std::unique_ptr<KvmMachine>> KvmMachine::create(const MachineConfig& config, EventSink sink) {
  TSHYVE_TRY(auto machine, assemble(config, std::move(sink), -1));
  TSHYVE_CHECK(machine->boot());
  machine->state_ = State::kBuilt;
  return machine;
}

Result<std::unique_ptr<KvmMachine>> KvmMachine::restore(const MachineConfig& config, const std::string& snapshotFolder,
                                                        EventSink sink) {
  TSHYVE_TRY(const snapshot::Loaded loaded, snapshot::open(snapshotFolder));
  TSHYVE_TRY(auto machine, assemble(config, std::move(sink), loaded.memoryFile.get()));
  TSHYVE_CHECK(machine->restoreState(loaded.state));
  machine->state_ = State::kBuilt;
  return machine;
}

Result<void> KvmMachine::buildMemory(int memoryFile) {
  // A virtiofsd maps the guest's memory into its own process.
  const auto backing = config_.shares.empty() ? GuestMemory::Backing::kPrivate : GuestMemory::Backing::kShared;
  const auto extents = layout::memoryExtents(config_.memoryBytes);
  if (memoryFile < 0) {
    TSHYVE_TRY(memory_, GuestMemory::create(extents, backing));
  } else {
    TSHYVE_TRY(memory_, GuestMemory::createFromFile(extents, backing, memoryFile));
  }
  TSHYVE_TRY(vm_, kvm::Vm::create(system_, *memory_));
  return {};
}

Result<void> KvmMachine::buildLegacyDevices() {
  TSHYVE_TRY(EventLoop* const loop, addLoop("devices", sandbox::Role::kDevices));
  TSHYVE_TRY(auto serialLine, vm_->interruptLine(layout::kCom1Gsi));
  TSHYVE_TRY(serial_, Serial::create(*loop, std::move(serialLine),
                                     [this](std::string bytes) { sink_(ConsoleOutput{std::move(bytes)}); }));
  TSHYVE_CHECK(ports_.add(layout::kCom1Port, 8, serial_));

  TSHYVE_TRY(auto clockLine, vm_->interruptLine(layout::kRtcGsi));
  TSHYVE_TRY(clock_, CmosClock::create(*loop, std::move(clockLine)));
  TSHYVE_CHECK(ports_.add(layout::kRtcPort, 2, clock_));

  const PowerRequested requested = [this](PowerRequest request) {
    if (request == PowerRequest::kShutdown) {
      guestEnded(ExitReason::kShutdown, "the guest powered off");
    } else {
      guestEnded(ExitReason::kReset, "the guest asked for a restart");
    }
  };
  TSHYVE_CHECK(ports_.add(layout::kAcpiPort, 1, std::make_shared<AcpiPowerPort>(requested)));
  TSHYVE_CHECK(ports_.add(layout::kKeyboardPort + 4, 1, std::make_shared<KeyboardResetPort>(requested)));
  TSHYVE_TRY(powerButton_, vm_->interruptLine(layout::kGenericEventGsi));
  return {};
}

Result<void> KvmMachine::buildPciDevices() {
  TSHYVE_TRY(pciRoot_, pci::PciRoot::create(ports_, memoryBus_));
  // The guest names its disks and interfaces by this order.
  for (std::size_t index = 0; index < config_.disks.size(); index++) TSHYVE_CHECK(addDisk(index));
  for (std::uint32_t index = 0; index < config_.networks.size(); index++) TSHYVE_CHECK(addNetwork(index));
  for (std::size_t index = 0; index < config_.shares.size(); index++) TSHYVE_CHECK(addShare(index));
  EventLoop& shared = *loops_.front().loop;
  TSHYVE_CHECK(addVirtioDevice(std::make_shared<virtio::RngDevice>(shared)));
  if (config_.balloon) {
    auto balloon = std::make_shared<virtio::BalloonDevice>(shared);
    balloon_ = balloon.get();
    TSHYVE_CHECK(addVirtioDevice(std::move(balloon)));
  }
  if (config_.console) {
    auto console = std::make_shared<virtio::ConsoleDevice>(
        shared, [this](std::string bytes) { sink_(ConsoleOutput{std::move(bytes)}); });
    if (readsFromHvc(config_.boot.commandLine)) console_ = console.get();
    TSHYVE_CHECK(addVirtioDevice(std::move(console)));
  }
  if (config_.vsock) {
    TSHYVE_TRY(EventLoop* const loop, addLoop("vsock", sandbox::Role::kSockets));
    TSHYVE_TRY(std::shared_ptr<virtio::Device> vsock, virtio::VsockDevice::create(*loop, *config_.vsock, logger()));
    TSHYVE_CHECK(addVirtioDevice(std::move(vsock)));
  }
  return {};
}

Result<void> KvmMachine::addDisk(std::size_t index) {
  TSHYVE_TRY(EventLoop* const loop, addLoop("disk" + std::to_string(index), sandbox::Role::kDevices));
  TSHYVE_TRY(auto disk, virtio::BlockDevice::create(*loop, config_.disks[index], logger()));
  return addVirtioDevice(std::move(disk));
}

Result<void> KvmMachine::addShare(std::size_t index) {
  TSHYVE_TRY(EventLoop* const loop, addLoop("share" + std::to_string(index), sandbox::Role::kSockets));
  const ShareConfig& share = config_.shares[index];
  TSHYVE_TRY(std::shared_ptr<virtio::Device> device, virtio::FsDevice::create(*loop, share.tag, share.socket));
  return addVirtioDevice(std::move(device));
}

Result<void> KvmMachine::addNetwork(std::uint32_t index) {
  const std::string name = "net" + std::to_string(index);
  // libslirp keeps some of its state in globals: user-mode networks share a loop.
  const bool user = std::holds_alternative<UserNetwork>(config_.networks[index].backend);
  EventLoop* loop = user ? userNetworkLoop_ : nullptr;
  if (loop == nullptr) {
    TSHYVE_TRY(loop, addLoop(name, sandbox::Role::kSockets));
  }
  if (user) userNetworkLoop_ = loop;
  virtio::NetDevice::Callbacks callbacks;
  callbacks.log = logger();
  callbacks.addressAssigned = [this, index](const net::DhcpSnoop::Lease& lease) {
    std::string address;
    for (const std::uint8_t byte : lease.address) address += (address.empty() ? "" : ".") + std::to_string(byte);
    sink_(AddressAssigned{index, config_.networks[index].mac, std::move(address), lease.seconds});
  };
  callbacks.linkChanged = [this, index](bool up) { sink_(LinkChanged{index, up}); };
  TSHYVE_TRY(std::shared_ptr<virtio::NetDevice> device,
             virtio::NetDevice::create(*loop, name, config_.networks[index], std::move(callbacks)));
  networks_.push_back(device.get());
  return addVirtioDevice(std::move(device));
}

Result<virtio::NetDevice*> KvmMachine::network(std::uint32_t index) const {
  if (index < networks_.size()) return networks_[index];
  return Error{ErrorCode::kNotFound, "the machine has no network interface " + std::to_string(index)};
}

Result<EventLoop*> KvmMachine::addLoop(const std::string& name, sandbox::Role role) {
  TSHYVE_TRY(auto loop, EventLoop::create(name));
  loops_.push_back({std::move(loop), role});
  return loops_.back().loop.get();
}

Result<void> KvmMachine::addVirtioDevice(std::shared_ptr<virtio::Device> device) {
  devices_.push_back(device);
  TSHYVE_TRY(auto transport, virtio::PciTransport::create(*vm_, *memory_, std::move(device), logger()));
  TSHYVE_TRY([[maybe_unused]] const std::uint8_t slot, pciRoot_->addDevice(std::move(transport)));
  return {};
}

Log KvmMachine::logger() const {
  return [sink = sink_](std::string line) { sink(MachineLog{std::move(line)}); };
}

Result<void> KvmMachine::buildVcpus() {
  TSHYVE_TRY(const auto supported, system_.supportedCpuid());
  const auto list = fromKvm(supported);
  const std::uint32_t addressBits = boot::physicalAddressBits(list);
  if (addressBits < 64 && layout::pciWindow64(config_.memoryBytes).end() > 1ULL << addressBits) {
    return Error{ErrorCode::kUnsupported, "this host's CPU has " + std::to_string(addressBits) +
                                              " address bits, too few for so much memory: give the machine less"};
  }
  boot::CpuidOptions options;
  options.tscDeadlineTimer = system_.capability(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  for (std::uint32_t id = 0; id < config_.cpus; id++) {
    TSHYVE_TRY(auto vcpu, vm_->createVcpu(id));
    if (id == 0) {
      const int frequency = kvm::ioctlRetry(vcpu->fd(), KVM_GET_TSC_KHZ, 0UL);
      options.tscKhz = frequency > 0 ? static_cast<std::uint32_t>(frequency) : 0;
    }
    // Before the MSRs: which of them exist follows from it.
    TSHYVE_CHECK(vcpu->setCpuid(toKvm(boot::guestCpuid(list, id, config_.cpus, options))));
    unstartedVcpus_.push_back(std::move(vcpu));
  }
  return {};
}

Result<void> KvmMachine::boot() {
  acpi::TablesConfig tables;
  tables.cpus = config_.cpus;
  tables.memoryBytes = config_.memoryBytes;
  tables.rtc = true;
  TSHYVE_TRY(const std::uint64_t rsdp, acpi::writeTables(*memory_, tables));
  TSHYVE_TRY(const boot::LoadedKernel kernel, boot::loadLinux(*memory_, config_.boot, rsdp));
  TSHYVE_CHECK(boot::writeCpuTables(*memory_, kernel.mode));

  std::vector<kvm_msr_entry> msrs;
  for (const boot::Msr& msr : boot::bootMsrs()) msrs.push_back({msr.index, 0, msr.value});
  for (const auto& vcpu : unstartedVcpus_) {
    TSHYVE_TRY(const auto refused, vcpu->setMsrs(msrs));
    for (const std::uint32_t index : refused) {
      for (const boot::Msr& msr : boot::bootMsrs()) {
        if (msr.index == index && msr.required) {
          return Error{ErrorCode::kUnsupported, "the host's KVM refuses model-specific register " +
                                                    std::to_string(index) + ", which the guest needs"};
        }
      }
    }
    TSHYVE_CHECK(vcpu->wireLocalApic());
  }
  return setBootRegisters(*unstartedVcpus_.front(), boot::initialCpuState(kernel));
}

// --- Life ---

template <typename Step>
Result<void> KvmMachine::onControl(const Step& step) const {
  Result<void> result;
  controlLoop_->runSync([&] { result = step(); });
  return result;
}

Result<void> KvmMachine::start() {
  return onControl([this] { return startNow(); });
}
Result<void> KvmMachine::pause() {
  return onControl([this] { return pauseNow(); });
}
Result<void> KvmMachine::resume() {
  return onControl([this] { return resumeNow(); });
}
Result<void> KvmMachine::save(const std::string& snapshotFolder) {
  return onControl([&] { return saveNow(snapshotFolder); });
}
void KvmMachine::stop() {
  controlLoop_->runSync([this] { endNow(ExitReason::kKilled, "the machine was stopped"); });
}

Result<void> KvmMachine::startNow() {
  if (state_ != State::kBuilt) return Error{ErrorCode::kState, "the machine was started before"};
  if (config_.seccomp) {
    for (const DeviceLoop& device : loops_) {
      Result<void> confined;
      device.loop->runSync([&] { confined = sandbox::confineThread(device.role); });
      TSHYVE_CHECK(confined);
    }
  }
  for (auto& vcpu : unstartedVcpus_) {
    VcpuThread::Environment environment{
        ports_, memoryBus_, ended_,
        [this](VcpuEnd end) {
          guestEnded(end.crashed ? ExitReason::kCrashed : ExitReason::kReset, std::move(end.detail));
        },
        [this]() -> Result<void> {
          return config_.seccomp ? sandbox::confineThread(sandbox::Role::kVcpu) : Result<void>();
        }};
    vcpus_.push_back(std::make_unique<VcpuThread>(std::move(vcpu), std::move(environment)));
  }
  unstartedVcpus_.clear();
  state_ = State::kRunning;
  pciRoot_->resume();  // devices of a restored machine are paused; the others take no notice
  for (const auto& vcpu : vcpus_) vcpu->resume();
  return {};
}

Result<void> KvmMachine::pauseNow() {
  if (state_ == State::kPaused) return {};
  if (state_ != State::kRunning || ended_.load()) return Error{ErrorCode::kState, "the machine does not run"};
  for (const auto& vcpu : vcpus_) vcpu->requestPause();
  for (const auto& vcpu : vcpus_) vcpu->waitPaused();
  // The guest may have ended itself meanwhile; the control loop will see to it next.
  if (ended_.load()) return Error{ErrorCode::kState, "the machine has just ended"};
  for (const auto& vcpu : vcpus_) vcpu->vcpu().notePause();
  pciRoot_->pause();
  serial_->flush();
  state_ = State::kPaused;
  return {};
}

Result<void> KvmMachine::resumeNow() {
  if (state_ == State::kRunning) return {};
  if (state_ != State::kPaused) return Error{ErrorCode::kState, "the machine is not paused"};
  state_ = State::kRunning;
  pciRoot_->resume();
  for (const auto& vcpu : vcpus_) vcpu->resume();
  return {};
}

void KvmMachine::guestEnded(ExitReason reason, std::string detail) {
  if (ended_.exchange(true)) return;
  controlLoop_->post([this, reason, detail = std::move(detail)] { endNow(reason, detail); });
}

void KvmMachine::stopDevices() {
  // Devices finish what is under way: what the guest has flushed is on the disk.
  pciRoot_.reset();
  // Devices go after their loops' threads and give back what they hold: disks, addresses, sockets.
  for (const DeviceLoop& device : loops_) device.loop->stop();
  if (serial_ != nullptr) serial_->flush();
  networks_.clear();
  balloon_ = nullptr;
  console_ = nullptr;
  devices_.clear();
}

void KvmMachine::endNow(ExitReason reason, const std::string& detail) {
  if (state_ == State::kEnded || state_ == State::kUnfinished) return;
  state_ = State::kEnded;
  ended_ = true;
  // All are told before the first is waited for.
  for (const auto& vcpu : vcpus_) vcpu->requestPause();
  for (const auto& vcpu : vcpus_) vcpu->stop();
  stopDevices();
  sink_(MachineExited{reason, detail});
}

Result<void> KvmMachine::pressPowerButton() {
  return onControl([this]() -> Result<void> {
    if (state_ != State::kRunning) return Error{ErrorCode::kState, "the machine does not run"};
    powerButton_->pulse();
    return {};
  });
}

Result<void> KvmMachine::writeConsole(std::span<const std::byte> bytes) {
  return onControl([&] { return console_ != nullptr ? console_->receive(bytes) : serial_->receive(bytes); });
}

Result<std::uint16_t> KvmMachine::addForward(std::uint32_t nic, const ForwardConfig& forward) {
  std::uint16_t port = 0;
  TSHYVE_CHECK(onControl([&]() -> Result<void> {
    TSHYVE_TRY(virtio::NetDevice* const device, network(nic));
    TSHYVE_TRY(port, device->addForward(forward));
    return {};
  }));
  return port;
}

Result<void> KvmMachine::removeForward(std::uint32_t nic, const ForwardConfig& forward) {
  return onControl([&]() -> Result<void> {
    TSHYVE_TRY(virtio::NetDevice* const device, network(nic));
    return device->removeForward(forward);
  });
}

MachineStatistics KvmMachine::statistics() const {
  MachineStatistics statistics;
  controlLoop_->runSync([&] {
    for (const auto& vcpu : vcpus_) statistics.exits += vcpu->exits();
    if (balloon_ != nullptr) statistics.balloonBytes = balloon_->actualBytes();
  });
  return statistics;
}

// --- Snapshots ---

Result<void> KvmMachine::saveNow(const std::string& folder) {
  if (state_ != State::kPaused) return Error{ErrorCode::kState, "only a paused machine can be saved"};
  if (!config_.shares.empty()) {
    return Error{ErrorCode::kUnsupported,
                 "a machine with shared folders cannot be saved, as their daemon's open files cannot: stop it instead"};
  }
  StateWriter writer;
  writer.section("machine", 1);
  writer.put(config_.cpus);
  writer.put(config_.memoryBytes);
  for (const auto& vcpu : vcpus_) TSHYVE_CHECK(vcpu->vcpu().save(writer));
  TSHYVE_CHECK(vm_->save(writer));
  serial_->save(writer);
  clock_->save(writer);
  pciRoot_->save(writer);
  return snapshot::write(folder, *memory_, writer.data());
}

Result<void> KvmMachine::restoreState(std::span<const std::byte> state) {
  StateReader reader(state);
  TSHYVE_TRY([[maybe_unused]] const std::uint32_t version, reader.section("machine", 1));
  std::uint32_t cpus = 0;
  std::uint64_t memoryBytes = 0;
  TSHYVE_CHECK(reader.get(cpus));
  TSHYVE_CHECK(reader.get(memoryBytes));
  if (cpus != config_.cpus || memoryBytes != config_.memoryBytes) {
    return Error{ErrorCode::kInvalidArgument, "the snapshot is of a machine with " + std::to_string(cpus) +
                                                  " CPUs and " + std::to_string(memoryBytes >> 20) +
                                                  " MiB of memory: restore it with the same configuration"};
  }
  for (const auto& vcpu : unstartedVcpus_) TSHYVE_CHECK(vcpu->restore(reader));
  TSHYVE_CHECK(vm_->restore(reader));
  TSHYVE_CHECK(serial_->restore(reader));
  TSHYVE_CHECK(clock_->restore(reader));
  TSHYVE_CHECK(pciRoot_->restore(reader));
  return {};
}

}  // namespace tshyve
