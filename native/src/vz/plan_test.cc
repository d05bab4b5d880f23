#include "vz/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace tshyve::vz {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

HostFacts mac(MacVersion version, Processor processor = Processor::kArm64) {
  HostFacts facts;
  facts.version = version;
  facts.processor = processor;
  facts.supported = facts.entitled = facts.vmnet = true;
  facts.nestedVirtualization = version >= MacVersion{15, 0};
  facts.rosetta =
      processor == Processor::kArm64 && version >= MacVersion{13, 0} ? Rosetta::kInstalled : Rosetta::kNotSupported;
  facts.maxCpus = 8;
  facts.minMemoryBytes = 4 << 20;
  facts.maxMemoryBytes = std::uint64_t{16} << 30;
  return facts;
}

MachineConfig simple() {
  MachineConfig config;
  config.name = "dev";
  config.cpus = 2;
  config.memoryBytes = std::uint64_t{2} << 30;
  config.boot = {"/m/kernel", "/m/initrd", "console=ttyS0 quiet"};
  config.disks = {{"data", "/m/disk.img", false, 1}, {"image", "/m/boot.iso", true, 1}};
  config.networks = {{"02:00:00:00:00:01", NatNetwork{}}};
  return config;
}

struct Refusal {
  const char* name;
  std::function<void(MachineConfig&, HostFacts&)> spoil;
  ErrorCode code;
  const char* message;
};

class Refused : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refused, WithCauseAndFix) {
  MachineConfig config = simple();
  HostFacts facts = mac({15, 4});
  GetParam().spoil(config, facts);
  const auto plan = planMachine(config, facts);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, GetParam().code);
  EXPECT_THAT(plan.error().message, HasSubstr(GetParam().message));
}

