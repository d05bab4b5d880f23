// Runs the guest of test/guest on this host's KVM, whatever its speed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/unique_fd.h"
#include "machine/machine.h"
#include "machine/testing/observer.h"

namespace tshyve {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::Observer;

MachineConfig guest(const std::string& command, std::uint32_t cpus = 1) {
  MachineConfig config;
  config.name = "test";
  config.cpus = cpus;
  config.memoryBytes = 64 << 20;
  config.boot.kernel = TSHYVE_TEST_GUEST;
  config.boot.commandLine = command;
  config.balloon = false;
  config.console = false;
  return config;
}

class TestMachine {
 public:
  explicit TestMachine(const MachineConfig& config, const std::optional<std::string>& snapshot = std::nullopt) {
    take(snapshot ? Machine::restore(config, *snapshot, observer_.sink()) : Machine::create(config, observer_.sink()));
  }
  Machine* operator->() { return machine_.get(); }
  Observer& observer() { return observer_; }
  [[nodiscard]] bool built() const { return machine_ != nullptr; }
  void destroy() { machine_.reset(); }
  void start() {
    const auto started = machine_->start();
    ASSERT_TRUE(started) << started.error().message;
  }
  void expectExit(ExitReason reason) {
    const auto exited = observer_.waitForExit();
    ASSERT_TRUE(exited) << "the machine still runs; console: " << observer_.console();
    EXPECT_EQ(exited->reason, reason) << exited->detail << "; console: " << observer_.console();
  }

 private:
  void take(Result<std::unique_ptr<Machine>> machine) {
    ASSERT_TRUE(machine) << machine.error().message;
    machine_ = *std::move(machine);
  }
  Observer observer_;
  std::unique_ptr<Machine> machine_;
};

class KvmMachineTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::access("/dev/kvm", R_OK | W_OK), 0) << "these tests need /dev/kvm"; }
};

TEST_F(KvmMachineTest, PrintsAndPowersOff) {
  TestMachine machine(guest("hello"));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "hello\n");
  EXPECT_GT(machine->statistics().exits, 6U);
}

struct EndCase {
  const char* command;
  ExitReason reason;
  const char* detail;
};
class EndTest : public KvmMachineTest, public ::testing::WithParamInterface<EndCase> {};
INSTANTIATE_TEST_SUITE_P(Ways, EndTest,
                         ::testing::Values(EndCase{"keyboard-reset", ExitReason::kReset, "restart"},
                                           EndCase{"acpi-reset", ExitReason::kReset, "restart"},
                                           EndCase{"triple", ExitReason::kReset, "triple fault"},
                                           EndCase{"astray", ExitReason::kCrashed, "rip=0xfd000000"}),
                         [](const auto& test) {
                           std::string name = test.param.command;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(EndTest, SaysWhyTheGuestEnded) {
  TestMachine machine(guest(GetParam().command));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(GetParam().reason);
  EXPECT_THAT(machine.observer().waitForExit()->detail, HasSubstr(GetParam().detail));
}

TEST_F(KvmMachineTest, AnswersAccessesOfEveryWidth) {
  TestMachine machine(guest("buses"));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_THAT(machine.observer().console(), HasSubstr("string\nbuses\n"));
}

TEST_F(KvmMachineTest, HasAClock) {
  TestMachine machine(guest("clock"));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "century 0000000000000020\n");
}

class ProcessorsTest : public KvmMachineTest, public ::testing::WithParamInterface<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Counts, ProcessorsTest, ::testing::Values(1U, 2U, 4U, 64U));

TEST_P(ProcessorsTest, AllStart) {
  const std::string count = std::to_string(GetParam());
  TestMachine machine(guest("processors " + count, GetParam()));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "processors " + count + "\n");
}

TEST_F(KvmMachineTest, EchoesConsoleInput) {
  TestMachine machine(guest("echo"));
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("ready\n"));
  const std::string text = "abcq";
  ASSERT_TRUE(machine->writeConsole(std::as_bytes(std::span(text))));
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "ready\nabc");
}

TEST_F(KvmMachineTest, SerialPortInterrupts) {
  TestMachine machine(guest("serial-interrupts"));
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("ready\n"));
  const std::string text = "x";
  ASSERT_TRUE(machine->writeConsole(std::as_bytes(std::span(text))));
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "ready\ninput\n");
}

TEST_F(KvmMachineTest, PowerButtonInterrupts) {
  TestMachine machine(guest("button"));
  ASSERT_TRUE(machine.built());
  EXPECT_FALSE(machine->pressPowerButton());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("waiting\n"));
  ASSERT_TRUE(machine->pressPowerButton());
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "waiting\nbutton\n");
}

