#import <Foundation/Foundation.h>
#import <Security/Security.h>
#import <Virtualization/Virtualization.h>

#include <chrono>

#include "machine/host_probe.h"
#include "machine/machine.h"
#include "vz/apple/configuration.h"
#include "vz/apple/convert.h"
#include "vz/apple/machine.h"
#include "vz/apple/vmnet.h"
#include "vz/vz_machine.h"

#if __MAC_OS_X_VERSION_MAX_ALLOWED < 150000
#error "Build with the SDK of macOS 15 (Xcode 16) or later: it also builds for macOS 12."
#endif

namespace tshyve::vz {
namespace {

class AppleQueue final : public Queue {
 public:
  // Serial, and never the main queue: nobody serves that one in a Node process.
  AppleQueue() : queue_(dispatch_queue_create("tshyve.machine", DISPATCH_QUEUE_SERIAL)) {}
  void post(std::function<void()> work) override {
    dispatch_async(queue_, ^{
      @autoreleasepool {
        work();
      }
    });
  }
  [[nodiscard]] dispatch_queue_t queue() const { return queue_; }

 private:
  dispatch_queue_t queue_;
};

/// Whether the executable of this process has the entitlement; a library's own signature does not count.
bool isEntitled() {
  SecTaskRef const task = SecTaskCreateFromSelf(kCFAllocatorDefault);
  if (task == nullptr) return false;
  CFTypeRef const value = SecTaskCopyValueForEntitlement(task, CFSTR("com.apple.security.virtualization"), nullptr);
  const bool entitled = value != nullptr && CFEqual(value, kCFBooleanTrue);
  if (value != nullptr) CFRelease(value);
  CFRelease(task);
  return entitled;
}

Rosetta rosetta() {
#if defined(__arm64__)
  if (@available(macOS 13.0, *)) {
    switch (VZLinuxRosettaDirectoryShare.availability) {
      case VZLinuxRosettaAvailabilityNotSupported:
        return Rosetta::kNotSupported;
      case VZLinuxRosettaAvailabilityNotInstalled:
        return Rosetta::kNotInstalled;
      case VZLinuxRosettaAvailabilityInstalled:
        return Rosetta::kInstalled;
    }
  }
#endif
  return Rosetta::kNotSupported;
}

HostFacts readFacts() {
  HostFacts facts;
  const NSOperatingSystemVersion version = NSProcessInfo.processInfo.operatingSystemVersion;
  facts.version = properVersion({static_cast<int>(version.majorVersion), static_cast<int>(version.minorVersion)});
#if defined(__arm64__)
  facts.processor = Processor::kArm64;
#else
  facts.processor = Processor::kX86;
#endif
  facts.supported = VZVirtualMachine.supported;
  facts.entitled = isEntitled();
  if (@available(macOS 15.0, *)) {
    facts.nestedVirtualization = VZGenericPlatformConfiguration.nestedVirtualizationSupported;
  }
  facts.rosetta = rosetta();
  facts.vmnet = hasVmnetNetworks();
  facts.minCpus = static_cast<std::uint32_t>(VZVirtualMachineConfiguration.minimumAllowedCPUCount);
  facts.maxCpus = static_cast<std::uint32_t>(VZVirtualMachineConfiguration.maximumAllowedCPUCount);
  facts.minMemoryBytes = VZVirtualMachineConfiguration.minimumAllowedMemorySize;
  facts.maxMemoryBytes = VZVirtualMachineConfiguration.maximumAllowedMemorySize;
  for (VZBridgedNetworkInterface* candidate in VZBridgedNetworkInterface.networkInterfaces) {
    facts.bridgeInterfaces.push_back(toString(candidate.identifier));
  }
  return facts;
}

class AppleFramework final : public Framework {
 public:
  HostFacts facts() override {
    @autoreleasepool {
      return readFacts();
    }
  }
  std::shared_ptr<Queue> makeQueue() override { return std::make_shared<AppleQueue>(); }
  Result<std::unique_ptr<FrameworkMachine>> build(const Plan& plan, const Resources& resources,
                                                  const std::shared_ptr<Queue>& queue, Observer& observer) override {
    // All queues are of this framework's making.
    dispatch_queue_t const serial = static_cast<const AppleQueue&>(*queue).queue();
    return guarded<std::unique_ptr<FrameworkMachine>>(
        "cannot build the machine", [&]() -> Result<std::unique_ptr<FrameworkMachine>> {
          TSHYVE_TRY(VZVirtualMachineConfiguration* const configuration, makeConfiguration(plan, resources));
          return makeFrameworkMachine(configuration, resources.listenPorts, serial, observer);
        });
  }
};

}  // namespace
}  // namespace tshyve::vz

namespace tshyve {

Result<std::unique_ptr<Machine>> Machine::create(const MachineConfig& config, EventSink sink) {
  return vz::makeMachine(std::make_shared<vz::AppleFramework>(), config, std::nullopt, std::move(sink));
}

Result<std::unique_ptr<Machine>> Machine::restore(const MachineConfig& config, const std::string& snapshotFolder,
                                                  EventSink sink) {
  return vz::makeMachine(std::make_shared<vz::AppleFramework>(), config, snapshotFolder, std::move(sink));
}

HostProbe probeHost() {
  const auto begun = std::chrono::steady_clock::now();
  @autoreleasepool {
    HostProbe probe = vz::probeFrom(vz::readFacts());
    probe.duration = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begun);
    return probe;
  }
}

}  // namespace tshyve