const Refusal kRefusals[] = {
    {"NotEntitled", [](MachineConfig&, HostFacts& f) { f.entitled = false; }, ErrorCode::kPermission,
     "Use tshyve's own executable"},
    {"NoVirtualization", [](MachineConfig&, HostFacts& f) { f.supported = false; }, ErrorCode::kUnsupported,
     "Use the qemu hypervisor"},
    {"BigSur",
     [](MachineConfig&, HostFacts& f) {
       f.version = {11, 7};
     },
     ErrorCode::kUnsupported, "this is macOS 11.7, and machines need macOS 12 or later"},
    {"NoCpu", [](MachineConfig& c, HostFacts&) { c.cpus = 0; }, ErrorCode::kInvalidArgument, "from 1 to 8 CPUs"},
    {"TooManyCpus", [](MachineConfig& c, HostFacts&) { c.cpus = 9; }, ErrorCode::kInvalidArgument, "not 9"},
    {"TooMuchMemory", [](MachineConfig& c, HostFacts&) { c.memoryBytes = std::uint64_t{32} << 30; },
     ErrorCode::kInvalidArgument, "from 4 to 16384 MiB"},
    {"HalfAMebibyte", [](MachineConfig& c, HostFacts&) { c.memoryBytes += 4096; }, ErrorCode::kInvalidArgument,
     "whole MiB"},
    {"NoKernel", [](MachineConfig& c, HostFacts&) { c.boot.kernel.clear(); }, ErrorCode::kInvalidArgument,
     "needs a kernel, or firmware"},
    {"LongCommandLine", [](MachineConfig& c, HostFacts&) { c.boot.commandLine = std::string(2048, 'x'); },
     ErrorCode::kInvalidArgument, "2047 without NUL"},
    {"FirmwareOnMonterey",
     [](MachineConfig& c, HostFacts& f) {
       c.efi = EfiBoot{"/m/efi"};
       f.version = {12, 6};
     },
     ErrorCode::kUnsupported, "booting by firmware (EFI) needs macOS 13 or later, and this is macOS 12.6"},
    {"FirmwareWithoutVariables", [](MachineConfig& c, HostFacts&) { c.efi = EfiBoot{}; }, ErrorCode::kInvalidArgument,
     "a file for its variables"},
    {"DiskWithoutPath", [](MachineConfig& c, HostFacts&) { c.disks[0].path.clear(); }, ErrorCode::kInvalidArgument,
     "path of an image"},
    {"LongDiskId", [](MachineConfig& c, HostFacts&) { c.disks[0].id = std::string(21, 'x'); },
     ErrorCode::kInvalidArgument, "at most 20"},
    {"DiskIdWithUmlaut", [](MachineConfig& c, HostFacts&) { c.disks[0].id = "d\xc3\xa4ta"; },
     ErrorCode::kInvalidArgument, "printable"},
    {"ShortMac", [](MachineConfig& c, HostFacts&) { c.networks[0].mac = "02:00:00:00:00"; },
     ErrorCode::kInvalidArgument, "six pairs"},
    {"GroupMac", [](MachineConfig& c, HostFacts&) { c.networks[0].mac = "01:00:5e:00:00:01"; },
     ErrorCode::kInvalidArgument, "six pairs"},
    {"GroupMacInLetters", [](MachineConfig& c, HostFacts&) { c.networks[0].mac = "fF:ff:ff:ff:ff:ff"; },
     ErrorCode::kInvalidArgument, "six pairs"},
    {"MacTwice", [](MachineConfig& c, HostFacts&) { c.networks.push_back(c.networks[0]); }, ErrorCode::kInvalidArgument,
     "two network interfaces"},
    {"UserNetwork", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = UserNetwork{}; },
     ErrorCode::kUnsupported, "use nat"},
    {"Tap", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = TapNetwork{}; }, ErrorCode::kUnsupported,
     "use nat"},
    {"Stream", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = StreamNetwork{"/s"}; },
     ErrorCode::kUnsupported, "datagrams"},
    {"Vpnkit", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = VpnkitNetwork{}; }, ErrorCode::kUnsupported,
     "datagrams"},
    {"DatagramWithoutEnds",
     [](MachineConfig& c, HostFacts&) {
       c.networks[0].backend = DatagramNetwork{"/peer", "", -1};
     },
     ErrorCode::kInvalidArgument, "both ends"},
    {"PortOfASwitch",
     [](MachineConfig& c, HostFacts&) {
       DatagramNetwork peer;
       peer.path = "/switch";
       peer.localPath = "/own";
       peer.connectionless = true;
       c.networks[0].backend = peer;
     },
     ErrorCode::kUnsupported, "use nat"},
    {"BridgeWithoutEntitlement", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = BridgedNetwork{"en0"}; },
     ErrorCode::kPermission, "com.apple.vm.networking"},
    {"BridgeToNothing",
     [](MachineConfig& c, HostFacts& f) {
       c.networks[0].backend = BridgedNetwork{"en7"};
       f.bridgeInterfaces = {"en0", "en1"};
     },
     ErrorCode::kInvalidArgument, "there are: en0, en1"},
    {"VmnetBeforeTahoe", [](MachineConfig& c, HostFacts&) { c.networks[0].backend = VmnetNetwork{}; },
     ErrorCode::kUnsupported, "needs macOS 26 or later, and this is macOS 15.4"},
    {"VmnetFromOldSdk",
     [](MachineConfig& c, HostFacts& f) {
       c.networks[0].backend = VmnetNetwork{};
       f.version = {26, 1};
       f.vmnet = false;
     },
     ErrorCode::kUnsupported, "SDK of macOS 26"},
    {"ShareBySocket",
     [](MachineConfig& c, HostFacts&) {
       c.shares = {{"src", "/run/fs.sock"}};
     },
     ErrorCode::kInvalidArgument, "without a virtiofsd"},
    {"ShareTwice",
     [](MachineConfig& c, HostFacts&) {
       c.shares = {{"src", "", "/a"}, {"src", "", "/b"}};
     },
     ErrorCode::kInvalidArgument, "two shares"},
    {"LongTag",
     [](MachineConfig& c, HostFacts&) {
       c.shares = {{std::string(36, 't'), "", "/a"}};
     },
     ErrorCode::kInvalidArgument, "from 1 to 35"},
    {"RosettaOnIntel",
     [](MachineConfig& c, HostFacts& f) {
       c.rosettaTag = "rosetta";
       f = mac({15, 4}, Processor::kX86);
     },
     ErrorCode::kUnsupported, "Apple silicon"},
    {"RosettaOnMonterey",
     [](MachineConfig& c, HostFacts& f) {
       c.rosettaTag = "rosetta";
       f.version = {12, 0};
     },
     ErrorCode::kUnsupported, "Rosetta for Linux needs macOS 13"},
    {"RosettaNotInstalled",
     [](MachineConfig& c, HostFacts& f) {
       c.rosettaTag = "rosetta";
       f.rosetta = Rosetta::kNotInstalled;
     },
     ErrorCode::kNotFound, "softwareupdate --install-rosetta"},
    {"RosettaGone",
     [](MachineConfig& c, HostFacts& f) {
       c.rosettaTag = "rosetta";
       f.rosetta = Rosetta::kNotSupported;
     },
     ErrorCode::kUnsupported, "no Rosetta"},
    {"RosettaTagTwice",
     [](MachineConfig& c, HostFacts&) {
       c.rosettaTag = "src";
       c.shares = {{"src", "", "/a"}};
     },
     ErrorCode::kInvalidArgument, "two shares"},
    {"NestedOnSonoma",
     [](MachineConfig& c, HostFacts& f) {
       c.nestedVirtualization = true;
       f.version = {14, 6};
     },
     ErrorCode::kUnsupported, "nested virtualization needs macOS 15"},
    {"NestedOnAnM1",
     [](MachineConfig& c, HostFacts& f) {
       c.nestedVirtualization = true;
       f.nestedVirtualization = false;
     },
     ErrorCode::kUnsupported, "M3"},
};
INSTANTIATE_TEST_SUITE_P(Plan, Refused, ::testing::ValuesIn(kRefusals),
                         [](const auto& each) { return std::string(each.param.name); });