TEST_F(KvmMachineTest, PausesAndResumes) {
  TestMachine machine(guest("count", 2));
  ASSERT_TRUE(machine.built());
  EXPECT_FALSE(machine->pause());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("n3\n"));
  for (int round = 0; round < 5; round++) {
    ASSERT_TRUE(machine->pause());
    ASSERT_TRUE(machine->pause());
    const std::string before = machine.observer().console();
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_EQ(machine.observer().console(), before);
    ASSERT_TRUE(machine->resume());
    const auto number = std::to_string(std::count(before.begin(), before.end(), '\n') + 2);
    ASSERT_TRUE(machine.observer().waitForConsole("n" + number + "\n"));
  }
  machine->stop();
  machine.expectExit(ExitReason::kKilled);
}

enum class At { kBuilt, kRunning, kPaused, kSpinning, kHalted, kEnded };
class StopTest : public KvmMachineTest, public ::testing::WithParamInterface<At> {};
INSTANTIATE_TEST_SUITE_P(States, StopTest,
                         ::testing::Values(At::kBuilt, At::kRunning, At::kPaused, At::kSpinning, At::kHalted,
                                           At::kEnded));

TEST_P(StopTest, EndsOnceAndForAll) {
  const At at = GetParam();
  const char* command = at == At::kSpinning ? "spin"
                        : at == At::kHalted ? "idle"
                        : at == At::kEnded  ? "hello"
                                            : "count";
  TestMachine machine(guest(command, 2));
  ASSERT_TRUE(machine.built());
  if (at != At::kBuilt) machine.start();
  if (at == At::kRunning || at == At::kPaused) {
    ASSERT_TRUE(machine.observer().waitForConsole("n"));
  }
  if (at == At::kSpinning) {
    ASSERT_TRUE(machine.observer().waitForConsole("spin"));
  }
  if (at == At::kHalted) {
    ASSERT_TRUE(machine.observer().waitForConsole("idle"));
  }
  if (at == At::kPaused) {
    ASSERT_TRUE(machine->pause());
  }
  if (at == At::kEnded) machine.expectExit(ExitReason::kShutdown);
  machine->stop();
  machine->stop();
  machine.expectExit(at == At::kEnded ? ExitReason::kShutdown : ExitReason::kKilled);
  EXPECT_FALSE(machine->start());
  EXPECT_FALSE(machine->pause());
  EXPECT_FALSE(machine->resume());
  machine.destroy();
  EXPECT_EQ(machine.observer().exitCount(), 1U);
}

TEST_F(KvmMachineTest, MayBeDestroyedWhileItRuns) {
  TestMachine machine(guest("count", 4));
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("n1"));
  machine.destroy();
  EXPECT_EQ(machine.observer().exitCount(), 1U);
}

TEST_F(KvmMachineTest, RefusesBadConfigurations) {
  Observer observer;
  auto config = guest("hello");
  config.cpus = 0;
  EXPECT_FALSE(Machine::create(config, observer.sink()));
  config.cpus = 65;
  EXPECT_FALSE(Machine::create(config, observer.sink()));
  config = guest("hello");
  config.memoryBytes = 1 << 20;
  EXPECT_FALSE(Machine::create(config, observer.sink()));
  config = guest("hello");
  config.boot.kernel = "/nonexistent";
  const auto machine = Machine::create(config, observer.sink());
  ASSERT_FALSE(machine);
  EXPECT_THAT(machine.error().message, HasSubstr("/nonexistent"));
}

class TemporaryDisk {
 public:
  explicit TemporaryDisk(std::uint64_t bytes) {
    std::string pattern = (std::filesystem::temp_directory_path() / "tshyve-disk-XXXXXX").string();
    ::close(::mkstemp(pattern.data()));
    path_ = pattern;
    std::filesystem::resize_file(path_, bytes);
  }
  TemporaryDisk(const TemporaryDisk&) = delete;
  TemporaryDisk& operator=(const TemporaryDisk&) = delete;
  ~TemporaryDisk() { std::filesystem::remove(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST_F(KvmMachineTest, ReadsAndWritesADisk) {
  const TemporaryDisk disk(1 << 20);
  std::fstream(disk.path(), std::ios::in | std::ios::out | std::ios::binary).write("\x78\x56\x34\x12", 4);
  auto config = guest("disk");
  config.disks.push_back({.id = "one", .path = disk.path()});
  TestMachine machine(config);
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "sectors 2048\nwas 0000000012345678\ndisk\n");
  std::uint64_t written = 0;
  std::ifstream file(disk.path(), std::ios::binary);
  file.seekg(4096 + 8 * 511);
  file.read(reinterpret_cast<char*>(&written), sizeof written);
  EXPECT_EQ(written, 0x0123456789abcdefU + 511);
}

TEST_F(KvmMachineTest, SendsAndReceivesFrames) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets), 0);
  const UniqueFd machineSide(sockets[0]);
  UniqueFd peer(sockets[1]);
  auto config = guest("network");
  config.networks.push_back(
      {.mac = "52:54:00:12:34:56", .backend = DatagramNetwork{.path = "", .localPath = "", .fd = machineSide.get()}});
  TestMachine machine(config);
  ASSERT_TRUE(machine.built());
  machine.start();
  for (int round = 0; round < 3; round++) {
    std::array<std::uint8_t, 2048> frame;
    const ssize_t length = ::recv(peer.get(), frame.data(), frame.size(), 0);
    ASSERT_EQ(length, 60);
    EXPECT_EQ(frame[6], 0x52);
    EXPECT_EQ(frame[40 - 12], round);
    ASSERT_EQ(::send(peer.get(), frame.data(), 60, 0), 60);
  }
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "network\n");
}