TEST(Plan, HasEveryDeviceInGuestOrder) {
  MachineConfig config = simple();
  config.networks.push_back({"02:00:00:00:00:02", DatagramNetwork{"/peer", "/own", -1}});
  config.networks.push_back({"02:00:00:00:00:03", BridgedNetwork{"en0"}});
  config.networks.push_back({"02:00:00:00:00:04", VmnetNetwork{true}});
  config.networks.push_back({"02:00:00:00:00:05", VmnetNetwork{}});
  config.vsock = VsockConfig{3, "/run/v", {1024}};
  config.shares = {{"src", "", "/src", true}};
  config.rosettaTag = "rosetta";
  config.nestedVirtualization = true;
  config.serial = {"/m/serial.log", "/m/tty"};
  HostFacts facts = mac({26, 0});
  facts.bridgeInterfaces = {"en0"};
  const auto plan = planMachine(config, facts);
  ASSERT_TRUE(plan) << plan.error().message;
  const auto& linux_ = std::get<LinuxPlan>(plan->boot);
  EXPECT_EQ(linux_.kernel, "/m/kernel");
  EXPECT_EQ(linux_.initrd, "/m/initrd");
  EXPECT_EQ(linux_.commandLine, "console=ttyS0 quiet console=hvc0");
  EXPECT_EQ(plan->cpus, 2U);
  EXPECT_EQ(plan->memoryBytes, std::uint64_t{2} << 30);
  EXPECT_TRUE(plan->machineIdentifier);
  EXPECT_TRUE(plan->nestedVirtualization);
  ASSERT_EQ(plan->disks.size(), 2U);
  EXPECT_EQ(plan->disks[0].identifier, "data");
  EXPECT_EQ(plan->disks[0].sync, DiskSync::kFull);
  EXPECT_EQ(plan->disks[0].caching, DiskCaching::kCached);
  EXPECT_TRUE(plan->disks[1].readOnly);
  EXPECT_EQ(plan->disks[1].sync, DiskSync::kFsync);
  ASSERT_EQ(plan->networks.size(), 5U);
  EXPECT_EQ(plan->networks[0].kind, NetworkKind::kNat);
  EXPECT_EQ(plan->networks[1].kind, NetworkKind::kFileHandle);
  EXPECT_EQ(plan->networks[1].peer.path, "/peer");
  EXPECT_EQ(plan->networks[2].kind, NetworkKind::kBridged);
  EXPECT_EQ(plan->networks[2].interfaceName, "en0");
  EXPECT_EQ(plan->networks[3].kind, NetworkKind::kVmnetHost);
  EXPECT_EQ(plan->networks[4].kind, NetworkKind::kVmnetShared);
  EXPECT_EQ(plan->networks[4].mac, "02:00:00:00:00:05");
  ASSERT_EQ(plan->serialPorts.size(), 3U);
  EXPECT_EQ(plan->serialPorts[0].kind, SerialKind::kEvents);
  EXPECT_EQ(plan->serialPorts[1].path, "/m/serial.log");
  EXPECT_EQ(plan->serialPorts[2].kind, SerialKind::kTerminal);
  ASSERT_EQ(plan->shares.size(), 1U);
  EXPECT_TRUE(plan->shares[0].readOnly);
  EXPECT_EQ(plan->rosettaTag, "rosetta");
  EXPECT_TRUE(plan->entropy);
  EXPECT_TRUE(plan->balloon);
  EXPECT_TRUE(plan->socketDevice);
  EXPECT_THAT(plan->notes, IsEmpty());
}

TEST(Plan, BootsByFirmware) {
  MachineConfig config = simple();
  config.efi = EfiBoot{"/m/efi"};
  const auto plan = planMachine(config, mac({13, 0}));
  ASSERT_TRUE(plan);
  EXPECT_EQ(std::get<EfiBoot>(plan->boot).variableStore, "/m/efi");
}

TEST(Plan, DoesWithoutWhatAnOldMacOsLacks) {
  const auto plan = planMachine(simple(), mac({12, 2}));
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->disks[0].identifier, "");
  ASSERT_EQ(plan->notes.size(), 1U);
  EXPECT_THAT(plan->notes[0], HasSubstr("before macOS 12.3"));
  EXPECT_FALSE(plan->machineIdentifier);
}

TEST(Plan, RunsOnEveryMacOs) {
  for (const MacVersion version : {MacVersion{12, 0}, {12, 3}, {13, 0}, {14, 0}, {15, 0}, {26, 0}, {27, 0}, {28, 1}}) {
    for (const Processor processor : {Processor::kArm64, Processor::kX86}) {
      const auto plan = planMachine(simple(), mac(version, processor));
      ASSERT_TRUE(plan) << toText(version) << ": " << plan.error().message;
      const bool saves = processor == Processor::kArm64 && version >= MacVersion{14, 0};
      EXPECT_EQ(plan->cannotSave.empty(), saves) << toText(version) << " " << plan->cannotSave;
    }
  }
}

TEST(Plan, SaysWhyAMachineCannotBeSaved) {
  EXPECT_THAT(planMachine(simple(), mac({15, 0}, Processor::kX86))->cannotSave, HasSubstr("Apple silicon"));
  EXPECT_THAT(planMachine(simple(), mac({13, 6}))->cannotSave, HasSubstr("needs macOS 14"));
  MachineConfig sharing = simple();
  sharing.shares = {{"src", "", "/src"}};
  EXPECT_THAT(planMachine(sharing, mac({15, 0}))->cannotSave, HasSubstr("remove the shares"));
}

TEST(Plan, AddsTheConsoleOfAMacOnce) {
  EXPECT_EQ(guestCommandLine(""), "console=hvc0");
  EXPECT_EQ(guestCommandLine("console=hvc0"), "console=hvc0");
  EXPECT_EQ(guestCommandLine("console=hvc0 quiet"), "console=hvc0 quiet");
  EXPECT_EQ(guestCommandLine("quiet console=hvc0"), "quiet console=hvc0");
  EXPECT_EQ(guestCommandLine("console=hvc01"), "console=hvc01 console=hvc0");
  EXPECT_EQ(guestCommandLine("myconsole=hvc0"), "myconsole=hvc0 console=hvc0");
}

TEST(Host, VersionsByTheirProperNames) {
  EXPECT_EQ(properVersion({15, 5}), (MacVersion{15, 5}));
  EXPECT_EQ(properVersion({16, 0}), (MacVersion{26, 0}));
  EXPECT_EQ(properVersion({17, 1}), (MacVersion{27, 1}));
  EXPECT_EQ(properVersion({26, 2}), (MacVersion{26, 2}));
  EXPECT_EQ(toText({12, 0}), "12");
  EXPECT_EQ(toText({12, 3}), "12.3");
}

TEST(Host, ProbeIsUsableExactlyWithoutAReason) {
  for (const bool supported : {false, true}) {
    for (const bool entitled : {false, true}) {
      HostFacts facts = mac({14, 0});
      facts.supported = supported;
      facts.entitled = entitled;
      const HostProbe probe = probeFrom(facts);
      EXPECT_EQ(probe.reason.empty(), supported && entitled);
      EXPECT_EQ(probe.hardwareSpeed, supported && entitled);
    }
  }
}

}  // namespace
}  // namespace tshyve::vz