TEST_F(KvmMachineTest, SignalsInterruptsByMessage) {
  TestMachine machine(guest("entropy"));
  ASSERT_TRUE(machine.built());
  machine.start();
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "entropy\n");
}

TEST_F(KvmMachineTest, HasAVirtioConsole) {
  auto config = guest("virtio-console console=hvc0");
  config.console = true;
  TestMachine machine(config);
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("listening\n"));
  constexpr std::string_view kText = "to hvc0\n";
  ASSERT_TRUE(machine->writeConsole(std::as_bytes(std::span(kText))));
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "listening\nto hvc0\n");
}

TEST_F(KvmMachineTest, TakesBackFreePages) {
  auto config = guest("balloon");
  config.balloon = true;
  TestMachine machine(config);
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine.observer().waitForConsole("balloon\n")) << machine.observer().console();
  EXPECT_EQ(machine->statistics().balloonBytes, 7U * 4096);
}

class SnapshotTest : public KvmMachineTest {
 protected:
  SnapshotTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tshyve-snapshot-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~SnapshotTest() override { std::filesystem::remove_all(folder_); }
  std::string folder_;
};

std::size_t lines(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

TEST_F(SnapshotTest, GoesOnWhereItWasSaved) {
  std::string before;
  {
    TestMachine machine(guest("count", 2));
    ASSERT_TRUE(machine.built());
    machine.start();
    ASSERT_TRUE(machine.observer().waitForConsole("n20\n"));
    EXPECT_FALSE(machine->save(folder_));
    ASSERT_TRUE(machine->pause());
    const auto saved = machine->save(folder_);
    ASSERT_TRUE(saved) << saved.error().message;
    before = machine.observer().console();
  }
  for (int round = 0; round < 3; round++) {
    TestMachine machine(guest("count", 2), folder_);
    ASSERT_TRUE(machine.built());
    machine.start();
    const std::size_t next = lines(before) + 1;
    ASSERT_TRUE(machine.observer().waitForConsole("n" + std::to_string(next + 5) + "\n"));
    // Byte for byte what would have come next.
    std::string expected;
    for (std::size_t number = 1; number < next + 5; number++) expected += "n" + std::to_string(number) + "\n";
    EXPECT_EQ((before + machine.observer().console()).substr(0, expected.size()), expected);
    ASSERT_TRUE(machine->pause());
    // Saving over the snapshot one runs from.
    const auto saved = machine->save(folder_);
    ASSERT_TRUE(saved) << saved.error().message;
    before += machine.observer().console();
  }
}

TEST_F(SnapshotTest, DevicesGoOn) {
  std::size_t seen = 0;
  for (int round = 0; round < 2; round++) {
    const std::optional<std::string> from = round == 0 ? std::nullopt : std::optional(folder_);
    TestMachine machine(guest("entropy-for-ever"), from);
    ASSERT_TRUE(machine.built());
    machine.start();
    // The guest does not wait for us: how far it came before the pause is only known then.
    const std::string wanted = "n" + std::to_string(seen + 10) + "\n";
    ASSERT_TRUE(machine.observer().waitForConsole(wanted)) << wanted << machine.observer().console();
    ASSERT_TRUE(machine->pause());
    const auto saved = machine->save(folder_);
    ASSERT_TRUE(saved) << saved.error().message;
    seen += lines(machine.observer().console());
  }
}

TEST_F(SnapshotTest, KeepsWaitingForInterrupts) {
  {
    TestMachine machine(guest("button"));
    ASSERT_TRUE(machine.built());
    machine.start();
    ASSERT_TRUE(machine.observer().waitForConsole("waiting\n"));
    ASSERT_TRUE(machine->pause());
    ASSERT_TRUE(machine->save(folder_));
  }
  TestMachine machine(guest("button"), folder_);
  ASSERT_TRUE(machine.built());
  machine.start();
  ASSERT_TRUE(machine->pressPowerButton());
  machine.expectExit(ExitReason::kShutdown);
  EXPECT_EQ(machine.observer().console(), "button\n");
}

TEST_F(SnapshotTest, RefusesWhatDoesNotFit) {
  {
    TestMachine machine(guest("count"));
    ASSERT_TRUE(machine.built());
    machine.start();
    ASSERT_TRUE(machine->pause());
    ASSERT_TRUE(machine->save(folder_));
  }
  Observer observer;
  EXPECT_FALSE(Machine::restore(guest("count", 2), folder_, observer.sink()));
  auto larger = guest("count");
  larger.memoryBytes *= 2;
  EXPECT_FALSE(Machine::restore(larger, folder_, observer.sink()));
  EXPECT_FALSE(Machine::restore(guest("count"), folder_ + "/none", observer.sink()));
}

}  // namespace
}  // namespace tshyve
